"""Resampling: which grid, which order along which axis; images, labels, and slabs of a network's outputs.

An image's planes are products with narrow bands of small matrices (``planes.py``). It equals the tensor-product spline
of ``scipy.ndimage.zoom`` with ``grid_mode`` and edge padding, which the authors' code reached through scikit-image, in
float32 and without a padded copy. Labels are interpolated only where unlike ones meet (``cells.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nnunet_box.cpus import in_threads
from nnunet_box.preprocessing.axis_weights import Neighbours, neighbours
from nnunet_box.preprocessing.cells import Corners, corners_of, mixed_cells, spread
from nnunet_box.preprocessing.planes import Planes, Shape, resample_planes

ANISOTROPY_THRESHOLD = 3.0
TIE = 1e-6
"""Shares closer than this are equal: rounding in float32."""
SLAB_VOXELS = 32_000_000
"""Target voxels worked on at once where every class is resampled everywhere."""

PLANES_WORTH_A_RING = 64
"""Target planes of one thread, at least, where source planes are kept, and some resampled by two threads."""

Axes = tuple[Neighbours, Neighbours, Neighbours]


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


def resample_image(
    image: NDArray[np.float32], target: Shape, orders: tuple[int, int, int], within_planes: bool = False
) -> NDArray[np.float32]:
    """Resample (C, Z, Y, X) to ``target`` (Z, Y, X) voxels, third-order spline by default of the callers (paper,
    Method).

    within_planes: a plane interpolated along Y and X is cut to the range of the one it comes from, before Z.
    """
    if image.shape[1:] == target:
        return image
    result = np.empty((image.shape[0], *target), dtype=np.float32)

    def planes(part: slice) -> None:
        for volume, whole in zip(image, result, strict=True):
            resample_planes(volume, target, orders, part.start, whole[part], within_planes)

    between = orders[0] > 0 and image.shape[1] != target[0]
    in_threads(planes, target[0], result[:, 0].size, PLANES_WORTH_A_RING if between else 1)
    return result


def slabs(target: Shape, volumes: int = 1) -> Iterator[slice]:
    """Ranges along Z that hold about ``SLAB_VOXELS`` voxels of ``volumes`` volumes together."""
    planes = max(1, SLAB_VOXELS // (target[1] * target[2] * volumes))
    for start in range(0, target[0], planes):
        yield slice(start, min(start + planes, target[0]))


def resample_slab(volume: Planes, target: Shape, orders: tuple[int, int, int], slab: slice) -> NDArray[np.float32]:
    """Planes ``slab`` of (Z, Y, X) resampled to ``target``, reading only the source planes they need."""
    result = np.empty((slab.stop - slab.start, target[1], target[2]), dtype=np.float32)
    resample_planes(volume, target, orders, slab.start, result)
    return result


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

    result = np.empty(target, dtype=np.uint8)

    def planes(part: slice) -> None:
        _label_planes(labels, (z, y, x), closest, part, result)

    in_threads(planes, target[0], target[1] * target[2])
    return result


def _label_planes(
    labels: NDArray[np.uint8], axes: Axes, closest: Axes | None, part: slice, result: NDArray[np.uint8]
) -> None:
    """Planes ``part`` of ``result``. closest: where nearest interpolation reads, to which ties go."""
    z, y, x = axes

    @lru_cache(maxsize=2)
    def plane_of(index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        plane = np.ascontiguousarray(labels[index])
        return plane, mixed_cells(plane, y, x)

    for index in range(part.start, part.stop):
        out, low, share = result[index], int(z.low[index]), z.share[index]
        if index > part.start and not z.interpolates and low == z.low[index - 1]:
            out[...] = result[index - 1]
            continue
        plane, mixed = plane_of(low)
        layers = [(plane, np.float32(1))]
        if share:
            upper, mixed_above = plane_of(int(z.high[index]))
            layers = [(plane, 1 - share), (upper, share)]
            mixed = mixed | mixed_above | (plane != upper)
        out[...] = spread(plane, y, x)
        for corners in corners_of(spread(mixed, y, x), y, x, plane.shape[1]):
            nearest = None
            if closest is not None:
                nearest_plane = plane_of(int(closest[0].low[index]))[0]
                nearest = nearest_plane[closest[1].low[corners.rows], closest[2].low[corners.columns]]
            out.reshape(-1)[corners.where] = _largest_share(layers, corners, nearest)


def _neighbours(labels: NDArray[np.uint8], target: Shape, orders: tuple[int, int, int]) -> Axes:
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
