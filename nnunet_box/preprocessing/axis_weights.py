"""Interpolation along one axis: as bands of a weights' matrix, and as two neighbours where it is linear or nearest.

Voxel centres are aligned and edges extended. A cubic B-spline's prefilter and gather are linear, hence a matrix of
target by source voxels; its weights fade fast beside the diagonal, so that narrow bands of it hold all that float32 can
tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SPLINE_MARGIN = 12
"""Edge voxels put on each side before the spline prefilter; its impulse response falls below 1e-6 within them."""
BAND_ROWS = 32
"""Target voxels of a band: more waste products with zeros, fewer waste calls."""
NEGLIGIBLE = 1e-9
"""Weights below this, at both ends of a row, are left out: all of them together are less than float32 can tell."""


@dataclass(frozen=True)
class Band:
    """``weights`` (target voxels, source voxels) of the target voxels ``target`` from the source voxels ``source``."""

    target: slice
    source: slice
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """The source voxels ``low`` and ``high`` that each target voxel lies between, and the ``share`` of ``high``."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float32]

    @property
    def interpolates(self) -> bool:
        """Whether any target voxel lies between two source voxels."""
        return bool(self.share.any())


def axis_matrix(source: int, target: int, order: int) -> NDArray[np.float32]:
    """Weights (target, source) of interpolation of ``order`` 0, 1 or 3 along one axis."""
    if source == target:
        return np.eye(source, dtype=np.float32)
    if order == 3:
        coefficients = _spline_coefficients(np.pad(np.eye(source), ((SPLINE_MARGIN,) * 2, (0, 0)), mode="edge"))
        positions = _positions(source, target) + SPLINE_MARGIN
        base = np.floor(positions).astype(np.intp)
        matrix = np.zeros((target, source))
        for tap, weights in enumerate(_cubic_weights(positions - base), start=-1):
            matrix += weights[:, None] * coefficients[np.clip(base + tap, 0, len(coefficients) - 1)]
        return matrix.astype(np.float32)
    between = neighbours(source, target, order)
    result = np.zeros((target, source), dtype=np.float32)
    rows = np.arange(target)
    result[rows, between.low] = 1 - between.share
    result[rows, between.high] += between.share
    return result


@lru_cache(maxsize=256)
def bands(source: int, target: int, order: int) -> tuple[Band, ...]:
    """``axis_matrix`` in bands of ``BAND_ROWS`` target voxels without the source voxels that weigh nothing."""
    matrix = axis_matrix(source, target, order)
    found = []
    for start in range(0, target, BAND_ROWS):
        rows = matrix[start : start + BAND_ROWS]
        used = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(axis=0))
        span = slice(int(used[0]), int(used[-1]) + 1)
        weights = rows[:, span].copy()
        weights.setflags(write=False)
        found.append(Band(slice(start, start + len(rows)), span, weights))
    return tuple(found)


@lru_cache(maxsize=256)
def neighbours(source: int, target: int, order: int) -> Neighbours:
    """Where linear (1) or nearest (0) interpolation along one axis reads; of nearest ``low`` and ``high`` are the same.

    Raises
    ------
    ValueError: another order.
    """
    if order not in (0, 1):
        raise ValueError(f"interpolation order {order}: 0, 1 or 3")
    if source == target:
        low, share = np.arange(source, dtype=np.float64), np.zeros(source)
    elif order == 0:
        low, share = np.clip(np.floor(_positions(source, target) + 0.5), 0, source - 1), np.zeros(target)
    else:
        positions = np.clip(_positions(source, target), 0.0, source - 1.0)
        low = np.floor(positions)
        share = positions - low
    first = low.astype(np.intp)
    result = Neighbours(first, np.minimum(first + 1, source - 1) if order else first, share.astype(np.float32))
    for array in (result.low, result.high, result.share):
        array.setflags(write=False)
    return result


def _positions(source: int, target: int) -> NDArray[np.float64]:
    """Centres of the target voxels in source voxels."""
    positions: NDArray[np.float64] = (np.arange(target, dtype=np.float64) + 0.5) * (source / target) - 0.5
    return positions


def _spline_coefficients(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic B-spline coefficients (n, m) along the first axis, n at least 2, with mirrored edges.

    The recursive filter of Unser, IEEE Signal Processing Magazine 16(6), 1999, as ``scipy.ndimage.spline_filter1d``.
    """
    count, pole = len(samples), np.sqrt(3.0) - 2
    powers = pole ** np.arange(count)
    result: NDArray[np.float64] = samples * ((1 - pole) * (1 - 1 / pole))
    # The mirrored signal repeats after 2 (n - 1) samples; its geometric series is summed in closed form.
    once = powers[1:-1] + powers[-1] * powers[-2:0:-1]
    result[0] = (result[0] + powers[-1] * result[-1] + once @ result[1:-1]) / (1 - powers[-1] ** 2)
    for row in range(1, count):
        result[row] += pole * result[row - 1]
    result[-1] = (pole * result[-2] + result[-1]) * pole / (pole**2 - 1)
    for row in range(count - 2, -1, -1):
        result[row] = pole * (result[row + 1] - result[row])
    return result


def _cubic_weights(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic B-spline at distances 1+t, t, 1-t, 2-t for the fraction ``t`` (n,); returns (4, n)."""
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3]) / 6
