"""Moving an image and its labels in one interpolation, compiled: cubic B-spline for the image, linear for labels.

Equal to ``scipy.ndimage.map_coordinates`` with ``mode="constant"`` (order 3 and, label by label, order 1) at every
position, which batchgenerators' ``SpatialTransform`` calls. That one makes a grid of coordinates, a float64 copy and a
pass for every label; here a voxel's position is worked out where it is needed, in float64, so that the edge of the
image falls on the same voxel, and values are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

POLE = np.float32(math.sqrt(3.0) - 2.0)
"""Of the cubic B-spline's prefilter."""
POLE_REACH = 16
"""Samples after which the pole's power is below float32's resolution."""
PAD = 2
"""Voxels beyond each edge that an interpolation inside the image may read."""
TRUNCATE = 4.0
"""Standard deviations at which a Gaussian is cut, as in scipy."""

Affine = NDArray[np.float64]
"""Matrix (D, D) from a voxel's offset from the patch's centre to its offset from the source's centre, in voxels."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def _compiled(kernel: Kernel) -> Kernel:
    """The function as machine code, made at its first call and kept beside this module, or in the user's cache."""
    options: dict[str, Any] = {
        "fastmath": {"nsz", "arcp", "contract", "reassoc"},
        "error_model": "numpy",
        "nogil": True,
    }
    try:
        return cast(Kernel, njit(cache=True, **options)(kernel))
    except RuntimeError:  # neither place can be written
        return cast(Kernel, njit(**options)(kernel))


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
    kernel = _cubic_3d if image.ndim == 3 else _cubic_2d
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
    kernel = _labels_3d if labels.ndim == 3 else _labels_2d
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
            _prefilter(filtered.reshape(rows, length, -1))
    return np.pad(filtered, PAD, mode="reflect")


def _centre(array: NDArray[Any]) -> NDArray[np.float64]:
    return (np.array(array.shape, dtype=np.float64) - 1) / 2


@lru_cache(maxsize=2)
def _no_offsets(dimensions: int) -> NDArray[np.float32]:
    return np.zeros((dimensions,) + (1,) * dimensions, dtype=np.float32)


def _given(offsets: NDArray[np.float32] | None, dimensions: int) -> tuple[NDArray[np.float32], bool]:
    return (_no_offsets(dimensions), False) if offsets is None else (offsets, True)


@_compiled
def _prefilter(lines: Any) -> None:
    """The recursive filter along the middle axis of (rows, length, columns), in place."""
    rows, length, columns = lines.shape
    six = np.float32(6)
    last = POLE / (POLE * POLE - np.float32(1))
    for row in range(rows):
        line = lines[row]
        # The sum over all samples before the first, which mirror those behind it.
        power = POLE
        for k in range(1, min(length - 1, POLE_REACH)):
            mirrored = power + POLE ** (2 * length - 2 - k) if length < POLE_REACH else power
            for column in range(columns):
                line[0, column] += mirrored * line[k, column]
            power *= POLE
        gain = six
        if length < POLE_REACH:
            for column in range(columns):
                line[0, column] += power * line[length - 1, column]
            gain = six / (np.float32(1) - power * power)
        for column in range(columns):
            line[0, column] *= gain
        for k in range(1, length):
            for column in range(columns):
                line[k, column] = six * line[k, column] + POLE * line[k - 1, column]
        for column in range(columns):
            line[length - 1, column] = last * (line[length - 1, column] + POLE * line[length - 2, column])
        for k in range(length - 2, -1, -1):
            for column in range(columns):
                line[k, column] = POLE * (line[k + 1, column] - line[k, column])


@_compiled
def _cubic(t: Any) -> Any:
    """Weights of the four voxels around a position, the fraction ``t`` after the second."""
    u = np.float32(1) - t
    sixth, four, half = np.float32(1 / 6), np.float32(4 / 6), np.float32(0.5)
    return (
        u * u * u * sixth,
        four - t * t * (np.float32(1) - half * t),
        four - u * u * (np.float32(1) - half * u),
        t * t * t * sixth,
    )


