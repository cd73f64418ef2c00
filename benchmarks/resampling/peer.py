"""nnunetv2's side of resampling, in its own environment; see ``compare.py``. Never imported by the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measuring
import numpy as np

Work = Callable[[], Any]


def resampled(volume: np.ndarray, is_seg: bool, order: int) -> Work:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample

    spacings = measuring.CT_SPACING, measuring.CT_TARGET_SPACING
    return lambda: resample(
        volume[None], measuring.CT_TARGET, *spacings, is_seg=is_seg, order=order, order_z=0, force_separate_z=None
    )[0]


def resample_image() -> Work:
    return resampled(measuring.ct_image(), is_seg=False, order=3)


def resample_labels() -> Work:
    return resampled(measuring.ct_labels(), is_seg=True, order=1)


def export() -> Work:
    """What nnunetv2 does with a case's logits: resample all classes, take the largest."""
    import torch
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape as resample

    scores = measuring.class_scores()
    spacings = measuring.CT_TARGET_SPACING, measuring.CT_SPACING

    def work() -> np.ndarray:
        logits = resample(
            scores, measuring.CT_SHAPE, *spacings, is_seg=False, order=1, order_z=0, force_separate_z=None
        )
        return torch.from_numpy(logits).argmax(0).numpy().astype(np.uint8)

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "resample-image": resample_image,
    "resample-labels": resample_labels,
    "export": export,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
