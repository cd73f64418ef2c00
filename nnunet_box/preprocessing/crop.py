"""Cropping to the nonzero region."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Half-open voxel ranges along (Z, Y, X)."""


def nonzero_mask(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels (Z, Y, X) where any channel of (C, Z, Y, X) is not zero, holes filled (authors' code of April 2019)."""
    mask: NDArray[np.bool_] = np.zeros(image.shape[1:], dtype=bool)
    for channel in image:
        mask |= channel != 0
    if mask.all():
        return mask
    fill_holes(mask)
    return mask


def fill_holes(mask: NDArray[np.bool_]) -> None:
    """Add to the mask (Z, Y, X), in place, every voxel that no path over faces joins to the volume's border outside of
    it.

    As ``scipy.ndimage.binary_fill_holes``, which grows the outside voxel by voxel, where components are one pass.
    """
    # Nothing outside the box around the mask is enclosed by it.
    inside = mask[box_slices(bounding_box(mask))]
    parts, count = cc3d.connected_components(np.ascontiguousarray(~inside), connectivity=6, return_N=True)
    enclosed = np.ones(count + 1, dtype=bool)
    for axis in range(3):
        for face in (0, -1):
            enclosed[np.unique(parts.take(face, axis=axis))] = False
    enclosed[0] = True
    for plane, labels in zip(inside, parts, strict=True):
        plane |= enclosed[labels]


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