@_compiled
def _cubic_3d(coefficients: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, moved: Any) -> None:
    depth, height, width = moved.shape
    last_z, last_y, last_x = coefficients.shape[0] - 5.0, coefficients.shape[1] - 5.0, coefficients.shape[2] - 5.0
    mid_z, mid_y, mid_x = (depth - 1) / 2, (height - 1) / 2, (width - 1) / 2
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                a, b, c = z - mid_z, y - mid_y, x - mid_x
                if elastic:
                    a += offsets[0, z, y, x]
                    b += offsets[1, z, y, x]
                    c += offsets[2, z, y, x]
                at_z = affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + centre[0]
                at_y = affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + centre[1]
                at_x = affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + centre[2]
                if at_z < 0 or at_y < 0 or at_x < 0 or at_z > last_z or at_y > last_y or at_x > last_x:
                    moved[z, y, x] = 0
                    continue
                first_z, first_y, first_x = int(at_z), int(at_y), int(at_x)
                z0, z1, z2, z3 = _cubic(np.float32(at_z - first_z))
                y0, y1, y2, y3 = _cubic(np.float32(at_y - first_y))
                x0, x1, x2, x3 = _cubic(np.float32(at_x - first_x))
                total = np.float32(0)
                for k in range(4):
                    plane = coefficients[first_z + 1 + k]
                    share = np.float32(0)
                    for j in range(4):
                        line = plane[first_y + 1 + j]
                        weight = y0 if j == 0 else (y1 if j == 1 else (y2 if j == 2 else y3))
                        share += weight * (
                            x0 * line[first_x + 1]
                            + x1 * line[first_x + 2]
                            + x2 * line[first_x + 3]
                            + x3 * line[first_x + 4]
                        )
                    weight = z0 if k == 0 else (z1 if k == 1 else (z2 if k == 2 else z3))
                    total += weight * share
                moved[z, y, x] = total


@_compiled
def _cubic_2d(coefficients: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, moved: Any) -> None:
    height, width = moved.shape
    last_y, last_x = coefficients.shape[0] - 5.0, coefficients.shape[1] - 5.0
    mid_y, mid_x = (height - 1) / 2, (width - 1) / 2
    for y in range(height):
        for x in range(width):
            b, c = y - mid_y, x - mid_x
            if elastic:
                b += offsets[0, y, x]
                c += offsets[1, y, x]
            at_y = affine[0, 0] * b + affine[0, 1] * c + centre[0]
            at_x = affine[1, 0] * b + affine[1, 1] * c + centre[1]
            if at_y < 0 or at_x < 0 or at_y > last_y or at_x > last_x:
                moved[y, x] = 0
                continue
            first_y, first_x = int(at_y), int(at_x)
            y0, y1, y2, y3 = _cubic(np.float32(at_y - first_y))
            x0, x1, x2, x3 = _cubic(np.float32(at_x - first_x))
            total = np.float32(0)
            for j in range(4):
                line = coefficients[first_y + 1 + j]
                weight = y0 if j == 0 else (y1 if j == 1 else (y2 if j == 2 else y3))
                total += weight * (
                    x0 * line[first_x + 1] + x1 * line[first_x + 2] + x2 * line[first_x + 3] + x3 * line[first_x + 4]
                )
            moved[y, x] = total


@_compiled
def _winner(labels: Any, shares: Any, nearest: Any) -> Any:
    """The label with the largest summed share; of equal ones ``nearest`` if it is among them, else the smallest."""
    best, best_share = labels[0], -1.0
    nearest_share = 0.0
    for k in range(len(labels)):
        share = 0.0
        for j in range(len(labels)):
            if labels[j] == labels[k]:
                share += shares[j]
        if labels[k] == nearest:
            nearest_share = share
        if share > best_share or (share == best_share and labels[k] < best):
            best, best_share = labels[k], share
    return nearest if nearest_share == best_share else best


