"""torch and OpenVINO on the same patches: seconds of both, and how far logits and labels are apart.

``python benchmarks/runtimes.py`` runs a hippocampus-sized and an ACDC-sized 3D patch and ACDC-sized slices, with random
weights; ``--bundle DIR --image FILE`` a trained network on windows of a real image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nnunet_box.bundle import load_bundle
from nnunet_box.cpus import usable_threads
from nnunet_box.dataset.cases import ChannelFile, SourceCase, read_image
from nnunet_box.inference.openvino_runtime import OpenVinoRuntime
from nnunet_box.inference.predictor import Windows, predict_probabilities
from nnunet_box.inference.torch_runtime import TorchRuntime
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Configuration
from nnunet_box.preprocessing.pipeline import prepare_case
from nnunet_box.training.checkpoint import save_weights

FLAT, CUBE = (1, 3, 3), (3, 3, 3)
# As the planner answers for the two data sets.
CONFIGURATIONS = {
    "hippocampus 3d_fullres": Configuration(
        patch_size=(40, 56, 40),
        batch_size=9,
        num_pool_per_axis=(3, 3, 3),
        pool_kernel_sizes=((2, 2, 2),) * 3,
        conv_kernel_sizes=(CUBE,) * 4,
        spacing=(1.0, 1.0, 1.0),
        median_shape=(36, 50, 35),
        in_plane_augmentation=False,
    ),
    "acdc 3d_fullres": Configuration(
        patch_size=(20, 256, 224),
        batch_size=2,
        num_pool_per_axis=(2, 5, 5),
        pool_kernel_sizes=((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)),
        conv_kernel_sizes=(FLAT, *(CUBE,) * 5),
        spacing=(5.0, 1.56, 1.56),
        median_shape=(18, 237, 208),
        in_plane_augmentation=True,
    ),
    "acdc 2d": Configuration(
        patch_size=(256, 224),
        batch_size=58,
        num_pool_per_axis=(6, 5),
        pool_kernel_sizes=((2, 2),) * 5 + ((2, 1),),
        conv_kernel_sizes=((3, 3),) * 7,
        spacing=(5.0, 1.56, 1.56),
        median_shape=(18, 237, 208),
        in_plane_augmentation=True,
        axis_order=(0, 1, 2),
    ),
}


def turns(ours: Callable[[], object], peer: Callable[[], object], count: int) -> tuple[float, float, float, float]:
    """Median wall seconds, then median processor seconds, of both, in turns."""
    walls: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for _ in range(count):
        for index, run in enumerate((ours, peer)):
            wall, used = time.perf_counter(), time.process_time()
            run()
            walls[index].append(time.perf_counter() - wall)
            processor[index].append(time.process_time() - used)
    a, b, c, d = map(statistics.median, (*walls, *processor))
    return a, b, c, d


def report(what: str, measured: tuple[float, float, float, float], **facts: object) -> None:
    """One JSON line."""
    ours, peer, ours_processor, peer_processor = measured
    line = {
        "what": what,
        "seconds": round(ours, 3),
        "peer_seconds": round(peer, 3),
        "ratio": round(peer / ours, 2),
        "processor_seconds": round(ours_processor, 3),
        "peer_processor_seconds": round(peer_processor, 3),
        "processor_ratio": round(peer_processor / ours_processor, 2),
    }
    print(json.dumps(line | facts), flush=True)


def random_weights(count: int, names: list[str]) -> None:
    """One patch, or slice batch, of each configuration."""
    for name in names:
        configuration = CONFIGURATIONS[name]
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "weights.safetensors"
            save_weights(weights, UNet(configuration, 1, 4))
            started = time.process_time()
            ours = OpenVinoRuntime.load(weights, configuration, 1, 4)
            loading = time.process_time() - started
            peer = TorchRuntime.load(weights, configuration, 1, 4, torch.device("cpu"))
        batch = 8 if configuration.dimensions == 2 else 1
        patches = np.random.default_rng(0).normal(size=(batch, 1, *configuration.patch_size)).astype(np.float32)
        found, expected = ours(patches), peer(patches)
        measured = turns(lambda o=ours, p=patches: o(p), lambda o=peer, p=patches: o(p), count)
        report(
            name,
            measured,
            patches=batch,
            load_processor_seconds=round(loading, 2),
            largest_difference=float(np.abs(found - expected).max() / np.abs(expected).max()),
            same_labels=float((found.argmax(1) == expected.argmax(1)).mean()),
        )


def trained(folder: Path, image: Path, count: int) -> None:
    """A bundle's first network on a whole real image, without mirroring."""
    bundle = load_bundle(folder)
    member = bundle.ensemble(folder)[0]
    configuration = bundle.plan.configuration_of(member.configuration)
    voxels, geometry = read_image(SourceCase(image.name, image.name, (ChannelFile(image),)))
    prepared = prepare_case(voxels, geometry.spacing, None, bundle.plan, configuration).image
    classes, inputs = len(bundle.labels), len(bundle.channel_names)
    ours = OpenVinoRuntime.load(member.weights[0], configuration, inputs, classes)
    peer = TorchRuntime.load(member.weights[0], configuration, inputs, classes, torch.device("cpu"))

    def predict(network: OpenVinoRuntime | TorchRuntime) -> np.ndarray:
        return predict_probabilities([network], prepared, Windows(configuration.patch_size, classes, mirroring=False))

    found, expected = predict(ours), predict(peer)
    report(
        f"{bundle.dataset}, {image.name}",
        turns(lambda: predict(ours), lambda: predict(peer), count),
        largest_difference=float(np.abs(found - expected).max()),
        same_labels=float((found.argmax(0) == expected.argmax(0)).mean()),
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", choices=list(CONFIGURATIONS), action="append")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--image", type=Path)
    parsed = parser.parse_args()
    torch.set_num_threads(usable_threads())
    if parsed.bundle is not None:
        trained(parsed.bundle, parsed.image, parsed.turns)
    else:
        random_weights(parsed.turns, parsed.only or list(CONFIGURATIONS))


if __name__ == "__main__":
    main()
