"""Several raters' masks of one scan made into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_box.dataset.cases import Fusion

SURE = 0.5
"""STAPLE's probability from which on a voxel is foreground."""


def fuse(masks: Sequence[NDArray[np.uint8]], how: Fusion) -> NDArray[np.uint8]:
    """One mask (Z, Y, X) of 0 and 1 out of several of the same shape.

    ``union``: a rater says so. ``intersection``: all say so. ``staple``: the expectation-maximisation estimate of the
    true segmentation (Warfield et al., IEEE TMI 23(7), 2004), as SimpleITK has it, over the whole volume.

    With two raters nothing tells STAPLE whose disagreement is right: it gives the intersection, the union or one of the
    masks, by how the two differ in size.
    """
    marked = np.stack([mask != 0 for mask in masks])
    union, agreed = np.logical_or.reduce(marked), np.logical_and.reduce(marked)
    if how == "union" or not agreed.any():
        # STAPLE has nothing to start from where the raters agree nowhere.
        return np.asarray(union if how == "union" else agreed, dtype=np.uint8)
    return np.asarray(agreed if how == "intersection" else _staple(marked), dtype=np.uint8)


def _staple(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    import SimpleITK as sitk

    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in marked]
    probability = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0))
    return np.asarray(probability >= SURE)
