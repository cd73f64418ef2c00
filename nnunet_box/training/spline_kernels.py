"""The cubic B-spline's prefilter, compiled: coefficients of the spline that goes through given voxels.

An array is passed over twice: once plane by plane, along its rows and its columns while the plane is in the cache, and
once along its first axis.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnunet_box.training.compiled import compiled

POLE = np.float32(math.sqrt(3.0) - 2.0)
POLE_REACH = 16
"""Samples after which the pole's power is below float32's resolution."""
EDGE = 1
"""Voxels beyond the outermost one that the spline there reads."""
LINES = 32
"""Rows that are filtered side by side along themselves: their block stays in the first cache."""
COLUMNS = 512
"""Columns that are filtered side by side along the first axis: their block stays in the second cache."""


@compiled
def _filter_along_first(lines: Any, first: int, length: int, start: int, stop: int) -> None:
    """Columns ``start`` to ``stop`` of ``lines`` (N, columns), samples ``first`` to ``first + length``, in place."""
    six = np.float32(6)
    line = lines[first : first + length]
    # The sum over all samples before the first, which mirror those behind it.
    power = POLE
    for k in range(1, min(length - 1, POLE_REACH)):
        mirrored = power + POLE ** (2 * length - 2 - k) if length < POLE_REACH else power
        for column in range(start, stop):
            line[0, column] += mirrored * line[k, column]
        power *= POLE
    gain = six
    if length < POLE_REACH:
        for column in range(start, stop):
            line[0, column] += power * line[length - 1, column]
        gain = six / (np.float32(1) - power * power)
    for column in range(start, stop):
        line[0, column] *= gain
    for k in range(1, length):
        for column in range(start, stop):
            line[k, column] = six * line[k, column] + POLE * line[k - 1, column]
    last = POLE / (POLE * POLE - np.float32(1))
    for column in range(start, stop):
        line[length - 1, column] = last * (line[length - 1, column] + POLE * line[length - 2, column])
    for k in range(length - 2, -1, -1):
        for column in range(start, stop):
            line[k, column] = POLE * (line[k + 1, column] - line[k, column])


@compiled
def _filter_rows(plane: Any, first_row: int, first_column: int, block: Any, padded: Any) -> None:
    """The rows of ``plane`` from ``first_row`` and ``first_column`` on, filtered, to the inside of ``padded``."""
    height, width = padded.shape[0] - 2 * EDGE, padded.shape[1] - 2 * EDGE
    for done in range(0, height, LINES):
        rows = min(LINES, height - done)
        for row in range(rows):
            line = plane[first_row + done + row]
            for column in range(width):
                block[column, row] = line[first_column + column]
        if width > 1:
            _filter_along_first(block, 0, width, 0, LINES)
        for row in range(rows):
            line = padded[EDGE + done + row]
            for column in range(width):
                line[EDGE + column] = block[column, row]


@compiled
def prefilter(images: Any, start: Any, padded: Any) -> None:
    """Coefficients of ``images`` (C, Z, Y, X) from voxel ``start`` on, mirrored at the ends of what is taken.

    padded: (C, Z or Z + 2, Y + 2, X + 2), overwritten; ``EDGE`` voxels more than is taken on each side, but along z
    only where more than one plane is taken.
    """
    channels, depth, height, width = padded.shape
    edge = EDGE if depth > 1 else 0
    block = np.zeros((width, LINES), dtype=np.float32)
    for channel in range(channels):
        for z in range(edge, depth - edge):
            plane = padded[channel, z]
            _filter_rows(images[channel, start[0] + z - edge], start[1], start[2], block, plane)
            if height - 2 * EDGE > 1:
                _filter_along_first(plane, EDGE, height - 2 * EDGE, EDGE, width - EDGE)
            mirror_y, mirror_x = min(2 * EDGE, height - 2), min(2 * EDGE, width - 2)
            for x in range(width):
                plane[0, x] = plane[mirror_y, x]
                plane[height - 1, x] = plane[height - 1 - mirror_y, x]
            for y in range(height):
                plane[y, 0] = plane[y, mirror_x]
                plane[y, width - 1] = plane[y, width - 1 - mirror_x]
        if depth > 1:
            columns = padded[channel].reshape(depth, height * width)
            for done in range(0, height * width, COLUMNS):
                _filter_along_first(columns, EDGE, depth - 2 * EDGE, done, min(done + COLUMNS, height * width))
            for column in range(height * width):
                columns[0, column] = columns[2 * EDGE, column]
                columns[depth - 1, column] = columns[depth - 1 - 2 * EDGE, column]
