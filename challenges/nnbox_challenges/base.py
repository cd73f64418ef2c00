"""What adapters share: writing the nnU-Net v2 raw data set, groups, and the way back to the source's grid.

An adapter subclasses ``Adapter``, declares its facts and writes ``recognise``, ``test_cases`` and ``evaluate``.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnbox_challenges.raters import fuse
from nnunet_box.dataset.cases import CaseRecord, CasesFile, SourceCase, case_volumes, channel_array, read_label
from nnunet_box.dataset.challenge import ChallengeFacts, ChallengeOption, Recognition, SubmissionPart
from nnunet_box.dataset.forms import SAME_AFFINE_MM, form_problems
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import check_gzip, read_header, save_nifti, write_labels_like
from nnunet_box.errors import InvalidData
from nnunet_box.files import link_or_copy, save_json, sweep_stale, write_beside
from nnunet_box.progress import track

FILE_ENDING = ".nii.gz"


class Adapter(ABC):
    """A challenge: declared facts and the verbs of ``nnunet_box.dataset.challenge.Challenge``."""

    name: ClassVar[str]
    title: ClassVar[str]
    facts: ClassVar[ChallengeFacts]
    kept_files: ClassVar[tuple[str, ...]] = ()
    """Names of files of the download that its licence wants to travel with every copy."""
    options: ClassVar[tuple[ChallengeOption, ...]] = ()
    """What the constructor takes, as text by name."""

    @abstractmethod
    def recognise(self, folder: Path) -> Recognition:
        """Find the download's cases below ``folder``; raise ``InvalidData`` with the reason where it is not this
        challenge's.
        """

    @abstractmethod
    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """The cases to predict in the challenge's own test layout; raise ``InvalidData`` where there is none."""

    @abstractmethod
    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """The challenge's own metrics of a folder of predictions."""

    def groups(self, cases: Sequence[SourceCase]) -> dict[str, str]:
        """Case id to what must stay on one side of a split."""
        return {case.id: case.group for case in cases}

    def submission(self, test_folder: Path) -> tuple[SubmissionPart, ...]:
        """All test cases, in the folder that the form declares; for challenges of one task."""
        task = self.facts.tasks[0]
        folder = self.facts.form.folder.format(task=task.name)
        return (SubmissionPart(task, folder, self.test_cases(test_folder, len(task.channels))),)

    def export(self, labels: NDArray[np.uint8], case: SourceCase, output: Path) -> Path:
        """Write one prediction (Z, Y, X) into the folder ``output`` under the leaderboard's name; return the file.

        uint8, three axes, the source image's header: scorers compare arrays voxel by voxel and some compare headers.

        Raises
        ------
        InvalidData: the labels have another shape than the source.
        """
        file = Path(output) / case.output_name
        write_labels_like(file, labels, case.reference_file)
        return file

    def convert(self, recognition: Recognition, destination: Path) -> None:
        """Write the nnU-Net v2 raw data set and ``cases.json`` to ``destination``, whole or not at all.

        One case at a time is held in memory. Every voxel is read and checked, also of files that are copied byte for
        byte.

        Raises
        ------
        InvalidData: a file is missing, truncated, not finite, of another shape than its partner, or holds undeclared
        labels.
        NnboxError: the disk is full or the folder cannot be written.
        """
        labels = _declared(recognition)
        sweep_stale(destination)
        with write_beside(destination) as temporary:
            records = []
            plan = [("train", case) for case in recognition.training] + [("test", case) for case in recognition.test]
            for split, case in track(plan, f"Converting {recognition.dataset_name}"):
                records.append(write_case(case, split, set(labels), recognition.root, temporary))
            link_shared_images(temporary, records)
            for name in self.kept_files:
                source = next(recognition.root.rglob(name), None)
                if source is not None:
                    shutil.copyfile(source, temporary / name)
            cases = CasesFile(
                challenge=self.name, source=str(recognition.root), splits=recognition.splits, cases=records
            )
            save_json(temporary / "cases.json", cases.model_dump(mode="json"))
            # Last: a folder with a dataset.json is a data set.
            save_json(temporary / "dataset.json", self._dataset_json(recognition, labels))

    def _dataset_json(self, recognition: Recognition, labels: dict[int, str]) -> dict[str, Any]:
        return {
            "name": recognition.dataset_name,
            "description": self.title,
            "reference": self.facts.reference,
            "licence": self.facts.licence,
            "channel_names": {str(index): name for index, name in enumerate(recognition.channel_names)},
            "labels": {name: value for value, name in sorted(labels.items())},
            "numTraining": len(recognition.training),
            "file_ending": FILE_ENDING,
        }


def _declared(recognition: Recognition) -> dict[int, str]:
    """The labels, with nnU-Net's name for 0; refused where nnU-Net could not hold them."""
    labels = {**recognition.labels, 0: "background"}
    if sorted(labels) != list(range(len(labels))) or len(set(labels.values())) != len(labels):
        raise InvalidData(
            recognition.root,
            "labels 0, 1, 2, ... without gaps, each with a name of its own",
            f"{dict(sorted(recognition.labels.items()))}",
            "Renumber or rename the labels in the download's dataset.json and its label maps.",
        )
    return labels


