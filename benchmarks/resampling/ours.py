"""Our side of resampling; see ``compare.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measuring

Work = Callable[[], Any]


def resample_image() -> Work:
    """By nnunetv2's convention, which cuts a spline's overshoot; a model of the paper's conventions saves that step."""
    from nnunet_box.preprocessing.resample import axis_orders, low_resolution_axis
    from nnunet_box.preprocessing.within_range import resample_within_range

    image = measuring.ct_image()[None]
    spacings = measuring.CT_SPACING, measuring.CT_TARGET_SPACING
    orders, apart = axis_orders(*spacings, 3), low_resolution_axis(*spacings)
    return lambda: resample_within_range(image, measuring.CT_TARGET, orders, apart)[0]


def resample_labels() -> Work:
    from nnunet_box.preprocessing.resample import axis_orders
    from nnunet_box.preprocessing.resample import resample_labels as resample

    labels = measuring.ct_labels()
    orders = axis_orders(measuring.CT_SPACING, measuring.CT_TARGET_SPACING, 1)
    return lambda: resample(labels, measuring.CT_TARGET, orders)


def export() -> Work:
    from nnunet_box.inference.export import labels_on_source
    from nnunet_box.preprocessing.pipeline import Placement

    scores = measuring.class_scores()
    placement = Placement(
        shape=measuring.CT_SHAPE,
        box=tuple((0, length) for length in measuring.CT_SHAPE),
        spacing=measuring.CT_SPACING,
        target_spacing=measuring.CT_TARGET_SPACING,
        target_shape=measuring.EXPORT_SHAPE,
        axis_order=(0, 1, 2),
    )
    return lambda: labels_on_source([(scores, placement)])


ROWS: dict[str, Callable[[], Work]] = {
    "resample-image": resample_image,
    "resample-labels": resample_labels,
    "export": export,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
