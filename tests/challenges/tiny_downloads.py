"""Tiny downloads in the challenges' real layouts, quirks included."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

SHAPE = (6, 7, 4)
"""(X, Y, Z), all different, so that a swapped axis shows."""


def save(path: Path, array: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> Path:
    """A well-headed NIfTI of (X, Y, Z[, C]) voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-10.0, 4.0, 2.5)
    image = nibabel.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def save_acdc(path: Path, array: np.ndarray, spacing: Sequence[float]) -> Path:
    """As ACDC's files: sform code 2 with unit scale, no qform, spacing only in pixdim, no units."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.set_qform(None, code=0)
    image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=2)
    image.header["pixdim"][1:4] = spacing
    image.header["quatern_d"] = 1.0
    image.header.set_xyzt_units("unknown", "unknown")
    nibabel.save(image, path)
    return path


def labels_of(shape: Sequence[int], values: Sequence[int], seed: int) -> np.ndarray:
    """A label map in which every one of ``values`` occurs."""
    labels = np.zeros(shape, dtype=np.uint8)
    flat = labels.reshape(-1)
    flat[np.random.default_rng(seed).permutation(flat.size)[: 4 * len(values)]] = np.repeat(values, 4)
    return labels


def truncate(path: Path, keep: float = 0.6) -> None:
    """Cut a file off, as an interrupted copy does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def gunzip(path: Path) -> Path:
    """Replace ``x.nii.gz`` by ``x.nii``."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return plain


def write_decathlon(
    root: Path,
    ids: Sequence[str] = ("spleen_10", "spleen_2", "spleen_33", "spleen_4", "spleen_41"),
    test: Sequence[str] = ("spleen_1", "spleen_7"),
    channels: Sequence[str] = ("CT",),
    labels: Sequence[str] = ("spleen",),
    **changes: Any,
) -> Path:
    """A task folder; ``changes`` replace entries of its ``dataset.json`` (None removes one)."""
    random = np.random.default_rng(0)
    shape = (*SHAPE, len(channels)) if len(channels) > 1 else SHAPE
    for seed, case in enumerate((*ids, *test)):
        voxels = random.integers(-1000, 1000, shape).astype(np.int16)
        save(root / ("imagesTs" if case in test else "imagesTr") / f"{case}.nii.gz", voxels, (0.8, 0.9, 3.0))
        if case not in test:
            values = range(1, len(labels) + 1)
            save(root / "labelsTr" / f"{case}.nii.gz", labels_of(SHAPE, list(values), seed), (0.8, 0.9, 3.0))
    declared = {
        "name": "Spleen",
        "description": "Spleen Segmentation",
        "reference": "Memorial Sloan Kettering Cancer Center",
        "licence": "CC-BY-SA 4.0",
        "relase": "1.0 06/08/2018",
        "tensorImageSize": "4D" if len(channels) > 1 else "3D",
        "modality": {str(index): name for index, name in enumerate(channels)},
        "labels": {str(index): name for index, name in enumerate(("background", *labels))},
        "numTraining": len(ids),
        "numTest": len(test),
        "training": [
            {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in reversed(ids)
        ],
        "test": [f"./imagesTs/{case}.nii.gz" for case in test],
        **changes,
    }
    content = {key: value for key, value in declared.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(content))
    for folder in (root, root / "imagesTr", root / "labelsTr"):
        (folder / "._dataset.json").write_bytes(b"\x00\x05\x16\x07")
        (folder / "._spleen_2.nii.gz").write_bytes(b"\x00\x05\x16\x07")
        (folder / ".DS_Store").write_bytes(b"\x00")
    return root


def write_patient(
    folder: Path, number: int, ed: int = 1, es: int = 9, group: str | None = "NOR", references: bool = True
) -> Path:
    """One ACDC patient folder with a 4-D series, two frames, Info.cfg and junk."""
    patient = folder / f"patient{number:03d}"
    random = np.random.default_rng(number)
    spacing = (1.5625, 1.25, 8.0)
    for frame, dtype in ((ed, np.int16), (es, np.float32)):
        stem = patient / f"patient{number:03d}_frame{frame:02d}"
        save_acdc(Path(f"{stem}.nii.gz"), random.integers(0, 255, SHAPE).astype(dtype), spacing)
        if references:
            save_acdc(Path(f"{stem}_gt.nii.gz"), labels_of(SHAPE, [1, 2, 3], number + frame), spacing)
    save_acdc(
        patient / f"patient{number:03d}_4d.nii.gz", random.integers(0, 255, (*SHAPE, 3)).astype(np.int16), spacing
    )
    info = {"ED": ed, "ES": es, "Group": group, "Height": "170.0", "NbFrame": 12, "Weight": "70.0"}
    (patient / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in info.items() if value is not None))
    (patient / f"._patient{number:03d}_frame{ed:02d}.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    return patient


def write_acdc(root: Path, training: Sequence[int] = (1, 2, 3, 4, 90), test: Sequence[int] = (101, 102)) -> Path:
    """``root/training`` and ``root/testing``, the latter with references as the current release has them."""
    groups = ("NOR", "MINF", "DCM", "HCM", "RV")
    for index, number in enumerate(training):
        ed, es = (4, 11) if number == 90 else (1, 9)
        write_patient(root / "training", number, ed, es, groups[index % len(groups)])
    for number in test:
        write_patient(root / "testing", number)
    for folder in ("training", "testing"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "MANDATORY_CITATION.md").write_text("Cite Bernard et al. 2018.\n")
    (root / "__MACOSX" / "training" / "patient001").mkdir(parents=True)
    (root / ".DS_Store").write_bytes(b"\x00")
    return root
