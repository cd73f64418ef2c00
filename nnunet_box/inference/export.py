"""From probabilities or logits on the network's grid to labels on the file's, slab by slab in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.files import write_beside
from nnunet_box.inference.largest_class import largest_class
from nnunet_box.inference.predictor import Outputs, softmax
from nnunet_box.preprocessing.crop import box_slices
from nnunet_box.preprocessing.pipeline import Placement
from nnunet_box.preprocessing.planes import Shape
from nnunet_box.preprocessing.resample import resample_slab, slabs

PROBABILITIES_SUFFIX = ".probabilities.b2nd"
CHUNK_PLANES = 32
CHUNK_EDGE = 256


Grid = tuple[Outputs, Placement]
"""Probabilities or logits (K, Z, Y, X) of one configuration in its own axes, and the way back. Of float16 ones what is
resampled is rounded to float16 too.
"""


def labels_on_source(
    grids: Sequence[Grid], probabilities_file: Path | None = None, logits: bool = False
) -> NDArray[np.uint8]:
    """Resample each configuration's probabilities linearly to the file's grid, average, take the most probable class.

    Where the grids hold ``logits`` their softmax follows once they are resampled; a single configuration's labels need
    none. Background outside the crop. With ``probabilities_file`` the average is kept too, as float16 (K, Z, Y, X) in a
    compressed,
    chunked file. Neither needs all classes at full size in memory.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    if probabilities_file is None:
        if all(max(place.orders_back) <= 1 for _, place in grids):
            return _largest_classes(grids, logits)
        return _resample(grids, None, logits)
    import blosc2

    classes, shape = grids[0][0].shape[0], grids[0][1].shape
    with write_beside(probabilities_file) as temporary:
        kept = blosc2.zeros(
            (classes, *shape),
            dtype=np.float16,
            urlpath=str(temporary),
            mode="w",
            chunks=(1, min(CHUNK_PLANES, shape[0]), min(CHUNK_EDGE, shape[1]), min(CHUNK_EDGE, shape[2])),
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 1},
        )
        labels = _resample(grids, kept, logits)
        del kept
    return labels


def _largest_classes(grids: Sequence[Grid], logits: bool) -> NDArray[np.uint8]:
    placement = grids[0][1]
    stacks = [(place.to_file_axes(outputs), place.orders_back) for outputs, place in grids]
    labels = np.zeros(placement.shape, dtype=np.uint8)
    largest_class(stacks, placement.cropped_shape, logits, labels[box_slices(placement.box)])
    return labels


def _resample(grids: Sequence[Grid], kept: Any, logits: bool) -> NDArray[np.uint8]:
    placement = grids[0][1]
    classes = grids[0][0].shape[0]
    # A softmax needs every class of a voxel at once.
    together = classes if logits and (kept is not None or len(grids) > 1) else 1
    stacks = [place.to_file_axes(probabilities) for probabilities, place in grids]
    orders = [place.orders_back for _, place in grids]
    labels = np.zeros(placement.shape, dtype=np.uint8)
    (z0, z1), (y0, y1), (x0, x1) = placement.box
    if kept is not None:
        for start in range(0, placement.shape[0], CHUNK_PLANES):
            kept[0, start : start + CHUNK_PLANES] = np.float16(1)
    for slab in slabs(placement.cropped_shape, together):
        planes = slice(z0 + slab.start, z0 + slab.stop)
        best = np.full((slab.stop - slab.start, y1 - y0, x1 - x0), -np.inf, dtype=np.float32)
        inside = labels[planes, y0:y1, x0:x1]
        for first in range(0, classes, together):
            group = range(first, first + together)
            shares = np.zeros((together, *best.shape), dtype=np.float32)
            for stack, order in zip(stacks, orders, strict=True):
                outputs = (_resample_rounded(stack[value], placement.cropped_shape, order, slab) for value in group)
                if together == 1:
                    shares[0] += next(outputs)
                else:
                    shares += softmax(np.stack(list(outputs))[None])[0]
            shares /= len(stacks)
            for value, share in zip(group, shares, strict=True):
                _keep_best(value, share, best, inside)
                if kept is not None:
                    kept[value, planes, y0:y1, x0:x1] = share.astype(np.float16)
    return labels


def _resample_rounded(volume: Outputs, target: Shape, orders: tuple[int, int, int], slab: slice) -> NDArray[np.float32]:
    resampled = resample_slab(volume, target, orders, slab)
    return resampled.astype(volume.dtype, copy=False).astype(np.float32, copy=False)


def _keep_best(value: int, share: NDArray[np.float32], best: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
    """Put ``value`` into ``labels`` (Z, Y, X) where its ``share`` is more than the ``best`` so far, in place."""
    wins = share > best
    best[wins] = share[wins]
    labels[wins] = value
