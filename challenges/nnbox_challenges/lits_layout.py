"""LiTS's layouts: volumes and segmentations paired by number, wherever below the folder they lie."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnbox_challenges.layout import children, describe, folders_below, natural_key, require_folder, volume_at
from nnunet_box.dataset.cases import Repair
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import is_volume, read_header, strip_suffix
from nnunet_box.errors import InvalidData

FILE = re.compile(r"(test-)?(volume|segmentation)-(\d+)", re.IGNORECASE)
MSD_FILE = re.compile(r"liver_\d+(_0000)?", re.IGNORECASE)
LEVELS = 8
"""Mirrors hold the batches in media/nas/01_Datasets/CT/LITS, doubled folders not counted."""

LITS_SPACING_MM = (1.0, 0.77, 0.77)
"""(Z, Y, X), about the cohort's median. Taken where a header says nothing and no better source is given."""

UNIT_MM = 1e-4


@dataclass
class Found:
    """Files of a download by number: training volumes and their segmentations, test volumes and theirs."""

    volumes: dict[int, Path] = field(default_factory=dict)
    segmentations: dict[int, Path] = field(default_factory=dict)
    test_volumes: dict[int, Path] = field(default_factory=dict)
    test_segmentations: dict[int, Path] = field(default_factory=dict)

    def kind(self, test: bool, volume: bool) -> dict[int, Path]:
        if test:
            return self.test_volumes if volume else self.test_segmentations
        return self.volumes if volume else self.segmentations


def parse(name: str) -> tuple[bool, bool, int] | None:
    """``test-volume-7`` as (is a test case, is a volume, 7); None for other names."""
    match = FILE.fullmatch(name)
    return (match[1] is not None, match[2].lower() == "volume", int(match[3])) if match else None


def find_files(folder: Path) -> Found:
    """All files of LiTS at or below ``folder``; batches, flat and doubled folders, ``.nii`` and ``.nii.gz``.

    Raises
    ------
    InvalidData: a file is there twice; there are none, with the reason where the layout is another release's.
    """
    folder = require_folder(folder)
    found = Found()
    for below in folders_below(folder, LEVELS):
        # A folder named like a file stands for the file in it, and has been looked into from above.
        if below != folder and is_volume(below):
            continue
        for path in children(below):
            key = parse(strip_suffix(path)) if is_volume(path) else None
            if key is None:
                continue
            file = volume_at(path)
            if file is None:
                raise InvalidData(path, "a volume, or a folder with one", "neither", "Copy it again from the download.")
            kind = found.kind(key[0], key[1])
            if key[2] in kind and kind[key[2]] != file:
                raise InvalidData(file, f"{strip_suffix(path)} once", f"also {kind[key[2]]}", "Remove one of the two.")
            kind[key[2]] = file
    if not (found.volumes or found.segmentations or found.test_volumes or found.test_segmentations):
        raise _nothing(folder)
    return found


def _nothing(folder: Path) -> InvalidData:
    expected = f"LiTS: volume-N.nii with segmentation-N.nii, or test-volume-N.nii (looked {LEVELS} levels down)"
    for below in folders_below(folder, LEVELS):
        names = [strip_suffix(path) for path in children(below) if is_volume(path)]
        if any(MSD_FILE.fullmatch(name) for name in names):
            return InvalidData(
                folder,
                expected,
                f"liver_N files in {below.name}: the Decathlon's Task03_Liver, the same scans under other names",
                "Convert it with --challenge decathlon; what is made from it cannot be submitted to LiTS.",
            )
        if any(name.endswith("_0000") for name in names):
            return InvalidData(
                folder,
                expected,
                f"channel suffixes (_0000) in {below.name}: an nnU-Net raw data set",
                "It needs no conversion: give its path to nnbox check, plan and train-all.",
            )
        if any(path.name.startswith("3Dircadb") or path.name == "PATIENT_DICOM" for path in children(below)):
            return InvalidData(
                folder, expected, "3D-IRCADb, DICOM series of 20 of the patients", "Give the download of LiTS."
            )
        if any(path.suffix in (".h5", ".npy", ".npz", ".png") for path in children(below)):
            return InvalidData(
                folder,
                expected,
                f"slices in {below.name}, a preprocessed re-pack",
                "It lacks spacing and headers, so nothing made from it could be submitted; take the original release.",
            )
    return InvalidData(folder, expected, describe(folder), "Unpack the download; see nnbox challenges show lits.")


def numbered(files: dict[int, Path]) -> list[tuple[int, Path]]:
    """In order of their number."""
    return sorted(files.items(), key=lambda item: natural_key(str(item[0])))


def repair_of(volume: Path, segmentation: Path | None, spacing: tuple[float, float, float] | None) -> Repair:
    """What has to be put right of a volume, told from its header and never from its number.

    - Slices lie along Z and are square. Where it is another axis that has a length of its own, the file's axes are
      exchanged (test-volume-59: the second and third).
    - Twenty training volumes come with an identity header, spacing 1 mm in all directions. The spacing is then
      ``spacing`` (Z, Y, X) where given, the segmentation's where its header says more, else ``LITS_SPACING_MM``.

    Raises
    ------
    InvalidData: a file cannot be read.
    """
    geometry, _, header = read_header(volume)
    axes, reasons = _axes(geometry.shape), []
    if axes != (0, 1, 2):
        stored = " x ".join(str(length) for length in geometry.shape[::-1])
        reasons.append(f"axes exchanged: slices along Z instead of the stored {stored} (x, y, z)")
    if not _says_nothing(geometry, header):
        return Repair(axes, None, tuple(reasons)) if reasons else Repair()
    source = "given spacing"
    if spacing is None and segmentation is not None:
        label, _, label_header = read_header(segmentation)
        if label.shape == geometry.shape and not _says_nothing(label, label_header):
            z, y, x = (label.spacing[axis] for axis in axes)
            spacing, source = (z, y, x), "spacing of the segmentation's header"
    if spacing is None:
        spacing, source = LITS_SPACING_MM, "assumed spacing, about the median of LiTS"
    shown = " x ".join(f"{value:g}" for value in spacing[::-1])
    reasons.append(f"identity header (1 mm in all directions); {source}: {shown} mm along x, y, z")
    return Repair(axes, spacing, tuple(reasons))


def _axes(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = shape
    if z == x != y:
        return (1, 0, 2)
    return (2, 1, 0) if z == y != x else (0, 1, 2)


def _says_nothing(geometry: Geometry, header: dict[str, object]) -> bool:
    """Whether a header is the identity: unit spacing, axes along the body's, origin at zero or not declared at all."""
    unit = np.allclose(geometry.spacing, 1.0, atol=UNIT_MM)
    undeclared = header.get("qform_code") == 0 and header.get("sform_code") == 0
    straight = np.allclose(np.abs(np.asarray(geometry.direction).reshape(3, 3)), np.eye(3), atol=UNIT_MM)
    return bool(unit and (undeclared or (straight and np.allclose(geometry.origin, 0.0, atol=UNIT_MM))))
