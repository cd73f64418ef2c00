"""Moving an image and its labels in one interpolation, compiled: cubic B-spline for the image, linear for labels.

Equal to ``scipy.ndimage.map_coordinates`` with ``mode="constant"`` (order 3 and, label by label, order 1) at every
position, which batchgenerators' ``SpatialTransform`` calls. That one makes a grid of coordinates, a float64 copy and a
pass for every label; here a voxel's position is worked out where it is needed, in float64, so that the edge of the
image falls on the same voxel, and values are float32.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.training.warp_kernels import cubic_2d, cubic_3d, labels_2d, labels_3d, prefilter

PAD = 2
"""Voxels beyond each edge that an interpolation inside the image may read."""
TRUNCATE = 4.0
"""Standard deviations at which a Gaussian is cut, as in scipy."""

Affine = NDArray[np.float64]
"""Matrix (D, D) from a voxel's offset from the patch's centre to its offset from the source's centre, in voxels."""


def displacements(noise: NDArray[np.float64], sigma: float, alpha: float) -> NDArray[np.float32]:
    """Smooth offsets (D, ...) in voxels of uniform noise of that shape in -1..1: a Gaussian of ``sigma`` voxels, zero
    outside, times ``alpha``.
    """
    smooth = noise.astype(np.float32)
    for axis, length in enumerate(smooth.shape[1:], start=1):
        matrix = _gaussian_matrix(length, sigma)
        moved = np.moveaxis(smooth, axis, -2)
        smooth = np.moveaxis(matrix @ moved, -2, axis) if axis < smooth.ndim - 1 else smooth @ matrix.T
    smooth *= np.float32(alpha)
    return np.ascontiguousarray(smooth)


def _gaussian_matrix(length: int, sigma: float) -> NDArray[np.float32]:
    """A Gaussian filter along an axis of ``length`` voxels, zero outside, as a matrix."""
    radius = int(TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None]
    inside = np.abs(offsets) <= radius
    return np.where(inside, weights[np.clip(offsets + radius, 0, 2 * radius)], 0).astype(np.float32)


def warp_image(
    image: NDArray[np.float32], affine: Affine, offsets: NDArray[np.float32] | None, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Patch of ``shape`` from the middle of an image of two or three axes, moved; 0 where it reaches outside.

    offsets: (D, *shape) voxels added to each position before ``affine``; None where there are none.
    """
    coefficients = spline_coefficients(image)
    moved = np.empty(shape, dtype=np.float32)
    kernel = cubic_3d if image.ndim == 3 else cubic_2d
    kernel(coefficients, _centre(image), affine, *_given(offsets, image.ndim), moved)
    return moved


def warp_labels(
    labels: NDArray[np.float32],
    affine: Affine,
    offsets: NDArray[np.float32] | None,
    shape: tuple[int, ...],
    outside: float,
) -> NDArray[np.float32]:
    """The same for a label map: the label with the largest linear share, of equal ones the nearest voxel's, else the
    smallest; ``outside`` where it reaches outside.
    """
    moved = np.empty(shape, dtype=np.float32)
    kernel = labels_3d if labels.ndim == 3 else labels_2d
    kernel(np.ascontiguousarray(labels), _centre(labels), affine, *_given(offsets, labels.ndim), outside, moved)
    return moved


def spline_coefficients(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Coefficients of the cubic B-spline through the voxels, mirrored at the edges, ``PAD`` voxels larger on each
    side.
    """
    filtered = np.array(image, dtype=np.float32, order="C")
    for axis, length in enumerate(filtered.shape):
        if length > 1:
            rows = math.prod(filtered.shape[:axis])
            prefilter(filtered.reshape(rows, length, -1))
    return np.pad(filtered, PAD, mode="reflect")


def _centre(array: NDArray[Any]) -> NDArray[np.float64]:
    return (np.array(array.shape, dtype=np.float64) - 1) / 2


@lru_cache(maxsize=2)
def _no_offsets(dimensions: int) -> NDArray[np.float32]:
    return np.zeros((dimensions,) + (1,) * dimensions, dtype=np.float32)


def _given(offsets: NDArray[np.float32] | None, dimensions: int) -> tuple[NDArray[np.float32], bool]:
    return (_no_offsets(dimensions), False) if offsets is None else (offsets, True)
