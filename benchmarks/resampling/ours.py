"""Our side of resampling; see ``compare.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measuring

Work = Callable[[], Any]


def resample_image() -> Work:
    from nnunet_box.preprocessing.resample import axis_orders
    from nnunet_box.preprocessing.resample import resample_image as resample

    image = measuring.ct_image()[None]
    orders = axis_orders(measuring.CT_SPACING, measuring.CT_TARGET_SPACING, 3)
    return lambda: resample(image, measuring.CT_TARGET, orders)[0]


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
