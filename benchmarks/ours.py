"""Our side of the comparison with nnunetv2: ``python benchmarks/ours.py ROW RESULT.npy TURNS``; see ``compare.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measuring
import numpy as np

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


def warp() -> Work:
    from nnunet_box.training.spatial import rotation
    from nnunet_box.training.warp import displacements, warp_image, warp_labels

    image, labels = measuring.patch_and_labels()

    def work() -> np.ndarray:
        random = np.random.default_rng(0)
        noise = random.random((3, *measuring.PATCH)) * 2 - 1
        offsets = displacements(noise, measuring.SIGMA, measuring.ALPHA)
        affine = np.ascontiguousarray(measuring.SCALE * rotation(measuring.ANGLES).T)
        moved = warp_image(image, affine, offsets, measuring.PATCH)
        return np.stack([moved, warp_labels(labels, affine, offsets, measuring.PATCH, -1.0)])

    return work


def pipeline() -> Work:
    from nnunet_box.planning.plan import Configuration
    from nnunet_box.training.augmentation import SpatialRanges, build_augmentation

    configuration = Configuration(
        patch_size=measuring.PATCH,
        batch_size=2,
        num_pool_per_axis=(5, 5, 5),
        pool_kernel_sizes=((2, 2, 2),) * 5,
        conv_kernel_sizes=((3, 3, 3),) * 6,
        spacing=(1.0, 1.0, 1.0),
        median_shape=measuring.READ,
        in_plane_augmentation=False,
    )
    transform = build_augmentation(configuration, mask_image=False)
    size = SpatialRanges.of(configuration).source_size()
    image = measuring.smooth(size, 8, 6)[None, None]
    labels = np.digitize(image, [-0.5, 0.3, 0.9]).astype(np.float32)

    def work() -> None:
        np.random.seed(0)
        for _ in range(measuring.SAMPLES):
            transform(data=image.copy(), seg=labels.copy())

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "resample-image": resample_image,
    "resample-labels": resample_labels,
    "export": export,
    "warp": warp,
    "pipeline": pipeline,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
