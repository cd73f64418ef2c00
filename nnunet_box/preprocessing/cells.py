"""Linear interpolation between the planes of two grids, only where it can tell something.

A target voxel lies in a cell of the source grid: between 8 source voxels, its corners, fewer along an axis taken
nearest. Where a label map is the same at all corners, so it is in the cell; only in mixed cells need the corners be
weighed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_box.preprocessing.axis_weights import Neighbours

Voxel = TypeVar("Voxel", bound=np.generic)
VOXELS_AT_ONCE = 16_384
"""Voxels of mixed cells worked on at once, so that all there is of them stays in the cache."""


@dataclass(frozen=True)
class Corners:
    """Some voxels (n,) of a target plane.

    where: in the flat plane. rows, columns: the same in two axes. indices: each corner's place in the flat source
    plane. shares: each corner's weight; they sum to 1.
    """

    where: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    indices: tuple[NDArray[np.intp], ...]
    shares: tuple[NDArray[np.float32], ...]


def mixed_cells(plane: NDArray[np.uint8], y: Neighbours, x: Neighbours) -> NDArray[np.bool_]:
    """Whether labels (Y, X) differ between a voxel and its next ones along the interpolated axes, the diagonal one
    included.
    """
    mixed = np.zeros(plane.shape, dtype=np.bool_)
    if x.interpolates:
        np.not_equal(plane[:, 1:], plane[:, :-1], out=mixed[:, :-1])
    if y.interpolates:
        unlike = plane[1:] != plane[:-1]
        mixed[:-1] |= unlike
        if x.interpolates:
            mixed[:-1, :-1] |= unlike[:, 1:]
    return mixed


def spread(plane: NDArray[Voxel], y: Neighbours, x: Neighbours) -> NDArray[Voxel]:
    """What (Y, X) holds at the first corner of each target voxel's cell, on the target's plane."""
    return plane.take(x.low, axis=1).take(y.low, axis=0)


def corners_of(mixed: NDArray[np.bool_], y: Neighbours, x: Neighbours, columns: int) -> Iterator[Corners]:
    """The voxels marked in a target plane, some at once. columns: voxels of the source plane along X."""
    everywhere = np.flatnonzero(mixed)
    for start in range(0, len(everywhere), VOXELS_AT_ONCE):
        where = everywhere[start : start + VOXELS_AT_ONCE]
        row = where // mixed.shape[1]
        column = where - row * mixed.shape[1]
        rows = _along(row, y)
        in_columns = _along(column, x)
        indices = tuple(first * columns + then for first, _ in rows for then, _ in in_columns)
        shares = tuple(first * then for _, first in rows for _, then in in_columns)
        yield Corners(where, row, column, indices, shares)


def _along(positions: NDArray[np.intp], axis: Neighbours) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """The neighbours of target positions and their shares: one where the axis is not interpolated, else two."""
    if not axis.interpolates:
        return [(axis.low.take(positions), np.ones(len(positions), dtype=np.float32))]
    share = axis.share.take(positions)
    return [(axis.low.take(positions), 1 - share), (axis.high.take(positions), share)]
