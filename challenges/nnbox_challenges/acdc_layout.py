"""ACDC's layout: patient folders, ``Info.cfg``, and which folder is training and which is the challenge's test."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnbox_challenges.layout import LEVELS, children, describe, folders_below, require_folder, volume_at
from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData

PATIENT_FOLDER = re.compile(r"patient(\d{3})", re.IGNORECASE)
FRAME_FILE = re.compile(r"patient(\d{3})_frame(\d+)(_gt)?", re.IGNORECASE)
TEST_PATIENTS = range(101, 151)
"""Patients 101 to 150 are the challenge's test set (creatis.insa-lyon.fr/Challenge/acdc)."""

TEST_FOLDERS = ("testing", "test")
TRAINING_FOLDERS = ("training", "train")
PHASES = ("ED", "ES")
"""End of diastole, end of systole; ``Info.cfg`` says which frame is which."""

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Patient:
    """One patient folder.

    frames, references: frame number to image and to ``_gt`` file. info: ``Info.cfg``, as text. split: by the folder it
    lies in.
    """

    id: str
    folder: Path
    split: Split
    frames: dict[int, Path]
    references: dict[int, Path]
    info: dict[str, str]

    @property
    def number(self) -> int:
        return int(self.id.removeprefix("patient"))

    def phases(self) -> dict[str, int]:
        """Frame number of ED and of ES.

        Read from ``Info.cfg``, never guessed from the order of file names. Without an ``Info.cfg`` the earlier of two
        frames is taken as ED, as it is in every patient of the release; ``guessed_phases`` says so.

        Raises
        ------
        InvalidData: ``Info.cfg`` lacks or garbles ED or ES, or the frame it names is not there.
        """
        if self.guessed_phases:
            if len(self.frames) != len(PHASES):
                found = f"{len(self.frames)} frames and no Info.cfg"
                raise InvalidData(
                    self.folder, "Info.cfg with ED and ES, and the two frames", found, "Copy the patient again."
                )
            return dict(zip(PHASES, sorted(self.frames), strict=True))
        phases = {}
        for phase in PHASES:
            value = self.info.get(phase, "")
            if not value.isdigit():
                found = f"{value!r}" if phase in self.info else "no such line"
                raise InvalidData(
                    self.folder / "Info.cfg",
                    f"{phase}: a frame number",
                    found,
                    "Copy the file again from the download.",
                )
            if int(value) not in self.frames:
                present = ", ".join(f"frame {number:02d}" for number in sorted(self.frames)) or "no frames"
                raise InvalidData(
                    self.folder / f"{self.id}_frame{int(value):02d}.nii.gz",
                    f"the {phase} frame that Info.cfg names",
                    f"no such file (there: {present})",
                    "The copy is incomplete: copy the patient's folder again.",
                )
            phases[phase] = int(value)
        if phases["ED"] == phases["ES"]:
            found = f"both {phases['ED']}"
            raise InvalidData(
                self.folder / "Info.cfg", "two different frames as ED and ES", found, "Copy the file again."
            )
        return phases

    @property
    def guessed_phases(self) -> bool:
        return not (self.folder / "Info.cfg").is_file()


def find_patients(folder: Path) -> list[Patient]:
    """All patients at or below ``folder``, in order of their number.

    Raises
    ------
    InvalidData: there are none (with the reason where the layout is a known re-pack), or one is there twice.
    """
    folder = require_folder(folder)
    patients: dict[str, Patient] = {}
    for path in folders_below(folder, LEVELS + 1):
        if not PATIENT_FOLDER.fullmatch(path.name) or any(
            PATIENT_FOLDER.fullmatch(part) for part in path.relative_to(folder).parts[:-1]
        ):
            continue
        patient = _patient(path, _split(path, folder))
        if patient.id in patients:
            raise InvalidData(
                path, f"{patient.id} once", f"also in {patients[patient.id].folder}", "Give the folder of one copy."
            )
        patients[patient.id] = patient
    if not patients:
        raise _no_patients(folder)
    return sorted(patients.values(), key=lambda patient: patient.number)


def _no_patients(folder: Path) -> InvalidData:
    expected = "ACDC: patientNNN folders, each with Info.cfg and patientNNN_frameFF.nii.gz (looked five levels down)"
    if any(path.suffix in (".h5", ".hdf5") for below in folders_below(folder) for path in children(below)):
        return InvalidData(
            folder,
            expected,
            "h5 slices, a preprocessed re-pack of ACDC",
            "It lacks spacing and headers, so nothing made from it could be submitted; take the original release.",
        )
    return InvalidData(folder, expected, describe(folder), "Unpack the download; see nnbox challenges show acdc.")


def _split(patient: Path, folder: Path) -> Split:
    """By the nearest folder called training or testing, up to the one given; by the published numbering where there is
    none.
    """
    for parent in patient.parents:
        name = parent.name.lower()
        if name in TEST_FOLDERS:
            return "test"
        if name in TRAINING_FOLDERS:
            return "train"
        if parent == folder:
            break
    match = PATIENT_FOLDER.fullmatch(patient.name)
    return "test" if match and int(match[1]) in TEST_PATIENTS else "train"


def _patient(folder: Path, split: Split) -> Patient:
    if (folder / folder.name).is_dir():
        folder = folder / folder.name
    frames: dict[int, Path] = {}
    references: dict[int, Path] = {}
    for path in children(folder):
        match = FRAME_FILE.fullmatch(strip_suffix(path)) if is_volume(path) else None
        if match is None:
            continue
        if match[1] != folder.name[-3:]:
            raise InvalidData(
                path, f"files of {folder.name}", f"a file of patient{match[1]}", "Move it to its own patient's folder."
            )
        file = volume_at(path)
        kind, number = references if match[3] else frames, int(match[2])
        if file is None:
            raise InvalidData(path, "a volume, or a folder with one", "neither", "Copy it again from the download.")
        if number in kind and kind[number] != file:
            raise InvalidData(path, f"frame {number} once", f"also {kind[number].name}", "Remove one of the copies.")
        kind[number] = file
    return Patient(folder.name.lower(), folder, split, frames, references, read_info(folder / "Info.cfg"))


def read_info(file: Path) -> dict[str, str]:
    """``Info.cfg``: one ``Key: value`` a line; empty where there is no such file."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {
        key.strip(): value.strip() for key, separator, value in (line.partition(":") for line in lines) if separator
    }
