"""nnunetv2's side of augmentation, in its own environment; see ``compare.py``. Never imported by the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measuring
import numpy as np

Work = Callable[[], Any]


def warp() -> Work:
    from batchgenerators.augmentations import utils
    from scipy.ndimage import gaussian_filter

    image, labels = measuring.patch_and_labels()

    def work() -> np.ndarray:
        random = np.random.default_rng(0)
        noise = random.random((3, *measuring.PATCH)) * 2 - 1
        grid = utils.create_zero_centered_coordinate_mesh(measuring.PATCH)
        smoothed = [gaussian_filter(axis, measuring.SIGMA, mode="constant", cval=0) * measuring.ALPHA for axis in noise]
        grid = utils.scale_coords(utils.rotate_coords_3d(grid + np.array(smoothed), *measuring.ANGLES), measuring.SCALE)
        for axis, length in enumerate(measuring.READ):
            grid[axis] += length / 2 - 0.5
        moved = utils.interpolate_img(image, grid, 3, "constant", 0)
        return np.stack([moved, utils.interpolate_img(labels, grid, 1, "constant", -1, is_seg=True)])

    return work


def pipeline() -> Work:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    angle = (-30.0 / 360 * 2 * np.pi, 30.0 / 360 * 2 * np.pi)
    transform = nnUNetTrainer.get_training_transforms(
        np.array(measuring.PATCH), angle, None, (0, 1, 2), False, use_mask_for_norm=[False]
    )
    image = torch.from_numpy(measuring.smooth(measuring.READ, 8, 6)[None])
    labels = torch.from_numpy(np.digitize(image.numpy(), [-0.5, 0.3, 0.9]).astype(np.int16))

    def work() -> None:
        np.random.seed(0)
        torch.manual_seed(0)
        for _ in range(measuring.SAMPLES):
            transform(image=image.clone(), segmentation=labels.clone())

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "warp": warp,
    "pipeline": pipeline,
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
