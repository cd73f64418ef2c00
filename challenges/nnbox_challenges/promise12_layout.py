"""PROMISE12's layout: which ``.mhd`` is an image, which a reference, and of which part of the challenge."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from nnbox_challenges.layout import LEVELS, children, describe, folders_below, require_folder
from nnunet_box.dataset.metaimage import MetaImage, geometry_of
from nnunet_box.dataset.volumes import is_volume, strip_suffix
from nnunet_box.errors import InvalidData

Part = Literal["train", "test", "live"]
"""Training, the online test, and the live challenge at the workshop. Each counts its cases from ``Case00``."""

PARTS: tuple[Part, ...] = get_args(Part)
SHIPPED: dict[Part, int] = {"train": 50, "test": 30, "live": 20}
"""Cases of a full download (zenodo.org/records/8026660)."""

CASE_FILE = re.compile(r"Case(\d{2,3})(_segmentation)?", re.IGNORECASE)
PART_FOLDERS: dict[Part, re.Pattern[str]] = {
    "live": re.compile(r"(promise)?live(challenge)?(test|testing)?(data)?(set)?"),
    "train": re.compile(r"(promise)?(train|training)(data)?(set)?(part)?"),
    "test": re.compile(r"(promise)?(test|testing)(data)?(set)?(part)?"),
}
"""Letters of a folder's name, as the zips, their unpackings and the nnU-Net authors' own copy spell them."""

SITES = {"bidmc", "bmc", "hk", "i2cvb", "runmc", "ucl"}
"""Folders of the multi-site prostate collections that contain PROMISE12's images, renumbered and resampled."""

VOXEL_SUFFIXES = (".raw", ".zraw")
SLICE_SUFFIXES = (".h5", ".hdf5", ".npy", ".npz")

CENTRES = {
    # From a third party's code, not from the organisers; it only balances folds.
    "BIDMC": {0, *range(2, 13)},
    "RUNMC": set(range(13, 26)),
    "UCL": {1, *range(26, 38)},
    "HK": set(range(38, 50)),
}
"""Centre to numbers of its training cases."""


@dataclass(frozen=True)
class Found:
    """One case of a part; ``image`` or ``reference`` is None where the file is not there.

    named: whether a folder's name says which part it is, or only the presence of references.
    """

    part: Part
    number: str
    image: Path | None = None
    reference: Path | None = None
    named: bool = True

    @property
    def name(self) -> str:
        """What the challenge calls it; not unique, since each part starts at ``Case00``."""
        return f"Case{self.number}"

    @property
    def id(self) -> str:
        """Name in a data set: with the part before it."""
        return f"{self.part}_{self.name}"


def find_cases(folder: Path) -> list[Found]:
    """All cases at or below ``folder``, by part and number.

    Raises
    ------
    InvalidData: there are none (with the reason where it is a known re-pack), a case is there twice, or a file of one
    is missing.
    """
    folder = require_folder(folder)
    below = list(folders_below(folder, LEVELS + 1))
    _refuse_sites(below)
    cases: dict[str, Found] = {}
    for place in below:
        files = _case_files(place, (".mhd",))
        _refuse_headless(place, files)
        named = _named_part(place, folder)
        part = named or ("train" if any(is_reference for _, _, is_reference in files) else "test")
        for path, number, is_reference in files:
            case = Found(part, number, named=named is not None)
            case = cases.setdefault(case.id, case)
            other = case.reference if is_reference else case.image
            if other is not None:
                raise InvalidData(path, f"{case.id} once", f"also in {other.parent}", "Give the folder of one copy.")
            cases[case.id] = replace(case, reference=path) if is_reference else replace(case, image=path)
    if not cases:
        raise _no_cases(folder, below)
    return sorted(cases.values(), key=lambda case: (PARTS.index(case.part), int(case.number)))


def require_images(cases: Iterable[Found]) -> None:
    """Refuse a reference without its image.

    Raises
    ------
    InvalidData: naming the missing file.
    """
    for case in cases:
        if case.image is None and case.reference is not None:
            missing = case.reference.with_name(f"{case.name}.mhd")
            raise InvalidData(
                missing,
                f"the image of {case.reference.name}",
                "no such file",
                "Copy the folder again; it is incomplete.",
            )


def converted_images(folder: Path) -> list[Path]:
    """``CaseNN`` images right in ``folder`` that someone brought to another format; references are left out."""
    return [
        path
        for path in children(folder)
        if path.is_file() and is_volume(path) and (match := CASE_FILE.fullmatch(strip_suffix(path))) and not match[2]
    ]


def centre(case: Found, image: MetaImage) -> str:
    """What folds are balanced over: the centre, by the training case's number.

    For numbers nobody knows, the scan's kind: matrix and slice thickness (mm) differ between the centres, and scans
    with an endorectal coil are 512 x 512.
    """
    if case.part == "train":
        for name, numbers in CENTRES.items():
            if int(case.number) in numbers:
                return name
    return f"{image.size[0]} x {image.size[1]}, {geometry_of(image).spacing[0]:.1f} mm"


def _case_files(folder: Path, suffixes: tuple[str, ...]) -> list[tuple[Path, str, bool]]:
    """(file, case number, whether it is a reference) of a folder's files of those suffixes."""
    return [
        (path, match[1], bool(match[2]))
        for path in children(folder)
        if path.suffix.lower() in suffixes and path.is_file() and (match := CASE_FILE.fullmatch(path.stem))
    ]


def _named_part(place: Path, folder: Path) -> Part | None:
    """By the nearest folder with a part's name, up to the one given; a folder above that decides nothing."""
    for parent in (place, *place.parents):
        letters = re.sub(r"[^a-z]", "", parent.name.lower())
        for part, names in PART_FOLDERS.items():
            if names.fullmatch(letters):
                return part
        if parent == folder:
            break
    return None


def _refuse_headless(place: Path, headers: list[tuple[Path, str, bool]]) -> None:
    known = {path.stem.lower() for path, _, _ in headers}
    for path, _, _ in _case_files(place, VOXEL_SUFFIXES):
        if path.stem.lower() not in known:
            raise InvalidData(
                path.with_suffix(".mhd"), f"the header of {path.name}", "no such file", "Copy both files again."
            )


def _refuse_sites(below: list[Path]) -> None:
    for folder in below:
        sites = [path.name for path in children(folder) if path.is_dir() and path.name.lower() in SITES]
        if len(sites) > 1:
            raise InvalidData(
                folder,
                "PROMISE12 as its organisers ship it",
                f"a multi-site re-pack (folders {', '.join(sites)})",
                "Its images are renumbered and resampled: nothing made from it could be submitted. Take the original.",
            )


def _no_cases(folder: Path, below: list[Path]) -> InvalidData:
    expected = "PROMISE12: CaseNN.mhd with CaseNN.raw and CaseNN_segmentation.mhd (looked five levels down)"
    for place in below:
        images = converted_images(place)
        if images:
            return InvalidData(
                folder,
                expected,
                f"a conversion to another format ({images[0].name})",
                "It lacks the headers a submission has to repeat; take the original .mhd and .raw files.",
            )
        slices = [path for path in children(place) if path.suffix.lower() in SLICE_SUFFIXES]
        if slices:
            return InvalidData(
                folder,
                expected,
                f"preprocessed arrays ({slices[0].name})",
                "They lack spacing and headers; take the original .mhd and .raw files.",
            )
    return InvalidData(folder, expected, describe(folder), "Unpack the download; see nnbox challenges show promise12.")
