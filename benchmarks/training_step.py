"""One training step on a CPU, ours and torch's defaults: ``python benchmarks/training_step.py``.

The memory format that training chooses beside the other one, and the orthogonal step beside torch's own Newton-Schulz
rounds on the whole matrix (``torch.optim.Muon``, in its bfloat16).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch
from training.hippocampus import plan

from nnunet_box.network.accurate_norm import accurate_norm
from nnunet_box.network.unet import NORM_EPS, UNet, for_device
from nnunet_box.planning.plan import Configuration
from nnunet_box.training.loss import segmentation_loss
from nnunet_box.training.muon import orthogonalised

TURNS = 5
SLICES = Configuration(
    patch_size=(256, 224),
    batch_size=2,
    num_pool_per_axis=(5, 5),
    pool_kernel_sizes=((2, 2),) * 5,
    conv_kernel_sizes=((3, 3),) * 6,
    spacing=(10.0, 1.5625, 1.5625),
    median_shape=(9, 230, 214),
    in_plane_augmentation=False,
    axis_order=(0, 1, 2),
)
VOLUME = plan().configurations["3d_fullres"].model_copy(update={"batch_size": 2})


def in_turns(ours: Callable[[], object], peer: Callable[[], object]) -> dict[str, float]:
    """Median seconds of both and their ratio; a first turn warms up and does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 1):
        for index, call in enumerate((ours, peer)):
            started = time.perf_counter()
            call()
            if turn:
                seconds[index].append(time.perf_counter() - started)
    mine, theirs = (statistics.median(values) for values in seconds)
    return {"seconds": round(mine, 4), "peer_seconds": round(theirs, 4), "ratio": round(theirs / mine, 2)}


def memory_format(configuration: Configuration) -> dict[str, float]:
    """Forward and backward of two patches, in the format training chooses and in the other."""
    cpu = torch.device("cpu")
    image = torch.randn(2, 1, *configuration.patch_size)
    labels = torch.randint(0, 3, (2, *configuration.patch_size))
    chosen = for_device(UNet(configuration, 1, 3), cpu, training=True)
    other = UNet(configuration, 1, 3)
    kernel = chosen.head.weight
    last = torch.channels_last if kernel.ndim == 4 else torch.channels_last_3d
    if not chosen.encoder[1][0][0].weight.is_contiguous(memory_format=last):
        other = for_device(other, cpu)

    def step(network: UNet) -> None:
        segmentation_loss(network(image), labels, False).backward()

    return in_turns(lambda: step(chosen), lambda: step(other))


def norm() -> dict[str, float]:
    """Value and derivative of the norm of two patches of 96x128x128 with 32 maps, channels last."""
    image = torch.randn(2, 32, 96, 128, 128).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    weight, bias = torch.ones(32), torch.zeros(32)
    gradient = torch.randn_like(image)
    return in_turns(
        lambda: accurate_norm(image, weight, bias, NORM_EPS).backward(gradient),
        lambda: torch.nn.functional.group_norm(image, 32, weight, bias, NORM_EPS).backward(gradient),
    )


def orthogonal_step() -> dict[str, float]:
    """A decoder's kernel of 480 by 960 x 9; the peer's step also moves the weights, which is nothing beside it."""
    matrix = torch.randn(480, 8640)
    weights = torch.nn.Parameter(torch.randn(480, 8640))
    weights.grad = matrix.clone()
    peer = torch.optim.Muon([weights])
    return in_turns(lambda: orthogonalised(matrix), peer.step)


def main() -> None:
    """One line for each comparison."""
    for what, result in (
        ("step of the 2D network, contiguous against channels last", memory_format(SLICES)),
        ("step of the 3D network, channels last against contiguous", memory_format(VOLUME)),
        ("norm of 2 x 32 x 96 x 128 x 128 with its derivative, against GroupNorm", norm()),
        ("orthogonal step of a 480 x 8640 kernel", orthogonal_step()),
    ):
        print(json.dumps({"what": what, **result}), flush=True)


if __name__ == "__main__":
    main()
