"""Labels on the file's grid from a network's outputs that come plane by plane: none but the latest are kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.predictor import Outputs
from nnunet_box.preprocessing.crop import box_slices
from nnunet_box.preprocessing.pipeline import Placement
from nnunet_box.preprocessing.resample import Shape, axis_matrix, resample_image

SLAB_VOXELS = 8_000_000
"""Voxels of the file's grid that a class is worked on at once."""


def labels_of_planes(blocks: Iterable[Outputs], placement: Placement) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) as ``labels_on_source`` makes of one configuration's probabilities or logits, which come as
    ``blocks`` (K, planes, Y, X) in the network's axes, in order along the first of them.

    Equal to rounding: where the network's axes are not the file's they are interpolated in another order. A block is
    not looked at once the next is asked for; the few planes that voxels between two blocks need are copied.
    """
    axes = placement.axis_order
    sizes, orders = placement.cropped_shape, placement.orders_back
    target: Shape = (sizes[axes[0]], sizes[axes[1]], sizes[axes[2]])
    along = axis_matrix(placement.target_shape[axes[0]], target[0], orders[axes[0]])
    used = along != 0
    firsts = np.minimum.accumulate(used.argmax(axis=1)[::-1])[::-1]
    ends = np.maximum.accumulate(along.shape[1] - used[:, ::-1].argmax(axis=1))
    in_plane = (orders[axes[0]], orders[axes[1]], orders[axes[2]])
    labels = np.zeros(placement.shape, dtype=np.uint8)
    inside = labels[box_slices(placement.box)].transpose(axes)
    rows_at_once = max(1, SLAB_VOXELS // (target[1] * target[2]))
    began, known, row = 0, 0, 0
    kept: Outputs | None = None
    for block in blocks:
        parts = [block] if kept is None else [kept, block]
        known += block.shape[1]
        ready = int(np.searchsorted(ends, known, side="right"))
        while row < ready:
            rows = slice(row, min(row + rows_at_once, ready))
            needed = slice(int(firsts[rows.start]), int(ends[rows.stop - 1]))
            best = np.empty((rows.stop - rows.start, *target[1:]), dtype=np.float32)
            for value in range(block.shape[0]):
                planes = _planes([part[value] for part in parts], needed, began)
                resampled = resample_image(planes[None], (len(planes), *target[1:]), in_plane)[0]
                share = _combined(along[rows, needed], resampled)
                if block.dtype != np.float32:
                    share = share.astype(block.dtype).astype(np.float32)
                if value == 0:
                    best[:] = share
                else:
                    np.copyto(inside[rows], np.uint8(value), where=share > best)
                    np.maximum(best, share, out=best)
            row = rows.stop
        # What the next rows need of the planes known by now.
        first = int(firsts[row]) if row < len(firsts) else known
        starts = [known - sum(part.shape[1] for part in parts), known - block.shape[1]]
        kept = np.concatenate(
            [part[:, max(0, first - start) :] for start, part in zip(starts[-len(parts) :], parts, strict=True)], axis=1
        )
        began = known - kept.shape[1]
    return labels


def _planes(parts: list[Outputs], needed: slice, began: int) -> NDArray[np.float32]:
    """Planes ``needed`` (numbers as of ``began``) of one class, whose parts (planes, Y, X) follow on each other."""
    found, at = [], began
    for part in parts:
        found.append(part[max(0, needed.start - at) : max(0, needed.stop - at)])
        at += len(part)
    return np.concatenate(found, dtype=np.float32)


def _combined(weights: NDArray[np.float32], planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Planes (Z, Y, X) from others, by the matrix ``weights`` (Z, planes)."""
    if weights.shape[0] == weights.shape[1] and (np.diagonal(weights) == 1).all():
        return planes
    result: NDArray[np.float32] = weights @ planes.reshape(len(planes), -1)
    return result.reshape(len(weights), *planes.shape[1:])
