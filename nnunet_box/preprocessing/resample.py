"""Resampling as one small matrix per axis.

A cubic B-spline interpolation (prefilter and gather) along an axis is linear, hence a matrix of target by source
voxels; the
three matrices are applied one after the other with BLAS. It equals the tensor-product spline of
``scipy.ndimage.zoom`` with
``grid_mode`` and edge padding, which the authors' code reached through scikit-image, in float32 and without a padded
copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nnunet_box.boxes import label_boxes

ANISOTROPY_THRESHOLD = 3.0
SPLINE_MARGIN = 12
"""Edge voxels put on each side before the spline prefilter; its impulse response falls below 1e-6 within them."""
TIE = 1e-6
"""Shares closer than this are equal: rounding in float32."""
SLAB_VOXELS = 32_000_000
"""Target voxels worked on at once when labels or probabilities are resampled."""

Matrices = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Shape = tuple[int, int, int]


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


@lru_cache(maxsize=256)
def axis_matrix(source: int, target: int, order: int) -> NDArray[np.float32]:
    """Weights (target, source) of interpolation of ``order`` 0, 1 or 3 along one axis; voxel centres aligned, edges
    extended.
    """
    if source == target:
        return np.eye(source, dtype=np.float32)
    positions: NDArray[np.float64] = (np.arange(target, dtype=np.float64) + 0.5) * (source / target) - 0.5
    if order == 0:
        matrix = np.zeros((target, source))
        matrix[np.arange(target), np.clip(np.floor(positions + 0.5), 0, source - 1).astype(int)] = 1
    elif order == 1:
        matrix = _scatter(
            np.clip(positions, 0.0, source - 1.0, dtype=np.float64),
            source,
            np.array([0, 1]),
            lambda t: np.stack([1 - t, t], axis=1),
        )
    elif order == 3:
        padded = np.pad(np.eye(source), ((SPLINE_MARGIN, SPLINE_MARGIN), (0, 0)), mode="edge")
        coefficients = _spline_coefficients(padded)
        gather = _scatter(
            positions + SPLINE_MARGIN, source + 2 * SPLINE_MARGIN, np.array([-1, 0, 1, 2]), _cubic_weights
        )
        matrix = gather @ coefficients
    else:
        raise ValueError(f"interpolation order {order}: 0, 1 or 3")
    result = matrix.astype(np.float32)
    result.setflags(write=False)
    return result


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
    """Cubic B-spline at distances 1+t, t, 1-t, 2-t for the fraction ``t`` (n,); returns (n, 4)."""
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3], axis=1) / 6


def _scatter(
    positions: NDArray[np.float64],
    source: int,
    offsets: NDArray[np.int64],
    weights: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Matrix (positions, source) with ``weights`` of each position's fraction at its floor plus ``offsets``."""
    base = np.floor(positions).astype(int)
    values = weights(positions - base)
    matrix = np.zeros((len(positions), source))
    for column, offset in enumerate(offsets):
        np.add.at(matrix, (np.arange(len(positions)), np.clip(base + offset, 0, source - 1)), values[:, column])
    return matrix


def _matrices(source: Shape, target: Shape, orders: tuple[int, int, int]) -> Matrices:
    z, y, x = (axis_matrix(a, b, order) for a, b, order in zip(source, target, orders, strict=True))
    return (z, y, x)


def _apply(volume: NDArray[np.float32], matrices: Matrices) -> NDArray[np.float32]:
    """Resample (Z, Y, X) by the three matrices; axes that stay as they are cost nothing."""
    along_z, along_y, along_x = matrices
    result = volume
    if along_x.shape[0] != along_x.shape[1]:
        result = result @ along_x.T
    if along_y.shape[0] != along_y.shape[1]:
        result = along_y @ result
    if along_z.shape[0] != along_z.shape[1]:
        planes = result.reshape(result.shape[0], -1)
        result = (along_z @ planes).reshape(along_z.shape[0], *result.shape[1:])
    return result


def resample_image(image: NDArray[np.float32], target: Shape, orders: tuple[int, int, int]) -> NDArray[np.float32]:
    """Resample (C, Z, Y, X) to ``target`` (Z, Y, X) voxels, third-order spline by default of the callers (paper,
    Method).
    """
    source: Shape = (image.shape[1], image.shape[2], image.shape[3])
    if source == target:
        return image
    matrices = _matrices(source, target, orders)
    result = np.empty((image.shape[0], *target), dtype=np.float32)
    for channel, volume in enumerate(image):
        result[channel] = _apply(volume, matrices)
    return result


