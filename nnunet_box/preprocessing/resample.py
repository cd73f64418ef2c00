"""Resampling plane by plane, each axis by narrow bands of one small matrix (``axis_weights.py``).

An image's planes are two products of matrices with BLAS each, and a third one is what lies between planes. It equals
the tensor-product spline of ``scipy.ndimage.zoom`` with ``grid_mode`` and edge padding, which the authors' code reached
through scikit-image, in float32 and without a padded copy. Labels are interpolated only where unlike ones meet
(``cells.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.preprocessing.axis_weights import Band, Neighbours, bands, neighbours
from nnunet_box.preprocessing.cells import Corners, corners_of, mixed_cells, spread

ANISOTROPY_THRESHOLD = 3.0
TIE = 1e-6
"""Shares closer than this are equal: rounding in float32."""
SLAB_VOXELS = 32_000_000
"""Target voxels worked on at once where every class is resampled everywhere."""

Shape = tuple[int, int, int]
Planes = NDArray[np.floating[Any]] | NDArray[np.bool_]


def resampled_shape(shape: Iterable[int], spacing: Iterable[float], target: Iterable[float]) -> Shape:
    """Voxels (Z, Y, X) after going from ``spacing`` to ``target`` (mm): round(shape * spacing / target), at least 1."""
    z, y, x = (max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, target, strict=True))
    return (z, y, x)


def low_resolution_axis(spacing: tuple[float, ...], target: tuple[float, ...]) -> int | None:
    """Axis to treat apart, where the original spacing, else the target spacing, is anisotropic by more than 3
    (paper, Method).

    None where the spacing is near isotropic, or where two axes share the coarsest spacing.
    """
    for candidate in (spacing, target):
        if max(candidate) / min(candidate) > ANISOTROPY_THRESHOLD:
            return _coarsest_axis(candidate)
    return None


def _coarsest_axis(spacing: tuple[float, ...]) -> int | None:
    coarsest = [axis for axis, value in enumerate(spacing) if value == max(spacing)]
    return coarsest[0] if len(coarsest) == 1 else None


def axis_orders(
    spacing: tuple[float, ...], target: tuple[float, ...], order: int, order_apart: int = 0, rule: str = "auto"
) -> tuple[int, int, int]:
    """Interpolation order per axis: ``order``, but ``order_apart`` (nearest by default) along an axis treated apart.

    rule: ``auto`` for ``low_resolution_axis``, or as ``apart_axis`` has it.
    """
    apart = apart_axis(spacing, target, rule)
    z, y, x = (order_apart if axis == apart else order for axis in range(3))
    return (z, y, x)


def apart_axis(spacing: tuple[float, ...], target: tuple[float, ...], rule: str) -> int | None:
    """Axis to treat apart: ``low_resolution_axis`` where ``rule`` is ``auto``, none for ``never``, and for ``always``
    the axis of the coarsest ``spacing``, unless two share it.
    """
    if rule == "always":
        return _coarsest_axis(spacing)
    return low_resolution_axis(spacing, target) if rule == "auto" else None


def resample_image(image: NDArray[np.float32], target: Shape, orders: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resample (C, Z, Y, X) to ``target`` (Z, Y, X) voxels, third-order spline by default of the callers (paper,
    Method).
    """
    if image.shape[1:] == target:
        return image
    result = np.empty((image.shape[0], *target), dtype=np.float32)
    for channel, volume in enumerate(image):
        _resample_planes(volume, target, orders, 0, result[channel])
    return result


def slabs(target: Shape, volumes: int = 1) -> Iterator[slice]:
    """Ranges along Z that hold about ``SLAB_VOXELS`` voxels of ``volumes`` volumes together."""
    planes = max(1, SLAB_VOXELS // (target[1] * target[2] * volumes))
    for start in range(0, target[0], planes):
        yield slice(start, min(start + planes, target[0]))


def resample_slab(volume: Planes, target: Shape, orders: tuple[int, int, int], slab: slice) -> NDArray[np.float32]:
    """Planes ``slab`` of (Z, Y, X) resampled to ``target``, reading only the source planes they need."""
    result = np.empty((slab.stop - slab.start, target[1], target[2]), dtype=np.float32)
    _resample_planes(volume, target, orders, slab.start, result)
    return result


def _resample_planes(
    volume: Planes, target: Shape, orders: tuple[int, int, int], first: int, out: NDArray[np.float32]
) -> None:
    """Planes of (Z, Y, X) resampled to ``target``, from its plane ``first`` on, into ``out`` (planes, Y, X)."""
    depth, rows, columns = volume.shape
    along_y = bands(rows, target[1], orders[1]) if rows != target[1] else ()
    along_x = bands(columns, target[2], orders[2]) if columns != target[2] else ()
    in_plane = _InPlane((rows, columns), (target[1], target[2]), along_y, along_x)
    if orders[0] == 0 or depth == target[0]:
        nearest = neighbours(depth, target[0], 0).low[first : first + len(out)]
        for index, plane in enumerate(nearest):
            if index and plane == nearest[index - 1]:
                out[index] = out[index - 1]
            else:
                in_plane(volume[plane], out[index])
        return
    between = list(_bands_of(bands(depth, target[0], orders[0]), first, len(out)))
    if target[0] < depth or not (along_y or along_x):
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
        self, source: tuple[int, int], target: tuple[int, int], along_y: Sequence[Band], along_x: Sequence[Band]
    ) -> None:
        self.along_y, self.along_x = along_y, along_x
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


def _along_y(plane: NDArray[np.float32], along: Sequence[Band], out: NDArray[np.float32]) -> None:
    for band in along:
        np.matmul(band.weights, plane[band.source], out=out[band.target])


