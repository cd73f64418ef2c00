"""What adapters share: writing the nnU-Net v2 raw data set, groups, and the way back to the source's grid.

An adapter subclasses ``Adapter``, declares its facts and writes ``recognise``, ``test_cases`` and ``evaluate``.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnbox_challenges.conversion import (
    FILE_ENDING,
    Job,
    bytes_left,
    conversion_key,
    convert_cases,
    link_shared_images,
)
from nnunet_box.dataset.cases import CasesFile, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, ChallengeOption, Recognition, SubmissionPart
from nnunet_box.dataset.volumes import write_labels_like
from nnunet_box.disk import tell_if_tight
from nnunet_box.errors import InvalidData
from nnunet_box.files import continue_beside, remove_partial, save_json

CONVERTED = "converted.json"
"""What a data set was converted from: file in its folder."""
__all__ = ["FILE_ENDING", "Adapter"]


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
        What was repaired when the case was read is undone.

        Raises
        ------
        InvalidData: the labels have another shape than the source.
        """
        file = Path(output) / case.output_name
        write_labels_like(file, case.repair.undo(labels), case.reference_file)
        return file

    def convert(self, recognition: Recognition, destination: Path, workers: int | None = None) -> None:
        """Write the nnU-Net v2 raw data set and ``cases.json`` to ``destination``, whole or not at all.

        Every voxel is read and checked, also of files that are copied byte for byte. Finished cases of an interrupted
        run are kept beside ``destination`` and taken where sources and parameters are the same. ``workers``: cases at
        once; the files are the same whatever their number.

        Raises
        ------
        InvalidData: a file is missing, truncated, not finite, of another shape than its partner, or holds undeclared
        labels.
        NnboxError: the disk is full or the folder cannot be written.
        """
        labels = _declared(recognition)
        jobs: list[Job] = []
        with continue_beside(destination, lambda: bytes_left(jobs)) as (content, notes):
            jobs += self._jobs(recognition, content, notes)
            tell_if_tight(destination.parent, bytes_left(jobs), f"Converting {recognition.dataset_name}")
            records = convert_cases(jobs, f"Converting {recognition.dataset_name}", workers)
            link_shared_images(content, records)
            for name in self.kept_files:
                source = next(recognition.root.rglob(name), None)
                if source is not None:
                    shutil.copyfile(source, content / name)
            cases = CasesFile(
                challenge=self.name, source=str(recognition.root), splits=recognition.splits, cases=records
            )
            save_json(content / "cases.json", cases.model_dump(mode="json"))
            save_json(content / CONVERTED, self._made_from(recognition, jobs))
            # Last: a folder with a dataset.json is a data set.
            save_json(content / "dataset.json", self._dataset_json(recognition, labels))

    def is_converted(self, recognition: Recognition, destination: Path) -> bool:
        """Whether ``destination`` is what ``convert`` would make of it now; what was left beside it goes then."""
        jobs = self._jobs(recognition, destination, destination)
        try:
            found = json.loads((destination / CONVERTED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        files = [file for job in jobs for file in job.files]
        if found != self._made_from(recognition, jobs) or not all(file.is_file() for file in files):
            return False
        remove_partial(destination)
        return True

    def _jobs(self, recognition: Recognition, content: Path, notes: Path) -> list[Job]:
        plan = [("train", case) for case in recognition.training] + [("test", case) for case in recognition.test]
        labels = tuple(_declared(recognition))
        return [Job(case, split, labels, recognition.root, content, notes) for split, case in plan]

    def _made_from(self, recognition: Recognition, jobs: Sequence[Job]) -> dict[str, Any]:
        named = (self.name, recognition.dataset_name, recognition.splits, recognition.channel_names)
        return {"schema_version": 1, "key": conversion_key(named, jobs)}

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
