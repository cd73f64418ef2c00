"""The data set doctor: every finding at once, from the same checks that conversion and preprocessing stop at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from nnunet_box.dataset.cases import SourceCase, case_volumes, channel_array, read_label
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.dataset.splits import FOLDS
from nnunet_box.dataset.volumes import check_gzip, read_header
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json
from nnunet_box.progress import track

AFFINE_TOLERANCE = 1e-3
"""Label and image affines closer than this (millimetres) are the same, as far as a warning goes."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a data set. ``error`` keeps it from being used, ``warning`` does not."""

    severity: Literal["error", "warning"]
    file: str
    expected: str
    found: str
    fix: str

    @classmethod
    def of(cls, problem: InvalidData) -> Finding:
        return cls("error", str(problem.file), problem.expected, problem.found, problem.fix)


def check_dataset(folder: Path) -> list[Finding]:
    """All findings of a raw data set, errors first.

    Raises
    ------
    InvalidData: ``dataset.json`` or ``cases.json`` cannot be read, so that there is no data set to look at.
    """
    findings: list[Finding] = []
    dataset = load_dataset(folder, report=lambda problem: findings.append(Finding.of(problem)))
    findings.extend(_counts(dataset))
    cases = (*dataset.cases, *dataset.test_cases)
    for case in track(cases, "Checking cases"):
        findings.extend(check_case(case, dataset.labels))
    return sorted(findings, key=lambda finding: finding.severity)


def check_case(case: SourceCase, labels: dict[int, str]) -> Iterator[Finding]:
    """All findings of one case; its image and its label are looked at independently."""
    files = dict.fromkeys(channel.path for channel in case.channels)
    try:
        for file in files:
            check_gzip(file)
        volumes = case_volumes(case)
    except InvalidData as problem:
        yield Finding.of(problem)
    else:
        for channel in case.channels:
            array = channel_array(volumes, channel)
            if array.min() == array.max():
                yield Finding(
                    "warning",
                    str(channel.path),
                    "an image with contrast",
                    f"{array.flat[0]} in every voxel",
                    "Look at the file.",
                )
    if case.label is None:
        return
    try:
        check_gzip(case.label)
        label = read_label(case.label, set(labels), case.reference_file)
    except InvalidData as problem:
        # An image whose header does not open has been told above; its label has nothing to be compared with.
        if problem.file != case.reference_file:
            yield Finding.of(problem)
        return
    if not label.any():
        yield Finding(
            "warning",
            str(case.label),
            "some foreground",
            "background only",
            "Leave it if the structure is really absent.",
        )
    yield from _label_grid(case)


def _label_grid(case: SourceCase) -> Iterator[Finding]:
    if case.label is None:
        return
    image, label = read_header(case.reference_file)[0], read_header(case.label)[0]
    if not np.allclose(image.affine_ras(), label.affine_ras(), atol=AFFINE_TOLERANCE):
        yield Finding(
            "warning",
            str(case.label),
            f"the grid of {case.reference_file.name} ({_grid(image.affine_ras())})",
            _grid(label.affine_ras()),
            "Voxels are compared, not headers; look at image and label together once.",
        )


def _grid(affine: np.ndarray) -> str:
    spacing = " x ".join(f"{length:g}" for length in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ", ".join(f"{value:g}" for value in affine[:3, 3])
    return f"{''.join(nibabel.aff2axcodes(affine))}, {spacing} mm, origin {origin}"


def _counts(dataset: Dataset) -> Iterator[Finding]:
    file = dataset.folder / "dataset.json"
    announced = read_json(file).get("numTraining")
    if announced is not None and announced != len(dataset.cases):
        yield Finding(
            "warning",
            str(file),
            f"numTraining {announced}",
            f"{len(dataset.cases)} usable cases",
            "Correct the number or restore cases.",
        )
    if not dataset.cases:
        yield Finding(
            "error",
            str(dataset.folder / "imagesTr"),
            "training cases",
            "none",
            "Convert the download again: nnbox convert.",
        )
    groups = len({case.group for case in dataset.cases})
    least = 2 if dataset.splits == "leave-one-group-out" else FOLDS
    if dataset.cases and groups < least:
        yield Finding(
            "warning", str(file), f"at least {least} groups (patients) for cross-validation", f"{groups}", "Add cases."
        )
    if (dataset.folder / "cases.json").is_file():
        recorded = {record["id"] for record in read_json(dataset.folder / "cases.json")["cases"]}
        present = {case.id for case in (*dataset.cases, *dataset.test_cases)}
        for case_id in sorted(recorded - present):
            yield Finding(
                "warning",
                str(dataset.folder / "cases.json"),
                f"files of {case_id}",
                "none usable",
                "Restore them or convert again.",
            )
