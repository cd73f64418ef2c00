"""Boxes around the labels of a map."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


def label_boxes(labels: NDArray[np.uint8]) -> dict[int, Box]:
    """Bounding box of each label > 0 that occurs in a label map (Z, Y, X), as ``scipy.ndimage.find_objects``."""
    first = []
    for axis in range(3):
        hit = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        if not hit.size:
            return {}
        first.append((int(hit[0]), int(hit[-1]) + 1))
    # Counting costs more than looking, so it is done where there are labels only.
    z, y, x = (slice(start, stop) for start, stop in first)
    part = np.ascontiguousarray(labels[z, y, x])
    if part.size <= np.iinfo(labels.dtype).max:
        # cc3d takes no label as large as the number of voxels.
        part = np.pad(part, ((0, 0), (0, 0), (0, np.iinfo(labels.dtype).max)))
    found = cc3d.statistics(part, no_slice_conversion=True)
    boxes = {}
    for label in np.flatnonzero(found["voxel_counts"]):
        if label:
            ends = found["bounding_boxes"][label].reshape(3, 2)
            spans = [
                slice(start + int(low), start + int(high) + 1)
                for (start, _), (low, high) in zip(first, ends, strict=True)
            ]
            boxes[int(label)] = (spans[0], spans[1], spans[2])
    return boxes
