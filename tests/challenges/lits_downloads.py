"""Tiny LiTS downloads with every oddity, and a big one drawn slab by slab."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np

SHAPE = (8, 8, 5)
"""(X, Y, Z) as stored; in plane square, as every CT."""

IDENTITY, SWAPPED = 28, 59
"""A training volume with an identity header, and the test volume with its second and third axes exchanged."""

SPACING = (0.75, 0.75, 2.5)


def save(path: Path, array: np.ndarray, spacing=SPACING, origin=(-30.0, 12.0, 5.0), flip=1.0) -> Path:
    """NIfTI of (X, Y, Z) voxels; compressed by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([flip * spacing[0], flip * spacing[1], spacing[2], 1.0])
    affine[:3, 3] = origin
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def liver(shape=SHAPE, seed=0) -> np.ndarray:
    """A liver of 1 with two lesions of 2, placed by the seed."""
    labels = np.zeros(shape, np.uint8)
    labels[1:7, 1:7, 0:5] = 1
    labels[2:4, 2:4, 1:3] = 2
    labels[5, 5 - seed % 2, 3:5] = 2
    return labels


def write_lits(root: Path) -> Path:
    """Two batches and the test folder: int16, float and scaled volumes, identity headers, exchanged axes, litter."""
    random = np.random.default_rng(0)
    for number in (0, 3, IDENTITY, 29, 30):
        folder = root / f"Training Batch {1 if number < IDENTITY else 2}"
        image = random.integers(-1000, 1000, SHAPE).astype(np.float64 if number == 3 else np.int16)
        labels = liver(seed=number)
        if number in (IDENTITY, 29):
            save(folder / f"volume-{number}.nii", image, (1, 1, 1), (0, 0, 0))
        else:
            save(folder / f"volume-{number}.nii", image, flip=-1.0 if number == 30 else 1.0)
        # 28's segmentation knows the spacing, 29's does not; 30's header says other things than its image's
        given = ((1, 1, 1), (0, 0, 0)) if number == 29 else (SPACING, (1.0, 2.0, 3.0))
        labels = labels[..., None] if number == 0 else labels.astype(np.float32) if number == 3 else labels
        save(folder / f"segmentation-{number}.nii", labels, *given)
    for number in (2, 10, SWAPPED):
        image = random.integers(-1000, 1000, SHAPE).astype(np.int16)
        path = root / "LITS-Challenge-Test-Data" / f"test-volume-{number}.nii"
        if number == SWAPPED:
            save(path, image.swapaxes(1, 2), (SPACING[0], SPACING[2], SPACING[1]))
        else:
            save(path, image)
    (root / "__MACOSX" / "Training Batch 1").mkdir(parents=True)
    (root / "__MACOSX" / "Training Batch 1" / "._volume-0.nii").write_bytes(b"\x00\x05\x16\x07")
    (root / "Training Batch 1" / "._volume-3.nii").write_bytes(b"\x00\x05\x16\x07")
    (root / ".DS_Store").write_bytes(b"\x00")
    return root


def relayout(root: Path, how: str) -> Path:
    """The same files as another distribution has them; returns the folder a person would give."""
    files = [path for path in root.rglob("*.nii") if not path.name.startswith("._")]
    other = root.with_name(f"lits-{how}")
    for path in files:
        if how == "flat":
            target = other / path.name
        elif how == "nested":
            target = other / "media" / "nas" / "01_Datasets" / "CT" / "LITS" / path.parent.name / path.name
        elif how == "doubled":
            target = other / path.parent.name / path.parent.name / path.name
        elif how == "folders":
            target = other / path.parent.name / path.name / path.name
        else:
            target = other / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "gz":
            (target.parent / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        else:
            shutil.copyfile(path, target)
    return other


def write_big(root: Path, shape=(512, 512, 600)) -> int:
    """One case of real size, written without holding it; returns the volume's bytes."""
    root.mkdir(parents=True)
    for name, dtype in (("volume-0", np.int16), ("segmentation-0", np.uint8)):
        header = nibabel.Nifti1Header()
        header.set_data_dtype(dtype)
        header.set_data_shape(shape)
        header.set_sform(np.diag([0.75, 0.75, 1.0, 1.0]), code=1)
        header.set_qform(np.diag([0.75, 0.75, 1.0, 1.0]), code=1)
        header["vox_offset"] = 352
        with (root / f"{name}.nii").open("wb") as file:
            header.write_to(file)
            plane = np.zeros((shape[1], shape[0]), dtype)
            plane[100:300, 100:300] = 1
            for index in range(shape[2]):
                plane[150, 150:200] = 2 if dtype is np.uint8 else index
                file.write(plane.tobytes())
    return int(np.prod(shape)) * 2
