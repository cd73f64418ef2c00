"""The MS lesion challenge's layout: scans by the names of their files, wherever the folders went."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from nnbox_challenges.layout import LEVELS, children, describe, folders_below, natural_key, require_folder, volume_at
from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData

CHANNELS = ("flair", "mprage", "pd", "t2")
"""In the order the network sees them (nnU-Net's)."""

RATERS = (1, 2)
SCAN = re.compile(r"(training|test)_?(\d+)_(\d+)", re.IGNORECASE)
FILE = re.compile(rf"{SCAN.pattern}_(?:({'|'.join(CHANNELS)})(_pp)?|mask(\d))", re.IGNORECASE)
Key = TypeVar("Key", int, str)
COMPLETE = "The copy is incomplete: unpack the download again."


@dataclass(frozen=True)
class Scan:
    """One time point of one patient.

    kind: ``training`` or ``test``. channels: name to preprocessed file. masks: rater to file. native: channels of
    ``orig`` that are there.
    """

    kind: str
    patient: int
    time: int
    channels: dict[str, Path] = field(default_factory=dict)
    masks: dict[int, Path] = field(default_factory=dict)
    native: dict[str, Path] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return scan_id(self.kind, self.patient, self.time)

    @property
    def group(self) -> str:
        return f"{self.kind}{self.patient:02d}"


def scan_id(kind: str, patient: int, time: int) -> str:
    """``training01_02``: the organisers' own form, whatever the file's case or underscores."""
    return f"{kind}{patient:02d}_{time:02d}"


def scan_of_name(name: str) -> tuple[str, int | None] | None:
    """Scan id and rater (None where the name says none) of a label map's name without suffix; None for other names."""
    match = SCAN.match(name)
    if match is None:
        return None
    rater = re.match(r"_mask(\d)", name[match.end() :], re.IGNORECASE)
    return scan_id(match[1].lower(), int(match[2]), int(match[3])), int(rater[1]) if rater else None


def all_scans(folder: Path) -> list[Scan]:
    """Every scan of which a file lies at or below ``folder``, in order; complete or not.

    Raises
    ------
    InvalidData: a file is there twice.
    """
    folder = require_folder(folder)
    scans: dict[tuple[str, int, int], Scan] = {}
    for below in folders_below(folder, LEVELS + 2):
        for path in children(below):
            match = FILE.fullmatch(strip_suffix(path)) if is_volume(path) else None
            file = volume_at(path) if match else None
            if match is None or file is None:
                continue
            key = match[1].lower(), int(match[2]), int(match[3])
            scan = scans.setdefault(key, Scan(*key))
            if match[6]:
                _add(scan.masks, int(match[6]), file)
            else:
                _add(scan.channels if match[5] else scan.native, match[4].lower(), file)
    return sorted(scans.values(), key=lambda scan: natural_key(scan.id))


def _add(files: dict[Key, Path], key: Key, file: Path) -> None:
    if files.setdefault(key, file) != file:
        raise InvalidData(file, "each file once", f"also {files[key]}", "Give the folder of one copy, or remove one.")


def find_scans(folder: Path) -> list[Scan]:
    """All scans at or below ``folder``, each with its four preprocessed channels.

    Raises
    ------
    InvalidData: there are none, ``orig`` alone, or a scan lacks a channel; the message names it.
    """
    scans = all_scans(folder)
    expected = "preprocessed scans, trainingPP_TT_flair_pp.nii and so on (looked six levels down)"
    if not any(scan.channels for scan in scans):
        if any(scan.native for scan in scans):
            raise InvalidData(
                folder,
                expected,
                "orig only: native images, not co-registered",
                "Masks and submissions are on the preprocessed grid: give the folder that holds preprocessed too.",
            )
        found = "masks without images" if scans else describe(require_folder(folder))
        raise InvalidData(folder, expected, found, "Unpack the download; see nnbox challenges show ms_lesions.")
    for scan in scans:
        missing = [name for name in CHANNELS if name not in scan.channels]
        if missing:
            there = ", ".join(scan.channels) or ("orig and masks only" if scan.native else "its masks only")
            raise InvalidData(
                folder,
                f"the four channels of {scan.id} ({', '.join(CHANNELS)}), preprocessed",
                f"{', '.join(missing)} missing (there: {there})",
                COMPLETE,
            )
    return scans
