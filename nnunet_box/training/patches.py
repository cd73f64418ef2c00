"""Which patches a batch holds, and reading them from the case store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.preprocessing.store import StoredCase

FREE_SHARE = 0.67
"""Share of a batch's patches drawn freely; the others, a third, hold foreground for sure (paper, Method, Training).
The two digits are those of the authors' code of April 2019."""
OUTSIDE = -1


@dataclass(frozen=True)
class Patch:
    """image: (C, Z, Y, X) float32, zero outside the case. labels: (Z, Y, X) int8, -1 outside the case. previous: the
    same of the label map of a cascade's first stage.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int8]
    previous: NDArray[np.int8] | None = None

    @property
    def label_maps(self) -> NDArray[np.int8]:
        """What moves with the image as labels do: (1, Z, Y, X), or (2, Z, Y, X) with the previous stage's."""
        return np.stack([self.labels] if self.previous is None else [self.labels, self.previous])


def forced_foreground(batch_size: int) -> list[bool]:
    """Which samples must hold foreground: a third of the batch, rounded, the last ones, and at least one.

    The authors' code of April 2019 takes those from index round(B * 0.67) on.
    """
    first = min(round(batch_size * FREE_SHARE), batch_size - 1)
    return [index >= first for index in range(batch_size)]


def patch_start(
    case: StoredCase, size: Sequence[int], foreground: bool, random: np.random.Generator
) -> tuple[int, int, int]:
    """First voxel (z, y, x) of a patch of ``size``; may lie outside the case, where the patch is larger than it.

    With ``foreground``: a class drawn evenly among those the case has, a voxel of it drawn evenly, the patch centred
    there as
    far as the case's borders let it.
    """
    lows, highs = [], []
    for length, edge in zip(case.shape, size, strict=True):
        missing = max(0, edge - length)
        lows.append(-(missing // 2))
        highs.append(length + missing - missing // 2 - edge)
    if foreground and case.locations:
        classes = sorted(case.locations)
        voxels = case.locations[classes[random.integers(len(classes))]]
        centre = voxels[random.integers(len(voxels))]
        start = [
            int(np.clip(voxel - edge // 2, low, high))
            for voxel, edge, low, high in zip(centre, size, lows, highs, strict=True)
        ]
    else:
        start = [int(random.integers(low, high + 1)) for low, high in zip(lows, highs, strict=True)]
    return (start[0], start[1], start[2])


def slice_with_foreground(case: StoredCase, random: np.random.Generator) -> int:
    """Index along the first axis of a slice that holds a class drawn evenly; any slice where the case has no
    foreground.
    """
    if not case.locations:
        return int(random.integers(case.shape[0]))
    classes = sorted(case.locations)
    voxels = case.locations[classes[random.integers(len(classes))]]
    return int(voxels[random.integers(len(voxels)), 0])


def read_patch(case: StoredCase, start: Sequence[int], size: Sequence[int]) -> Patch:
    """The patch of ``size`` at ``start``, padded where it reaches outside: image 0, labels -1. Tensors where the case's
    arrays are tensors.
    """
    source, target = [], []
    for first, edge, length in zip(start, size, case.shape, strict=True):
        inside = max(0, first), min(length, first + edge)
        source.append(slice(*inside))
        target.append(slice(inside[0] - first, inside[1] - first))
    whole = all(part.stop - part.start == edge for part, edge in zip(source, size, strict=True))

    def padded(stored: Any, shape: tuple[int, ...], fill: int) -> Any:
        every = (slice(None),) * (len(shape) - len(size))
        inside = stored[(*every, *source)]
        if whole:
            return inside
        result = np.full(shape, fill, inside.dtype) if isinstance(inside, np.ndarray) else inside.new_full(shape, fill)
        result[(*every, *target)] = inside
        return result

    labels = (tuple(size), OUTSIDE)
    return Patch(
        padded(case.image, (case.image.shape[0], *size), 0),
        padded(case.labels, *labels),
        None if case.previous is None else padded(case.previous, *labels),
    )