def _along_x(plane: NDArray[np.float32], along: Sequence[Band], out: NDArray[np.float32]) -> None:
    for band in along:
        np.matmul(plane[:, band.source], band.weights.T, out=out[:, band.target])


def _between_then_in_planes(
    volume: Planes, between: Sequence[Band], in_plane: _InPlane, out: NDArray[np.float32]
) -> None:
    """For fewer planes than before: between source planes first."""
    for band in between:
        planes = np.ascontiguousarray(volume[band.source], dtype=np.float32)
        mixed = (band.weights @ planes.reshape(len(planes), -1)).reshape(-1, *volume.shape[1:])
        for plane, result in zip(mixed, out[band.target], strict=True):
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
        np.matmul(weights, ring.reshape(places, -1), out=out[band.target].reshape(len(weights), -1))


def resample_labels(
    labels: NDArray[np.uint8], target: Shape, orders: tuple[int, int, int], nearest_ties: bool = False
) -> NDArray[np.uint8]:
    """Resample a label map (Z, Y, X) label by label, linearly, and give each voxel the label with the largest share.

    Only voxels between unlike labels are interpolated. A tie goes to the larger label, hence to foreground against
    background, as in the authors' code; unlike there no gap stays between labels. With ``nearest_ties`` it goes to the
    nearest voxel's label, if that is one of them, else to the smallest (nnU-Net 2.8.1).
    """
    if labels.shape == target:
        return labels
    if max(orders) > 1:
        return _labels_by_spline(labels, target, orders, nearest_ties)
    z, y, x = _neighbours(labels, target, orders)
    closest = _neighbours(labels, target, (0, 0, 0)) if nearest_ties else None

    @lru_cache(maxsize=2)
    def plane_of(index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        plane = np.ascontiguousarray(labels[index])
        return plane, mixed_cells(plane, y, x)

    result = np.empty(target, dtype=np.uint8)
    for index in range(target[0]):
        low, high, share = int(z.low[index]), int(z.high[index]), z.share[index]
        out = result[index]
        nearest_plane = None if closest is None else plane_of(int(closest[0].low[index]))[0]
        if index and not z.interpolates and low == z.low[index - 1]:
            out[...] = result[index - 1]
            continue
        plane, mixed = plane_of(low)
        layers = [(plane, np.float32(1))]
        if share:
            upper, mixed_above = plane_of(high)
            layers = [(plane, 1 - share), (upper, share)]
            mixed = mixed | mixed_above | (plane != upper)
        out[...] = spread(plane, y, x)
        for corners in corners_of(spread(mixed, y, x), y, x, plane.shape[1]):
            at_nearest = None
            if closest is not None and nearest_plane is not None:
                at_nearest = nearest_plane[closest[1].low[corners.rows], closest[2].low[corners.columns]]
            out.reshape(-1)[corners.where] = _largest_share(layers, corners, at_nearest)
    return result


def _neighbours(
    labels: NDArray[np.uint8], target: Shape, orders: tuple[int, int, int]
) -> tuple[Neighbours, Neighbours, Neighbours]:
    z, y, x = (neighbours(a, b, order) for a, b, order in zip(labels.shape, target, orders, strict=True))
    return (z, y, x)


def _largest_share(
    layers: Sequence[tuple[NDArray[np.uint8], np.float32]], corners: Corners, nearest: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """The label (n,) with the largest share of each voxel; ties as ``resample_labels`` has them.

    layers: source planes (Y, X) and their weights. nearest: the nearest voxels' labels (n,), to which ties go.
    """
    found = [plane.reshape(-1).take(index) for plane, _ in layers for index in corners.indices]
    weights = [share * weight for _, weight in layers for share in corners.shares]
    totals = [weight.copy() for weight in weights]
    for one in range(len(found)):
        for other in range(one):
            alike = found[one] == found[other]
            totals[one] += alike * weights[other]
            totals[other] += alike * weights[one]
    enough = totals[0].copy()
    for total in totals[1:]:
        np.maximum(enough, total, out=enough)
    enough -= TIE
    if nearest is None:
        best = np.zeros_like(found[0])
        for label, total in zip(found, totals, strict=True):
            np.maximum(best, label * (total >= enough), out=best)
        return best
    best = np.full_like(found[0], np.iinfo(np.uint8).max)
    share_of_nearest = np.zeros_like(enough)
    for label, total, weight in zip(found, totals, weights, strict=True):
        np.minimum(best, label, out=best, where=total >= enough)
        share_of_nearest += (label == nearest) * weight
    return np.where(share_of_nearest >= enough, nearest, best)


def _labels_by_spline(
    labels: NDArray[np.uint8], target: Shape, orders: tuple[int, int, int], nearest_ties: bool
) -> NDArray[np.uint8]:
    """``resample_labels`` with a spline along some axis, which reaches further than a cell: each label everywhere."""
    values = np.unique(labels)
    result = np.full(target, values[0], dtype=np.uint8)
    nearest = np.ix_(*(axis.low for axis in _neighbours(labels, target, (0, 0, 0))))
    for slab in slabs(target):
        best = np.full(result[slab].shape, -np.inf, dtype=np.float32)
        closest = labels[nearest[0][slab], nearest[1], nearest[2]] if nearest_ties else None
        closest_share = np.zeros_like(best)
        for value in values:
            share = resample_slab(labels == value, target, orders, slab)
            if closest is not None:
                closest_share += share * (closest == value)
            result[slab][share > best + TIE if nearest_ties else share >= best - TIE] = value
            np.maximum(best, share, out=best)
        if closest is not None:
            tied = closest_share >= best - TIE
            result[slab][tied] = closest[tied]
    return result
