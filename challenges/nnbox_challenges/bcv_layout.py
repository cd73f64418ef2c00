"""BCV's layout: images and labels paired by their four-digit number, and what lies beside them on Synapse and is not
the challenge's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnbox_challenges.layout import LEVELS, children, describe, folders_below, natural_key, require_folder, volume_at
from nnunet_box.dataset.volumes import is_volume, read_volume, strip_suffix
from nnunet_box.errors import InvalidData

TRAINING_IDS = (*range(1, 11), *range(21, 41))
TEST_IDS = tuple(range(61, 81))
"""0011 to 0020 never existed."""

IMAGE = re.compile(r"img(\d{4})", re.IGNORECASE)
LABEL = re.compile(r"label(\d{4})", re.IGNORECASE)
LABEL_FOLDERS = ("label", "labels", "labelstr")
CERVIX_LABELS = 4

REPACKS = (
    (re.compile(r"reg-", re.IGNORECASE), "Reg-*: copies of the cases registered to each other, not cases"),
    (re.compile(r"averaged-|DET\d", re.IGNORECASE), "averaged-*/DET*: another, older set of the same Synapse project"),
    (re.compile(r".*cervix", re.IGNORECASE), "the Cervix set, another challenge of the same Synapse project"),
)
"""Names of folders and files beside the challenge's on Synapse, and what they are."""

PAIRWISE = re.compile(r"(?:img|label)\d{4}-\d{4}", re.IGNORECASE)
FIX = "Give the folder RawData of Abdomen/RawData.zip; see nnbox challenges show bcv."


@dataclass(frozen=True)
class Scans:
    """images, labels: number to file. root: the folder given."""

    root: Path
    images: dict[int, Path]
    labels: dict[int, Path]

    @property
    def training(self) -> list[int]:
        return sorted(number for number in self.images if number in TRAINING_IDS)

    @property
    def test(self) -> list[int]:
        return sorted(number for number in self.images if number in TEST_IDS)


def find_scans(folder: Path) -> Scans:
    """The challenge's images and labels at or below ``folder``, by number.

    Raises
    ------
    InvalidData: none; only sets that lie beside the challenge's; numbers that the challenge does not have; a file that
    is there twice.
    """
    root = require_folder(folder)
    images: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    refused: list[str] = []
    for below in folders_below(root, LEVELS + 1):
        reason = _repack([root.name, *below.relative_to(root).parts])
        for path in children(below):
            here = reason or _repack([path.name])
            if here is not None:
                refused.append(here)
                continue
            if is_volume(path):
                _add(path, images, labels)
    if not images:
        found = refused[0] if refused else describe(root)
        raise InvalidData(root, "BCV: imgNNNN.nii.gz in img or imagesTr (looked five levels down)", found, FIX)
    _check_ids(root, images)
    return Scans(root, images, labels)


def _repack(names: list[str]) -> str | None:
    """What a path that goes through these names belongs to, where it is not the challenge's."""
    for name in names:
        for pattern, reason in REPACKS:
            if pattern.match(name):
                return reason
        if PAIRWISE.match(name):
            return REPACKS[0][1]
    return None


def _add(path: Path, images: dict[int, Path], labels: dict[int, Path]) -> None:
    name = strip_suffix(path)
    image, label = IMAGE.fullmatch(name), LABEL.fullmatch(name)
    file = volume_at(path)
    if file is None or not (image or label):
        return
    # MONAI's layout calls labels as their images.
    is_label = label is not None or path.parent.name.lower() in LABEL_FOLDERS
    kind = labels if is_label else images
    match = label or image
    assert match is not None
    if kind.setdefault(int(match[1]), file) != file:
        raise InvalidData(file, "each file once", f"also {kind[int(match[1])]}", "Give the folder of one copy.")


def _check_ids(root: Path, images: dict[int, Path]) -> None:
    unknown = sorted(set(images) - set(TRAINING_IDS) - set(TEST_IDS), key=str)
    if unknown:
        raise InvalidData(
            images[unknown[0]],
            "BCV's numbers: 0001-0010 and 0021-0040 for training, 0061-0080 for test",
            ", ".join(f"{number:04d}" for number in unknown[:3]) + " (the Cervix set or another data set)",
            FIX,
        )


def check_organs(label: Path) -> None:
    """Refuse the Cervix set by its labels: it has the same folders and four organs.

    Raises
    ------
    InvalidData: a label map whose highest value is that of the Cervix set or lower.
    """
    highest = float(np.max(read_volume(label).array, initial=0))
    if highest <= CERVIX_LABELS:
        raise InvalidData(
            label,
            "up to 13 organs (an abdomen holds at least 5)",
            f"labels up to {highest:g}: the Cervix set, or labels of another task",
            FIX,
        )


def case_id(number: int) -> str:
    """``img0001``, as the image is called."""
    return f"img{number:04d}"


def label_numbers(files: dict[str, Path]) -> dict[str, Path]:
    """Label maps by case id, from the last four digits in a row of their names: ``label0061``, ``img0061``.

    Raises
    ------
    InvalidData: a name without such a number, or two files of one number.
    """
    result: dict[str, Path] = {}
    for name in sorted(files, key=natural_key):
        numbers = re.findall(r"(?<!\d)\d{4}(?!\d)", name)
        if not numbers:
            raise InvalidData(files[name], "a name with the case's number, label0061", name, "Rename the file.")
        case = case_id(int(numbers[-1]))
        if case in result:
            raise InvalidData(files[name], "one label map a case", f"also {result[case].name}", "Remove one of them.")
        result[case] = files[name]
    return result
