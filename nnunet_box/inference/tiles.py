"""Where the sliding window stops, and how much each stop counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

SIGMA_SHARE = 1 / 8
"""Standard deviation of the Gaussian weight as a share of the patch (authors' code of April 2019)."""
LEAST_WEIGHT = 1e-3
PEAK_V2 = 10.0


def axis_starts(length: int, edge: int) -> list[int]:
    """First voxels of windows of ``edge`` over ``length`` >= ``edge``, evenly spread, each step at most half the
    window; of a window of one voxel, which cannot overlap, each voxel once.
    """
    if edge == 1:
        return list(range(length))
    if length <= edge:
        return [0]
    count = int(np.ceil((length - edge) / (edge / 2))) + 1
    return [round((length - edge) / (count - 1) * index) for index in range(count)]


def tile_starts(shape: Sequence[int], patch: Sequence[int]) -> list[tuple[int, ...]]:
    """First voxels of all windows, in scan order; neighbours overlap by at least half a patch (paper, Method,
    Inference).
    """
    return list(product(*(axis_starts(length, edge) for length, edge in zip(shape, patch, strict=True))))


def tile_weight(patch: Sequence[int], weighting: str) -> NDArray[np.float32]:
    """Weight of each voxel of a patch: ``gaussian`` (peak 1, sigma an eighth of the patch), ``gaussian-v2`` (nnU-Net
    v2's), or ``plain`` (1 everywhere).
    """
    if weighting == "plain":
        return np.ones(tuple(patch), dtype=np.float32)
    if weighting == "gaussian-v2":
        return _weight_v2(patch)
    if weighting != "gaussian":
        raise ValueError(f"weighting {weighting!r}: gaussian, gaussian-v2 or plain")
    weight = np.ones(tuple(patch), dtype=np.float64)
    for axis, edge in enumerate(patch):
        distance = np.arange(edge) - (edge - 1) / 2
        profile = np.exp(-0.5 * (distance / (edge * SIGMA_SHARE)) ** 2)
        weight *= profile.reshape([-1 if other == axis else 1 for other in range(len(patch))])
    # Corners would weigh 1e-10; where only a corner covers a voxel, float32 sums must not lose it.
    floored: NDArray[np.float32] = np.maximum(weight / weight.max(), LEAST_WEIGHT).astype(np.float32)
    return floored


def _weight_v2(patch: Sequence[int]) -> NDArray[np.float32]:
    """nnU-Net 2.8.1's ``compute_gaussian``: centred on voxel edge // 2, cut after four deviations, peak 10, in half
    precision; where that leaves 0, the least weight there is.
    """
    weight = np.full((1,) * len(patch), PEAK_V2)
    for axis, edge in enumerate(patch):
        sigma = edge * SIGMA_SHARE
        distance = np.arange(edge) - edge // 2
        profile = np.where(abs(distance) <= int(4 * sigma + 0.5), np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
        weight = weight * profile.reshape([-1 if other == axis else 1 for other in range(len(patch))])
    half = weight.astype(np.float16)
    half[half == 0] = half[half > 0].min()
    return half.astype(np.float32)