def slabs(target: Shape, volumes: int = 1) -> Iterator[slice]:
    """Ranges along Z that hold about ``SLAB_VOXELS`` voxels of ``volumes`` volumes together."""
    planes = max(1, SLAB_VOXELS // (target[1] * target[2] * volumes))
    for start in range(0, target[0], planes):
        yield slice(start, min(start + planes, target[0]))


def resample_slab(
    volume: NDArray[np.float32], target: Shape, orders: tuple[int, int, int], slab: slice
) -> NDArray[np.float32]:
    """Planes ``slab`` of (Z, Y, X) resampled to ``target``, reading only the source planes they need."""
    along_z, along_y, along_x = _matrices((volume.shape[0], volume.shape[1], volume.shape[2]), target, orders)
    rows = along_z[slab]
    used = np.flatnonzero(rows.any(axis=0))
    first, last = int(used[0]), int(used[-1]) + 1
    part = _apply(volume[first:last], (np.eye(last - first, dtype=np.float32), along_y, along_x))
    return (rows[:, first:last] @ part.reshape(last - first, -1)).reshape(len(rows), target[1], target[2])


def resample_labels(
    labels: NDArray[np.uint8], target: Shape, orders: tuple[int, int, int], nearest_ties: bool = False
) -> NDArray[np.uint8]:
    """Resample a label map (Z, Y, X) label by label, linearly, and give each voxel the label with the largest share.

    Each label is worked on inside its own bounding box, so that cost follows the size of the structures. A tie goes
    to the larger label, and to foreground against background, as in the authors' code; unlike there no gap stays
    between labels. With ``nearest_ties`` it goes to the nearest voxel's label, if that is one of them, else to the
    smallest (nnU-Net 2.8.1).
    """
    if labels.shape == target:
        return labels
    source: Shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    boxes = label_boxes(labels)
    result = np.zeros(target, dtype=np.uint8)
    matrices = _matrices(source, target, orders)
    nearest = [matrix.argmax(axis=1) for matrix in _matrices(source, target, (0, 0, 0))]
    for slab in slabs(target):
        best = np.zeros((slab.stop - slab.start, target[1], target[2]), dtype=np.float32)
        total = np.zeros_like(best)
        closest = labels[np.ix_(nearest[0][slab], *nearest[1:])] if nearest_ties else None
        closest_share = np.zeros_like(best)
        for value, box in boxes.items():
            rows = [np.flatnonzero(matrix[:, span].any(axis=1)) for matrix, span in zip(matrices, box, strict=True)]
            rows[0] = rows[0][(rows[0] >= slab.start) & (rows[0] < slab.stop)]
            if not all(len(row) for row in rows):
                continue
            spans = tuple(slice(int(row[0]), int(row[-1]) + 1) for row in rows)
            parts = tuple(matrix[span, inside] for matrix, span, inside in zip(matrices, spans, box, strict=True))
            share = _dense(labels[box] == value, parts)
            where = (slice(spans[0].start - slab.start, spans[0].stop - slab.start), spans[1], spans[2])
            total[where] += share
            if closest is None:
                wins = (share >= best[where]) & (share > 0)
            else:
                wins = share > best[where] + TIE
                closest_share[where] += np.where(closest[where] == value, share, 0)
            best[where][wins] = share[wins]
            result[slab][where][wins] = value
        background = 1 - total
        if closest is None:
            result[slab][best < background - TIE] = 0
        else:
            result[slab][background >= best - TIE] = 0
            closest_share[closest == 0] = background[closest == 0]
            tied = closest_share >= np.maximum(best, background) - TIE
            result[slab][tied] = closest[tied]
    return result


def _dense(mask: NDArray[np.bool_], parts: tuple[NDArray[np.float32], ...]) -> NDArray[np.float32]:
    """Matrices of any shape, square or not, applied to a mask (Z, Y, X)."""
    share = parts[1] @ (mask.astype(np.float32) @ parts[2].T)
    planes: NDArray[np.float32] = parts[0] @ share.reshape(share.shape[0], -1)
    return planes.reshape(parts[0].shape[0], *share.shape[1:])
