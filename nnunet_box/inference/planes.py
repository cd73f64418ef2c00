"""Labels on the file's grid from a network's outputs that come plane by plane: none but the latest are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.predictor import Outputs
from nnunet_box.preprocessing.axis_weights import bands
from nnunet_box.preprocessing.crop import box_slices
from nnunet_box.preprocessing.pipeline import Placement
from nnunet_box.preprocessing.resample import resample_image


def labels_of_planes(blocks: Iterable[Outputs], placement: Placement) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) as ``labels_on_source`` makes of one configuration's probabilities or logits, which come as
    ``blocks`` (K, planes, Y, X) in the network's axes, in order along the first of them.

    Equal to rounding: the axes may be interpolated in another order. A block is not looked at once the next is asked
    for; the few planes that voxels between two blocks need are copied.
    """
    axes = placement.axis_order
    through, rows, columns = (placement.cropped_shape[axis] for axis in axes)
    orders = (placement.orders_back[axes[0]], placement.orders_back[axes[1]], placement.orders_back[axes[2]])
    waiting = list(bands(placement.target_shape[axes[0]], through, orders[0]))
    labels = np.zeros(placement.shape, dtype=np.uint8)
    inside = labels[box_slices(placement.box)].transpose(axes)
    began, parts = 0, list[Outputs]()
    for block in blocks:
        parts.append(block)
        known = began + sum(part.shape[1] for part in parts)
        while waiting and waiting[0].source.stop <= known:
            band = waiting.pop(0)
            needed = slice(band.source.start - began, band.source.stop - began)
            out = inside[band.target]
            best = np.empty((len(band.weights), rows, columns), dtype=np.float32)
            share = np.empty_like(best)
            for value in range(len(block)):
                planes = _planes([part[value] for part in parts], needed).astype(np.float32, copy=False)
                planes = resample_image(planes[None], (len(planes), rows, columns), orders)[0]
                np.matmul(band.weights, planes.reshape(len(planes), -1), out=share.reshape(len(share), -1))
                if not value:
                    best, share = share, best
                    continue
                wins = share > best
                if block.dtype != np.float32:
                    # Rounding keeps the order, but may make equal what is not: it is needed only where a class wins.
                    near = np.flatnonzero(wins)
                    pair = (array.reshape(-1)[near].astype(block.dtype) for array in (share, best))
                    wins.reshape(-1)[near] = np.greater(*pair)
                np.copyto(out, np.uint8(value), where=wins)
                np.copyto(best, share, where=wins)
        first = min([known, *(band.source.start for band in waiting)])
        parts = [_planes(parts, slice(first - began, known - began))]
        began = first
    return labels


def _planes(parts: Sequence[Outputs], needed: slice) -> Outputs:
    """A copy of planes ``needed`` of parts (..., planes, Y, X) that follow on each other."""
    found, at = [], 0
    for part in parts:
        found.append(part[..., max(0, needed.start - at) : max(0, needed.stop - at), :, :])
        at += part.shape[-3]
    return np.concatenate(found, axis=-3)
