"""Surface distances beside surface-distance: ``python benchmarks/distances.py [--size 160 512 512] [--medpy]``.

Peers: ``pip install surface-distance medpy``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from surface_distance import metrics as peer

from nnunet_box.evaluation.metrics import surface_distances
from nnunet_box.evaluation.surfels import surfel_distances

Mask = NDArray[np.bool_]
SPACING = (2.5, 0.8, 0.8)
TOLERANCE_MM = 2.0


def organ(shape: tuple[int, int, int], shift: int, seed: int) -> Mask:
    """A ball as large as a liver with a bumpy surface, ``shift`` voxels off the middle along each axis."""
    bumps = np.random.default_rng(seed).normal(size=[max(2, size // 16) for size in shape])
    bumps = ndimage.zoom(bumps, np.divide(shape, bumps.shape), order=1)
    axes = [(np.arange(size) - size // 2 - shift) * step for size, step in zip(shape, SPACING, strict=True)]
    z, y, x = np.ix_(*axes)
    return np.sqrt(z**2 + y**2 + x**2) + 4 * bumps < 0.2 * shape[2] * SPACING[2]


def ours(prediction: Mask, reference: Mask) -> list[float]:
    """HD95, ASSD, surface Dice."""
    distances = surfel_distances(prediction, reference, SPACING)
    return [distances.hausdorff(95), distances.assd, distances.surface_dice(TOLERANCE_MM)]


def theirs(prediction: Mask, reference: Mask) -> list[float]:
    """The same by surface-distance."""
    distances = peer.compute_surface_distances(reference, prediction, SPACING)
    return [
        peer.compute_robust_hausdorff(distances, 95),
        float(np.mean(peer.compute_average_surface_distance(distances))),
        peer.compute_surface_dice_at_tolerance(distances, TOLERANCE_MM),
    ]


def ours_on_voxels(prediction: Mask, reference: Mask) -> list[float]:
    """HD95, ASSD between border voxels."""
    distances = surface_distances(prediction, reference, SPACING)
    return [distances.hausdorff_95, distances.assd]


def medpy(prediction: Mask, reference: Mask) -> list[float]:
    """The same by medpy."""
    from medpy.metric import binary

    return [binary.hd95(prediction, reference, SPACING), binary.assd(prediction, reference, SPACING)]


def compare(
    name: str, mine: Callable[..., list[float]], other: Callable[..., list[float]], pair: tuple[Mask, Mask], turns: int
) -> dict[str, Any]:
    """Both in turns; medians, their ratio, and how far the results are apart."""
    seconds: dict[Callable[..., list[float]], list[float]] = {mine: [], other: []}
    values = {}
    for _ in range(turns):
        for function, taken in seconds.items():
            started = time.perf_counter()
            values[function] = function(*pair)
            taken.append(time.perf_counter() - started)
    own, peers = (statistics.median(seconds[function]) for function in (mine, other))
    return {
        "what": name,
        "seconds": round(own, 3),
        "peer_seconds": round(peers, 3),
        "ratio": round(peers / own, 2),
        "largest_difference": float(np.abs(np.subtract(values[mine], values[other])).max()),
        "values": [round(value, 6) for value in values[mine]],
    }


def main() -> None:
    """Print one JSON line a peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 512, 512), help="voxels, Z Y X")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--medpy", action="store_true", help="medpy as well: it does not crop and takes minutes")
    arguments = parser.parse_args()
    pair = organ(tuple(arguments.size), 0, 0), organ(tuple(arguments.size), 2, 1)
    print(json.dumps(compare("HD95, ASSD, surface Dice of surfels", ours, theirs, pair, arguments.turns)))
    if arguments.medpy:
        print(json.dumps(compare("HD95, ASSD of border voxels", ours_on_voxels, medpy, pair, 1)))


if __name__ == "__main__":
    main()
