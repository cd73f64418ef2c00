"""Our side of augmentation; see ``compare.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measuring
import numpy as np

Work = Callable[[], Any]


def warp() -> Work:
    from nnunet_box.training.spatial import rotation
    from nnunet_box.training.warp import displacements
    from nnunet_box.training.warp import warp as fill

    image, labels = measuring.patch_and_labels()
    labels = labels.astype(np.int8)  # as our store holds them

    def work() -> np.ndarray:
        noise = np.random.default_rng(0).random((3, *measuring.PATCH))
        offsets = displacements(noise, measuring.PATCH, measuring.SIGMA, measuring.ALPHA)
        affine = measuring.SCALE * rotation(measuring.ANGLES).T
        moved = np.empty((1, *measuring.PATCH), dtype=np.float32)
        moved_labels = np.empty((1, *measuring.PATCH), dtype=np.int8)
        fill(image[None], labels[None], affine, offsets, -1, moved, moved_labels)
        return np.stack([moved[0], moved_labels[0]])

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
    labels = np.digitize(image, [-0.5, 0.3, 0.9]).astype(np.int8)  # as our store holds them

    def work() -> None:
        np.random.seed(0)
        for _ in range(measuring.SAMPLES):
            transform(data=image.copy(), seg=labels.copy())

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "warp": warp,
    "pipeline": pipeline,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
