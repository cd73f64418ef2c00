"""A small data set whose plan has a low resolution, and hence a cascade, by the planner's own rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import save_nifti

SHAPE = (20, 32, 34)
MEMORY_GB = 0.015
"""So little that a patch covers less than a quarter of these small cases."""


def write_cases(folder: Path, cases: int = 5) -> Dataset:
    """A bright ball (1) and a dark rod (2) in noise, and one test case."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    grid = Geometry(SHAPE, (1.0, 1.0, 1.0))
    for index in range(cases + 1):
        random = np.random.default_rng(index)
        z, y, x = np.indices(SHAPE)
        labels = np.zeros(SHAPE, np.uint8)
        labels[(z - 10) ** 2 + (y - random.integers(10, 16)) ** 2 + (x - 12) ** 2 < 36] = 1
        labels[3:17, 24:29, 22:27] = 2
        image = random.normal(0, 0.2, SHAPE).astype(np.float32) + np.array([5, 7, 3], np.float32)[labels]
        if index == cases:
            save_nifti(folder / "imagesTs" / "test_0000.nii.gz", image, grid)
            continue
        save_nifti(folder / "imagesTr" / f"case{index}_0000.nii.gz", image, grid)
        save_nifti(folder / "labelsTr" / f"case{index}.nii.gz", labels, grid)
    declared = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1, "rod": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(declared))
    return load_dataset(folder)
