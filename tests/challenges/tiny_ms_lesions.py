"""A tiny download of the MS lesion challenge in its real layout, oddities included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from tiny_downloads import SHAPE, save

CONTRASTS = ("mprage", "t2", "pd", "flair")
TIME_POINTS = {1: 2, 2: 1, 3: 2, 4: 1, 5: 1}


def ms_mask(seed: int) -> np.ndarray:
    """Lesions (X, Y, Z): a core of another size and a voxel of another place for neighbouring seeds."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:3, 1 : 2 + seed % 3, 1] = 1
    mask[4, 5 - seed % 2, 2] = 1
    return mask


def write_scan(root: Path, kind: str, patient: int, time: int, masks: bool = True) -> None:
    """One time point: native images of their own grids, preprocessed ones on one grid, two masks."""
    random = np.random.default_rng(100 * patient + time + 1000 * (kind == "test"))
    folder, stem = root / f"{kind}{patient:02d}", f"{kind}{patient:02d}_{time:02d}"
    for index, name in enumerate(CONTRASTS):
        native = random.integers(0, 900, (5 + index, 6, 3)).astype(np.int16)
        save(folder / "orig" / f"{stem}_{name}.nii.gz", native, (1.0, 1.0, 2.0 + index))
        voxels = random.normal(100 * (index + 1), 20, SHAPE).astype(np.float32)
        voxels[0] = 0
        save(folder / "preprocessed" / f"{stem}_{name}_pp.nii", voxels)
    (folder / "preprocessed" / f"._{stem}_flair_pp.nii").write_bytes(b"\x00\x05\x16\x07")
    for rater in (1, 2) if masks else ():
        # The masks' headers are the default ones: only the voxels agree with the images.
        path = folder / "masks" / f"{stem}_mask{rater}.nii"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(ms_mask(patient + rater).astype(np.float32), np.eye(4)), path)


def write_ms_lesions(root: Path, training: Mapping[int, int] = TIME_POINTS, tests: tuple[int, ...] = (1, 2)) -> Path:
    """``root/training`` and ``root/testdata_website``; training: patient to time points. Test scans repeat the numbers
    of training patients.
    """
    for patient, times in training.items():
        for time in range(1, times + 1):
            write_scan(root / "training", "training", patient, time)
    for patient in tests:
        for time in (1, 2):
            write_scan(root / "testdata_website", "test", patient, time, masks=False)
    (root / "__MACOSX" / "training").mkdir(parents=True)
    (root / "__MACOSX" / "training" / "training01_01_flair_pp.nii").write_bytes(b"\x00")
    (root / ".DS_Store").write_bytes(b"\x00")
    (root / "training" / "license.txt").write_text("Research use.\n")
    return root
