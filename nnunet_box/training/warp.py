"""Moving an image and its labels in one interpolation, compiled: cubic B-spline for the image, linear for labels.

Equal to ``scipy.ndimage.map_coordinates`` with ``mode="constant"`` (order 3 and, label by label, order 1) at every
position, which batchgenerators' ``SpatialTransform`` calls. That one makes a grid of coordinates, a float64 copy and a
pass for every label; here a voxel's position is worked out once, for all channels and label maps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.training import warp_kernels
from nnunet_box.training.spline_kernels import EDGE, prefilter

TRUNCATE = 4.0
"""Standard deviations at which a Gaussian is cut, as in scipy."""
BLOCK = 64
"""Voxels of a long axis that are smoothed by one matrix product."""
MARGIN = 12
"""Voxels after which the spline's coefficients no longer depend, within float32's resolution, on where the image was
cut: what is read ends so far from the patch."""

Affine = NDArray[np.float64]
"""Matrix (D, D) from a voxel's offset from the patch's centre to its offset from the source's centre, in voxels."""


def displacements(
    noise: Iterable[NDArray[np.float64]], shape: tuple[int, ...], sigma: float, alpha: float
) -> NDArray[np.float32]:
    """Smooth offsets (D, [Z,] Y, X) in voxels for a patch of ``shape``: noise in -1..1 through a Gaussian of ``sigma``
    voxels, zero outside, times ``alpha``.

    noise: of each axis in turn, uniform in 0..1, of ``shape``.
    """
    filters = {length: _gaussian_matrix(length, sigma) for length in shape}
    radius = _radius(sigma)
    offsets, other = np.empty((len(shape), *shape), dtype=np.float32), np.empty(shape, dtype=np.float32)
    axes = iter(noise)
    for target in offsets:
        source, result = (target, other) if len(shape) % 2 == 0 else (other, target)
        np.subtract(next(axes), 0.5, out=source, casting="same_kind")
        for axis, length in enumerate(shape):
            _filter(source, axis, filters[length], radius, result)
            source, result = result, source
        target *= np.float32(2 * alpha)
    return offsets


def _filter(
    field: NDArray[np.float32], axis: int, matrix: NDArray[np.float32], radius: int, result: NDArray[np.float32]
) -> None:
    """``field`` through a symmetric filter along one axis, as matrix products, which run near the processor's peak.

    Long axes go block by block, since the matrix is zero further than ``radius`` from its diagonal.
    """
    length = field.shape[axis]
    block = length if length <= BLOCK + 2 * radius else BLOCK
    lines = (*field.shape[:axis], length, -1) if axis < field.ndim - 1 else (-1, length)
    source, target = field.reshape(lines), result.reshape(lines)
    for first in range(0, length, block):
        rows = slice(first, min(first + block, length))
        read = slice(max(0, first - radius), first + block + radius)
        if axis < field.ndim - 1:
            np.matmul(matrix[rows, read], source[..., read, :], out=target[..., rows, :])
        else:
            np.matmul(source[:, read], matrix[read, rows], out=target[:, rows])


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)


def _gaussian_matrix(length: int, sigma: float) -> NDArray[np.float32]:
    """A Gaussian filter along an axis of ``length`` voxels, zero outside, as a matrix."""
    radius = _radius(sigma)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
    inside = np.abs(offsets) <= radius
    return np.where(inside, weights[np.clip(offsets + radius, 0, 2 * radius)], 0).astype(np.float32)


def warp(
    images: NDArray[np.float32],
    label_maps: NDArray[Any],
    affine: Affine,
    offsets: NDArray[np.float32] | None,
    outside: int,
    moved_images: NDArray[np.float32],
    moved_labels: NDArray[Any],
) -> None:
    """Fill patches ``moved_images`` (C, [Z,] Y, X) and ``moved_labels`` (L, [Z,] Y, X) from the middle of larger ones.

    Outside of those the image is 0 and the label ``outside``. Elsewhere a label is the one with the largest linear
    share, of equal ones the nearest voxel's, else the smallest.

    label_maps: of any one dtype, which is that of ``moved_labels`` too. offsets: (D, [Z,] Y, X) voxels added to each
    position before ``affine``; None where there are none.
    """
    if moved_images.ndim == 3:
        upright = np.identity(3)
        upright[1:, 1:] = affine
        if offsets is not None:
            offsets = np.concatenate([np.zeros_like(offsets[:1]), offsets])[:, None]
        parts = (array[:, None] for array in (images, label_maps, moved_images, moved_labels))
        images, label_maps, moved_images, moved_labels = parts
        affine = upright
    start, size = _box(label_maps.shape[1:], moved_images.shape[1:], affine, offsets)
    edges = [2 * EDGE if axis or size[0] > 1 else 0 for axis in range(3)]
    coefficients = np.empty((len(images), *np.add(size, edges)), dtype=np.float32)
    prefilter(np.ascontiguousarray(images), start, coefficients)
    warp_kernels.warp(
        coefficients,
        start,
        np.ascontiguousarray(label_maps),
        np.ascontiguousarray(affine),
        np.zeros((3, 1, 1, moved_images.shape[-1]), dtype=np.float32) if offsets is None else offsets,
        offsets is not None,
        label_maps.dtype.type(outside),
        moved_images,
        moved_labels,
    )


def _box(
    source: tuple[int, ...], patch: tuple[int, ...], affine: Affine, offsets: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First voxel (z, y, x) and size of the part of a source that the patch's voxels can come from."""
    furthest = np.stack([-(np.array(patch) - 1) / 2, (np.array(patch) - 1) / 2])
    if offsets is not None:
        furthest += [[axis.min() for axis in offsets], [axis.max() for axis in offsets]]
    products = affine[None] * furthest[:, None, :]
    middle = (np.array(source) - 1) / 2
    first = np.floor(middle + products.min(axis=0).sum(axis=-1)).astype(np.int64) - MARGIN
    last = np.ceil(middle + products.max(axis=0).sum(axis=-1)).astype(np.int64) + MARGIN
    start = np.clip(first, 0, np.array(source) - 1)
    return start, np.clip(last + 1, start + 1, source) - start
