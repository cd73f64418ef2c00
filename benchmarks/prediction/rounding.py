"""How near both runtimes are to float64 on windows of a drawn CT, with a network of random weights.

``PYTHONPATH=benchmarks python -m prediction.rounding``
"""

from __future__ import annotations

import copy
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prediction.models import CT, FILE, write_image
from prediction.ours import imported

WINDOWS = {"a corner, most of it air": (0, 0, 0), "the middle of the body": (52, 96, 96)}


def main() -> None:
    """A line for each window and runtime."""
    from nnunet_box.bundle import load_bundle
    from nnunet_box.dataset.volumes import read_volume
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.ensemble import prepare_members

    with tempfile.TemporaryDirectory() as folder:
        place = imported(CT, Path(folder))
        volume = read_volume(write_image(CT, Path(folder) / "in" / FILE))
        bundle = load_bundle(place)
        (member,) = bundle.ensemble(place)
        runtimes: dict[str, Any] = {
            name: network_loader(bundle.plan, name, "cpu")[0](member, member.weights[0])
            for name in ("torch", "openvino")
        }
    image = volume.array[None].astype(np.float32)
    grid = prepare_members(image, volume.geometry.spacing, bundle.plan, [member])[member.configuration].image
    exact = in_float64(runtimes["torch"].network)
    for words, start in WINDOWS.items():
        inside = tuple(slice(first, first + edge) for first, edge in zip(start, CT.patch, strict=True))
        window = np.ascontiguousarray(grid[(None, slice(None), *inside)])
        with torch.inference_mode():
            logits = exact(torch.from_numpy(window).double()).numpy()
        for name, runtime in runtimes.items():
            found = runtime(window)
            error, equal = np.abs(found - logits).mean(), np.mean(found.argmax(1) == logits.argmax(1))
            print(f"{words}, {name}: logits off by {error:.1e} on average, {100 * equal:.3f} % of labels as in float64")


def in_float64(network: torch.nn.Module) -> torch.nn.Module:
    """A copy whose convolutions are sums of shifted matrix products: torch's own in float64 take over 20 GB."""
    exact = copy.deepcopy(network).double()
    for module in exact.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = _Shifted(module)  # type: ignore[method-assign]
    return exact


class _Shifted:
    """A convolution, offset by offset."""

    def __init__(self, module: torch.nn.Conv3d) -> None:
        self.module = module

    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        module = self.module
        assert isinstance(module.padding, tuple) and module.bias is not None
        pads = [size for padding in reversed(module.padding) for size in (padding, padding)]
        padded = torch.nn.functional.pad(volume[0], pads)
        shape = [
            (length + 2 * padding - edge) // step + 1
            for length, padding, edge, step in zip(
                volume.shape[2:], module.padding, module.kernel_size, module.stride, strict=True
            )
        ]
        total = module.bias[:, None].expand(-1, int(np.prod(shape))).clone()
        for offset in product(*(range(edge) for edge in module.kernel_size)):
            places = tuple(
                slice(first, first + step * (length - 1) + 1, step)
                for first, step, length in zip(offset, module.stride, shape, strict=True)
            )
            total.addmm_(module.weight[(..., *offset)], padded[(slice(None), *places)].reshape(len(padded), -1))
        return total.reshape(1, -1, *shape)


if __name__ == "__main__":
    main()
