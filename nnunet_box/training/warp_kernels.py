"""The compiled loops of ``warp.py``: arrays in, ``moved`` or ``lines`` written in place.

Positions are float64, so that the edge of an image falls on the same voxel as in scipy; values are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

POLE = np.float32(math.sqrt(3.0) - 2.0)
"""Of the cubic B-spline's prefilter."""
POLE_REACH = 16
"""Samples after which the pole's power is below float32's resolution."""

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


@_compiled
def prefilter(lines: Any) -> None:
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
def _source_3d(
    z: int, y: int, x: int, shape: Any, centre: Any, affine: Any, offsets: Any, elastic: bool
) -> tuple[float, float, float]:
    """Where in the source a voxel of the patch comes from."""
    a, b, c = z - (shape[0] - 1) / 2, y - (shape[1] - 1) / 2, x - (shape[2] - 1) / 2
    if elastic:
        a += offsets[0, z, y, x]
        b += offsets[1, z, y, x]
        c += offsets[2, z, y, x]
    return (
        affine[0, 0] * a + affine[0, 1] * b + affine[0, 2] * c + centre[0],
        affine[1, 0] * a + affine[1, 1] * b + affine[1, 2] * c + centre[1],
        affine[2, 0] * a + affine[2, 1] * b + affine[2, 2] * c + centre[2],
    )


@_compiled
def _source_2d(
    y: int, x: int, shape: Any, centre: Any, affine: Any, offsets: Any, elastic: bool
) -> tuple[float, float]:
    b, c = y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2
    if elastic:
        b += offsets[0, y, x]
        c += offsets[1, y, x]
    return affine[0, 0] * b + affine[0, 1] * c + centre[0], affine[1, 0] * b + affine[1, 1] * c + centre[1]


@_compiled
def cubic_3d(coefficients: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, moved: Any) -> None:
    """Spline of padded ``coefficients`` at every voxel of ``moved`` (Z, Y, X); ``centre`` of the source in voxels."""
    depth, height, width = moved.shape
    last_z, last_y, last_x = coefficients.shape[0] - 5.0, coefficients.shape[1] - 5.0, coefficients.shape[2] - 5.0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                at_z, at_y, at_x = _source_3d(z, y, x, moved.shape, centre, affine, offsets, elastic)
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
def cubic_2d(coefficients: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, moved: Any) -> None:
    """The same of a slice (Y, X)."""
    height, width = moved.shape
    last_y, last_x = coefficients.shape[0] - 5.0, coefficients.shape[1] - 5.0
    for y in range(height):
        for x in range(width):
            at_y, at_x = _source_2d(y, x, moved.shape, centre, affine, offsets, elastic)
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
def labels_3d(labels: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, outside: float, moved: Any) -> None:
    """Label with the largest linear share at every voxel of ``moved`` (Z, Y, X), ``outside`` beyond the map."""
    depth, height, width = moved.shape
    last_z, last_y, last_x = labels.shape[0] - 1.0, labels.shape[1] - 1.0, labels.shape[2] - 1.0
    around, shares = np.empty(8, dtype=np.float32), np.empty(8, dtype=np.float64)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                at_z, at_y, at_x = _source_3d(z, y, x, moved.shape, centre, affine, offsets, elastic)
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
def labels_2d(labels: Any, centre: Any, affine: Any, offsets: Any, elastic: bool, outside: float, moved: Any) -> None:
    """The same of a slice (Y, X)."""
    height, width = moved.shape
    last_y, last_x = labels.shape[0] - 1.0, labels.shape[1] - 1.0
    around, shares = np.empty(4, dtype=np.float32), np.empty(4, dtype=np.float64)
    for y in range(height):
        for x in range(width):
            at_y, at_x = _source_2d(y, x, moved.shape, centre, affine, offsets, elastic)
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