@_compiled
def _labels_3d(labels: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, outside: float, moved: Any) -> None:
    depth, height, width = moved.shape
    last_z, last_y, last_x = labels.shape[0] - 1.0, labels.shape[1] - 1.0, labels.shape[2] - 1.0
    mid_z, mid_y, mid_x = (depth - 1) / 2, (height - 1) / 2, (width - 1) / 2
    around, shares = np.empty(8, dtype=np.float32), np.empty(8, dtype=np.float64)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                a, b, c = z - mid_z, y - mid_y, x - mid_x
                if elastic:
                    a += offsets[0, z, y, x]
                    b += offsets[1, z, y, x]
                    c += offsets[2, z, y, x]
                at_z = affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + centre[0]
                at_y = affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + centre[1]
                at_x = affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + centre[2]
                if at_z < 0 or at_y < 0 or at_x < 0 or at_z > last_z or at_y > last_y or at_x > last_x:
                    moved[z, y, x] = outside
                    continue
                first_z, first_y, first_x = int(at_z), int(at_y), int(at_x)
                next_z = min(first_z + 1, labels.shape[0] - 1)
                next_y = min(first_y + 1, labels.shape[1] - 1)
                next_x = min(first_x + 1, labels.shape[2] - 1)
                around[0], around[1] = labels[first_z, first_y, first_x], labels[first_z, first_y, next_x]
                around[2], around[3] = labels[first_z, next_y, first_x], labels[first_z, next_y, next_x]
                around[4], around[5] = labels[next_z, first_y, first_x], labels[next_z, first_y, next_x]
                around[6], around[7] = labels[next_z, next_y, first_x], labels[next_z, next_y, next_x]
                alike = True
                for k in range(1, 8):
                    alike = alike and around[k] == around[0]
                if alike:
                    moved[z, y, x] = around[0]
                    continue
                up, right, far = at_z - first_z, at_y - first_y, at_x - first_x
                for k in range(8):
                    shares[k] = (
                        (up if k & 4 else 1 - up) * (right if k & 2 else 1 - right) * (far if k & 1 else 1 - far)
                    )
                nearest = labels[int(at_z + 0.5), int(at_y + 0.5), int(at_x + 0.5)]
                moved[z, y, x] = _winner(around, shares, nearest)


@_compiled
def _labels_2d(labels: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, outside: float, moved: Any) -> None:
    height, width = moved.shape
    last_y, last_x = labels.shape[0] - 1.0, labels.shape[1] - 1.0
    mid_y, mid_x = (height - 1) / 2, (width - 1) / 2
    around, shares = np.empty(4, dtype=np.float32), np.empty(4, dtype=np.float64)
    for y in range(height):
        for x in range(width):
            b, c = y - mid_y, x - mid_x
            if elastic:
                b += offsets[0, y, x]
                c += offsets[1, y, x]
            at_y = affine[0, 0] * b + affine[0, 1] * c + centre[0]
            at_x = affine[1, 0] * b + affine[1, 1] * c + centre[1]
            if at_y < 0 or at_x < 0 or at_y > last_y or at_x > last_x:
                moved[y, x] = outside
                continue
            first_y, first_x = int(at_y), int(at_x)
            next_y, next_x = min(first_y + 1, labels.shape[0] - 1), min(first_x + 1, labels.shape[1] - 1)
            around[0], around[1] = labels[first_y, first_x], labels[first_y, next_x]
            around[2], around[3] = labels[next_y, first_x], labels[next_y, next_x]
            right, far = at_y - first_y, at_x - first_x
            for k in range(4):
                shares[k] = (right if k & 2 else 1 - right) * (far if k & 1 else 1 - far)
            moved[y, x] = _winner(around, shares, labels[int(at_y + 0.5), int(at_x + 0.5)])
