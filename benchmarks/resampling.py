"""Resampling beside scikit-image's ``resize``: ``python benchmarks/resampling.py [--size 160 320 320]``."""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from nnunet_box.preprocessing.resample import resample_image, resample_labels


def measure(function: Callable[[], NDArray[Any]]) -> tuple[float, int, NDArray[Any]]:
    """Seconds, peak bytes allocated, result."""
    tracemalloc.start()
    started = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak, result


def compare(
    name: str, ours: Callable[[], NDArray[Any]], peer: Callable[[], NDArray[Any]], turns: int
) -> dict[str, Any]:
    """Both in turns; medians and their ratio."""
    runs = [(measure(ours), measure(peer)) for _ in range(turns)]
    mine = statistics.median(run[0][0] for run in runs)
    theirs = statistics.median(run[1][0] for run in runs)
    apart = np.abs(runs[-1][0][2].astype(np.float64) - runs[-1][1][2])
    return {
        "what": name,
        "seconds": round(mine, 3),
        "peer_seconds": round(theirs, 3),
        "ratio": round(theirs / mine, 2),
        "peak_mb": round(runs[-1][0][1] / 1e6),
        "peer_peak_mb": round(runs[-1][1][1] / 1e6),
        "largest_difference": float(apart.max()),
        "share_different": float((apart > 1e-2).mean()),
    }


def peer_labels(labels: NDArray[np.uint8], target: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Label by label over the whole volume, as nnU-Net of 2019 does it."""
    result = np.zeros(target, dtype=np.uint8)
    for value in np.unique(labels):
        share = resize((labels == value).astype(float), target, order=1, mode="edge", anti_aliasing=False)
        result[share >= 0.5] = value
    return result


def main() -> None:
    """Print one JSON line for images and one for labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(100, 256, 256), help="source voxels, Z Y X")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    z, y, x = arguments.size
    target = (round(z * 1.3), round(y * 0.8), round(x * 0.8))
    random = np.random.default_rng(0)
    coarse = random.normal(size=(1, z // 4, y // 4, x // 4)).astype(np.float32)
    image = resample_image(coarse, (z, y, x), (3, 3, 3))
    labels = np.digitize(image[0], [1.2, 1.6, 2.0]).astype(np.uint8)
    print(
        json.dumps(
            compare(
                "image, order 3",
                lambda: resample_image(image, target, (3, 3, 3))[0],
                lambda: resize(image[0].astype(float), target, order=3, mode="edge", anti_aliasing=False),
                arguments.turns,
            )
        )
    )
    print(
        json.dumps(
            compare(
                "labels, order 1",
                lambda: resample_labels(labels, target, (1, 1, 1)),
                lambda: peer_labels(labels, target),
                arguments.turns,
            )
        )
    )


if __name__ == "__main__":
    main()
