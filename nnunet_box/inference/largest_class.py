"""The most probable class on the file's grid, plane by plane, without resampling every class everywhere.

Linear interpolation keeps an order: a class that is largest at all corners of a cell is largest inside it, and so is
its softmax. Classes are interpolated only in cells whose corners disagree. What is in memory besides the networks'
outputs and the labels is a few planes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nnunet_box.cpus import in_threads
from nnunet_box.inference.predictor import Outputs, softmax
from nnunet_box.preprocessing.axis_weights import neighbours
from nnunet_box.preprocessing.cells import Corners, corners_of, mixed_cells, spread
from nnunet_box.preprocessing.planes import Shape

Stack = tuple[Outputs, tuple[int, int, int]]
"""Probabilities or logits (K, Z, Y, X) in the file's axes, and the interpolation's order along each, 0 or 1."""
HALF_STEP = 2.0**-10
"""Neighbouring float16 numbers are at most this part of them apart, and at least ``HALF_LEAST``."""
HALF_LEAST = 2.0**-24


def largest_class(stacks: Sequence[Stack], target: Shape, logits: bool, labels: NDArray[np.uint8]) -> None:
    """Write each voxel's most probable class into ``labels`` (Z, Y, X) of shape ``target``.

    Several stacks are averaged, after a softmax where they hold ``logits``. Of equal classes the first is taken. What
    is interpolated of float16 is rounded to float16.
    """

    def planes(part: slice) -> None:
        grids = [_Grid(outputs, target, orders) for outputs, orders in stacks]
        for index in range(part.start, part.stop):
            labels[index] = _plane(grids, index, logits and len(stacks) > 1)

    in_threads(planes, target[0], target[1] * target[2] * len(stacks) * len(stacks[0][0]))


def _plane(grids: Sequence[_Grid], index: int, with_softmax: bool) -> NDArray[np.uint8]:
    found, mixed = grids[0].classes(index)
    for grid in grids[1:]:
        others, others_mixed = grid.classes(index)
        mixed = mixed | others_mixed | (others != found)
    flat = found.reshape(-1)
    columns = [corners_of(mixed, grid.y, grid.x, grid.outputs.shape[3]) for grid in grids]
    for corners in zip(*columns, strict=True):
        total: NDArray[np.float32] | None = None
        for grid, own in zip(grids, corners, strict=True):
            scores = grid.interpolated(index, own)
            if with_softmax:
                scores = softmax(scores[None])[0]
            total = scores if total is None else np.add(total, scores, out=total)
        assert total is not None
        flat[corners[0].where] = _largest(total)[0]
    return found


def _largest(
    scores: Iterable[NDArray[np.float32]], near_too: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """The index of the largest of ``scores`` (...), the first of equal ones; with ``near_too`` also where one before it
    is so near that both may be rounded to the same float16.
    """
    rest = iter(scores)
    # A class that is not a number is never the largest.
    best = np.fmax(next(rest), -np.inf, dtype=np.float32)
    found, chosen = np.zeros(best.shape, dtype=np.uint8), np.empty(best.shape, dtype=np.uint8)
    wins = np.empty(best.shape, dtype=np.bool_)
    near = np.zeros(best.shape, dtype=np.bool_) if near_too else None
    for value, score in enumerate(rest, start=1):
        np.greater(score, best, out=wins)
        if near is not None:
            reach = (np.abs(score) + np.abs(best)) * np.float32(HALF_STEP) + np.float32(HALF_LEAST)
            np.copyto(near, score - best <= reach, where=wins)
        # Cheaper than a masked assignment: the values grow.
        np.multiply(wins.view(np.uint8), np.uint8(value), out=chosen)
        np.maximum(found, chosen, out=found)
        np.fmax(best, score, out=best)
    return found, near


class _Grid:
    """One configuration's outputs on their way to the file's planes; the source planes seen last are kept."""

    def __init__(self, outputs: Outputs, target: Shape, orders: tuple[int, int, int]) -> None:
        self.outputs = outputs
        self.z, self.y, self.x = (
            neighbours(old, new, order) for old, new, order in zip(outputs.shape[1:], target, orders, strict=True)
        )
        self.rounds = outputs.dtype == np.float16
        self.interpolates = any(axis.interpolates for axis in (self.z, self.y, self.x))
        self._source_classes = lru_cache(maxsize=2)(self._largest_of_source)

    def classes(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """The largest class at one corner of each voxel's cell of a target plane, and whether another may be inside."""
        found, mixed = self._source_classes(int(self.z.low[index]))
        if self.z.share[index]:
            above, mixed_above = self._source_classes(int(self.z.high[index]))
            mixed = mixed | mixed_above | (above != found)
        return spread(found, self.y, self.x), spread(mixed, self.y, self.x)

    def interpolated(self, index: int, corners: Corners) -> NDArray[np.float32]:
        """All classes (K, n) at some voxels of a target plane."""
        low, high, share = int(self.z.low[index]), int(self.z.high[index]), self.z.share[index]
        layers = [(low, corners.shares)]
        if share:
            layers = [
                (plane, tuple(part * weight for part in corners.shares))
                for plane, weight in ((low, 1 - share), (high, share))
            ]
        result = np.zeros((len(self.outputs), len(corners.where)), dtype=np.float32)
        for volume, scores in zip(self.outputs, result, strict=True):
            for plane, shares in layers:
                flat = volume[plane].reshape(-1)
                for at, part in zip(corners.indices, shares, strict=True):
                    scores += flat.take(at) * part
            if self.rounds:
                scores[...] = scores.astype(np.float16)
        return result

    def _largest_of_source(self, plane: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        scores = (np.ascontiguousarray(volume[plane], dtype=np.float32) for volume in self.outputs)
        found, near = _largest(scores, near_too=self.rounds and self.interpolates)
        mixed = mixed_cells(found, self.y, self.x)
        if near is not None:
            mixed |= _beside(near, self.y.interpolates, self.x.interpolates)
        return found, mixed


def _beside(marked: NDArray[np.bool_], along_y: bool, along_x: bool) -> NDArray[np.bool_]:
    """Cells (Y, X), named after their first corner, with a corner that is marked."""
    cells = marked.copy()
    if along_x:
        cells[:, :-1] |= marked[:, 1:]
    if along_y:
        cells[:-1] |= cells[1:].copy()
    return cells