def write_case(case: SourceCase, split: str, declared: set[int], root: Path, destination: Path) -> CaseRecord:
    """Check one case and write its images and label below ``destination``; return its entry of ``cases.json``.

    Raises
    ------
    InvalidData: see ``Adapter.convert``.
    OSError: the disk is full.
    """
    suffix = "Tr" if split == "train" else "Ts"
    images = destination / f"images{suffix}"
    images.mkdir(parents=True, exist_ok=True)
    if case.image_of is not None:
        # The image was read and written with the other rater's label; link_shared_images adds it to this case.
        geometry, _, header = read_header(case.reference_file)
        return _record(case, split, root, geometry, header, _write_labels(case, geometry, declared, destination))
    for file in dict.fromkeys(channel.path for channel in case.channels):
        check_gzip(file)
    volumes = case_volumes(case)
    reference = volumes[case.reference_file]
    repairs: list[str] = []
    for index, channel in enumerate(case.channels):
        target = images / f"{case.id}_{index:04d}{FILE_ENDING}"
        reasons = reasons_to_rewrite(channel.path, volumes[channel.path].geometry, volumes[channel.path].header)
        if reasons:
            save_nifti(target, channel_array(volumes, channel), reference.geometry)
            repairs.extend(reason for reason in reasons if reason not in repairs)
        else:
            shutil.copyfile(channel.path, target)
    if split == "train":
        repairs.extend(_write_labels(case, reference.geometry, declared, destination))
    return _record(case, split, root, reference.geometry, reference.header, repairs)


def link_shared_images(folder: Path, records: Sequence[CaseRecord]) -> None:
    """Give every case that shares another's image (``image_of``) that image under its own name: one file on the disk,
    and nnU-Net's raw layout all the same.

    Raises
    ------
    OSError: the disk is full.
    """
    for record in records:
        if record.image_of is None:
            continue
        images = folder / f"images{'Tr' if record.split == 'train' else 'Ts'}"
        for index in range(len(record.source_images)):
            ending = f"_{index:04d}{FILE_ENDING}"
            link_or_copy(images / f"{record.image_of}{ending}", images / f"{record.id}{ending}")


def _record(
    case: SourceCase, split: str, root: Path, geometry: Geometry, header: dict[str, Any], repairs: list[str]
) -> CaseRecord:
    return CaseRecord(
        id=case.id,
        group=case.group,
        stratum=case.stratum,
        rater=case.rater,
        split=split,
        source_images=[_below(channel.path, root) for channel in case.channels],
        source_label=_below(case.label, root) if case.label is not None and split == "train" else None,
        output_name=case.output_name,
        image_of=case.image_of,
        geometry=geometry,
        header=header,
        repairs=repairs,
        facts=case.facts,
    )


def reasons_to_rewrite(path: Path, geometry: Geometry, header: dict[str, Any]) -> list[str]:
    """Why a file cannot be copied as it is; empty where it can.

    A copy is right for a 3-D ``.nii.gz`` whose declared forms agree with each other and with ``pixdim``.
    """
    if header["format"] != "nifti":
        return [f"converted from {header['format']}"]
    reasons = []
    if not path.name.endswith(FILE_ENDING):
        reasons.append("compressed")
    if header["axes"] > 3:
        reasons.append("fourth axis split into channels")
    return reasons + form_problems(geometry, header)


def _write_labels(case: SourceCase, grid: Geometry, declared: set[int], destination: Path) -> list[str]:
    """Write a case's label, made of several raters' where it asks for that; return what was repaired."""
    if case.label is None:
        return []
    target = destination / "labelsTr" / f"{case.id}{FILE_ENDING}"
    target.parent.mkdir(exist_ok=True)
    if case.fusion is None:
        return _write_label(case.label, case.reference_file, grid, declared, target)
    files = (case.label, *case.other_labels)
    for file in files:
        check_gzip(file)
    save_nifti(target, fuse([read_label(file, declared, case.reference_file) for file in files], case.fusion), grid)
    return [f"label is the {case.fusion} of {', '.join(file.name for file in files)}"]


def _write_label(file: Path, image: Path, grid: Geometry, declared: set[int], target: Path) -> list[str]:
    """Write a label map on its image's grid; label headers are not trusted, arrays are (see ``read_label``)."""
    check_gzip(file)
    labels = read_label(file, declared, image)
    geometry, _, header = read_header(file)
    same_grid = np.allclose(geometry.affine_ras(), grid.affine_ras(), atol=SAME_AFFINE_MM)
    if same_grid and header.get("dtype") == "uint8" and not reasons_to_rewrite(file, geometry, header):
        shutil.copyfile(file, target)
        return []
    save_nifti(target, labels, grid)
    repairs = []
    if header.get("dtype") != "uint8":
        repairs.append(f"label stored as {header.get('dtype', header['format'])} written as uint8")
    if not same_grid:
        repairs.append("label header disagreed with the image's; the image's grid was taken")
    return repairs


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
