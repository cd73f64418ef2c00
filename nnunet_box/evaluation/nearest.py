"""Distances between two sets of voxels, exact where they lie near each other.

A distance transform measures every voxel of a box; a metric needs the few that lie on a surface, and most of those lie
near the other surface. So lines are measured first, along the axis with the finest spacing, then the lines around each
voxel, the nearest first, until no line further away can hold anything nearer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Spacing = tuple[float, float, float]

LINES_AROUND = 24
"""How far, in lines along each of the two other axes, is looked for before a distance transform takes over."""

STEPS_PER_VOXEL = 1
"""Looks at a line that are spent for each voxel of the box: as many take about as long as a distance transform."""

FREE_STEPS = 1 << 22
"""As many more for any box, however small."""

STEPS_PER_LINE = 1000
"""What turning to the next line costs beside the voxels that look at it."""


def nearest_mm(voxels: NDArray[np.bool_], targets: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Distance in mm from each of ``voxels`` to the nearest of ``targets``, in C order; infinite without targets.

    Both are masks (Z, Y, X) of one box with ``spacing`` (Z, Y, X) in mm. Distances are computed in 64 bits from whole
    steps along the axes, as scipy's transform does, so that "within a tolerance" has the answer of the scorers that use
    it. What lies so far away that the transform of ``edt`` is faster has that one's 32 bits.
    """
    where = np.nonzero(voxels)
    result: NDArray[np.float64] = np.full(where[0].size, np.inf)
    if not targets.any() or not result.size:
        return result
    line = max(range(3), key=lambda axis: (-spacing[axis], axis))
    first, second = (axis for axis in range(3) if axis != line)
    squares = [(np.arange(size) * step) ** 2 for size, step in zip(targets.shape, spacing, strict=True)]
    along = np.append(squares[line], np.inf)
    steps = _steps_along(np.moveaxis(targets, line, 0))
    index = np.ravel_multi_index((where[line], where[first] + LINES_AROUND, where[second] + LINES_AROUND), steps.shape)
    flat, left, best = steps.ravel(), np.arange(result.size), result.copy()
    lines, reached = _lines_around(squares[first], squares[second])
    budget = FREE_STEPS + STEPS_PER_VOXEL * targets.size
    settled = -1.0
    for around, by_first, by_second in lines:
        if around > settled:
            settled = around
            still = best > around
            result[left] = best
            left, best, index = left[still], best[still], index[still]
            if not left.size or budget < 0:
                reached = around
                break
        budget -= left.size + STEPS_PER_LINE
        square: list[Any] = [along[flat[index + by_first * steps.shape[2] + by_second]]] * 3
        square[first], square[second] = squares[first][abs(by_first)], squares[second][abs(by_second)]
        # In the order of the axes, as scipy adds: the last bit decides what lies exactly at a tolerance.
        np.minimum(best, square[0] + square[1] + square[2], out=best)
    result[left] = best
    far = left[best > reached]
    np.sqrt(result, out=result)
    if far.size:
        result[far] = _transform(targets, spacing)[tuple(axis[far] for axis in where)]
    return result


def _steps_along(targets: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Voxels along the first axis to the nearest target in the same line; that axis's length in lines without one.

    Without one are also ``LINES_AROUND`` lines on each side of the box, so that who looks around need not look out.
    """
    size, margin = len(targets), LINES_AROUND
    steps = np.full((size, *(other + 2 * margin for other in targets.shape[1:])), size, dtype=np.uint16)
    inner = steps[:, margin:-margin, margin:-margin]
    before = inner[0].copy()
    for plane, found in zip(inner, targets, strict=True):
        np.add(before, 1, out=before)
        before[found] = 0
        plane[...] = before
    before[...] = size
    for plane in inner[::-1]:
        np.minimum(plane, before + 1, out=plane)
        before = plane
    return np.minimum(steps, size, out=steps)


def _lines_around(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[list[tuple[float, int, int]], float]:
    """Lines around a voxel as (squared distance in mm2, offsets along both axes), the nearest first; and the squared
    distance up to which none is missing.

    first, second: squared distance of 0, 1, ... voxels along either axis, as long as the box.
    """
    reached = min(float(axis[LINES_AROUND + 1]) if axis.size > LINES_AROUND + 1 else np.inf for axis in (first, second))
    lines = [
        (float(square + other), a * by_first, b * by_second)
        for by_first, square in enumerate(first[: LINES_AROUND + 1])
        for by_second, other in enumerate(second[: LINES_AROUND + 1])
        if square + other < reached
        for a in (1, -1)[: by_first + 1]
        for b in (1, -1)[: by_second + 1]
    ]
    return sorted(lines), reached


def _transform(targets: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float32]:
    import edt

    distances: NDArray[np.float32] = edt.edt(
        np.ascontiguousarray(~targets), anisotropy=spacing, black_border=False, parallel=1
    )
    return distances
