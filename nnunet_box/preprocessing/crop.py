"""Cropping to the nonzero region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open voxel ranges along (Z, Y, X)."""


def nonzero_mask(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels (Z, Y, X) where any channel of (C, Z, Y, X) is not zero, holes filled (authors' code of April 2019)."""
    mask: NDArray[np.bool_] = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        mask |= channel != 0
    if mask.all():
        return mask
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Smallest box that holds every true voxel of (Z, Y, X); the whole volume where there is none."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        ranges.append((int(hit[0]), int(hit[-1]) + 1) if hit.size else (0, mask.shape[axis]))
    return (ranges[0], ranges[1], ranges[2])


def box_slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index of a (Z, Y, X) array."""
    return (slice(*box[0]), slice(*box[1]), slice(*box[2]))
