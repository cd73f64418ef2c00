"""Planes of a volume on another grid: products with narrow bands of one small matrix an axis (``axis_weights.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.preprocessing.axis_weights import Band, bands, neighbours

SMALL_PRODUCT = 500_000
"""Multiplications of one product of matrices. OpenBLAS does up to 2^19 in the calling thread; for more it wakes others,
and to await those costs more than they bring, twenty times as much where the cores have other work.
"""

Shape = tuple[int, int, int]
Planes = NDArray[np.floating[Any]] | NDArray[np.bool_]


def resample_planes(
    volume: Planes,
    target: Shape,
    orders: tuple[int, int, int],
    first: int,
    out: NDArray[np.float32],
    within_planes: bool = False,
) -> None:
    """Planes of (Z, Y, X) resampled to ``target``, from its plane ``first`` on, into ``out`` (planes, Y, X).

    orders: 0, 1 or 3 along each axis. within_planes: a plane interpolated along Y and X is cut to the range of the one
    it comes from, before Z.
    """
    depth, rows, columns = volume.shape
    along_y = bands(rows, target[1], orders[1]) if rows != target[1] else ()
    along_x = bands(columns, target[2], orders[2]) if columns != target[2] else ()
    in_plane = _InPlane((rows, columns), (target[1], target[2]), along_y, along_x, within_planes)
    if orders[0] == 0 or depth == target[0]:
        nearest = neighbours(depth, target[0], 0).low[first : first + len(out)]
        for index, plane in enumerate(nearest):
            if index and plane == nearest[index - 1]:
                out[index] = out[index - 1]
            else:
                in_plane(volume[plane], out[index])
        return
    between = list(_bands_of(bands(depth, target[0], orders[0]), first, len(out)))
    if (target[0] < depth and not within_planes) or not (along_y or along_x):
        _between_then_in_planes(volume, between, in_plane, out)
    else:
        _in_planes_then_between(volume, between, in_plane, out)


def _bands_of(along: Sequence[Band], first: int, count: int) -> Iterator[Band]:
    """What ``along`` says of ``count`` target planes from ``first`` on; its targets are counted from there."""
    for band in along:
        start, stop = max(band.target.start, first), min(band.target.stop, first + count)
        if start < stop:
            rows = slice(start - band.target.start, stop - band.target.start)
            yield Band(slice(start - first, stop - first), band.source, band.weights[rows])


class _InPlane:
    """Resamples one plane after another; the array between its two products is kept."""

    def __init__(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        along_y: Sequence[Band],
        along_x: Sequence[Band],
        within: bool,
    ) -> None:
        self.along_y, self.along_x, self.within = along_y, along_x, within
        # The axis that grows less goes first, so that the second product has less to do.
        self.y_first = target[0] * source[1] <= target[1] * source[0]
        both = bool(along_y and along_x)
        shape = (target[0], source[1]) if self.y_first else (source[0], target[1])
        self.between = np.empty(shape if both else (0, 0), dtype=np.float32)

    def __call__(self, plane: Planes, out: NDArray[np.float32]) -> None:
        plane = np.ascontiguousarray(plane, dtype=np.float32)
        if self.along_y and self.along_x:
            if self.y_first:
                _along_y(plane, self.along_y, self.between)
                _along_x(self.between, self.along_x, out)
            else:
                _along_x(plane, self.along_x, self.between)
                _along_y(self.between, self.along_y, out)
        elif self.along_y:
            _along_y(plane, self.along_y, out)
        elif self.along_x:
            _along_x(plane, self.along_x, out)
        else:
            out[...] = plane
        if self.within:
            np.clip(out, plane.min(), plane.max(), out=out)


def _along_y(plane: NDArray[np.float32], along: Sequence[Band], out: NDArray[np.float32]) -> None:
    for band in along:
        rows, source = out[band.target], plane[band.source]
        for columns in _pieces(rows.shape[1], band):
            np.matmul(band.weights, source[:, columns], out=rows[:, columns])


def _along_x(plane: NDArray[np.float32], along: Sequence[Band], out: NDArray[np.float32]) -> None:
    for band in along:
        columns, source = out[:, band.target], plane[:, band.source]
        for rows in _pieces(len(plane), band):
            np.matmul(source[rows], band.weights.T, out=columns[rows])


def _pieces(length: int, band: Band) -> Iterator[slice]:
    """Ranges of ``length`` rows or columns whose product with a band's weights is small for BLAS."""
    step = max(1, SMALL_PRODUCT // band.weights.size)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _between_then_in_planes(
    volume: Planes, between: Sequence[Band], in_plane: _InPlane, out: NDArray[np.float32]
) -> None:
    """For fewer planes than before: between source planes first."""
    for band in between:
        planes = np.ascontiguousarray(volume[band.source], dtype=np.float32)
        between_planes = np.empty((len(band.weights), *volume.shape[1:]), dtype=np.float32)
        _along_y(
            planes.reshape(len(planes), -1),
            [Band(slice(None), slice(None), band.weights)],
            between_planes.reshape(len(between_planes), -1),
        )
        for plane, result in zip(between_planes, out[band.target], strict=True):
            in_plane(plane, result)


def _in_planes_then_between(
    volume: Planes, between: Sequence[Band], in_plane: _InPlane, out: NDArray[np.float32]
) -> None:
    """For more planes than before: each source plane once, kept in a ring as long as a band needs it."""
    places = max(band.source.stop - band.source.start for band in between)
    ring = np.zeros((places, *out.shape[1:]), dtype=np.float32)
    following = between[0].source.start
    for band in between:
        for plane in range(following, band.source.stop):
            in_plane(volume[plane], ring[plane % places])
        following = max(following, band.source.stop)
        weights = np.zeros((len(band.weights), places), dtype=np.float32)
        weights[:, np.arange(band.source.start, band.source.stop) % places] = band.weights
        in_ring = [Band(slice(None), slice(None), weights)]
        _along_y(ring.reshape(places, -1), in_ring, out[band.target].reshape(len(weights), -1))
