"""The data set doctor: every finding at once, from the same checks that conversion and preprocessing stop at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np

from nnunet_box.dataset.cases import SourceCase, case_volumes, channel_array, read_label
from nnunet_box.dataset.check_cohort import CaseFacts, cohort_findings
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.dataset.findings import Finding
from nnunet_box.dataset.forms import SAME_AFFINE_MM, form_problems
from nnunet_box.dataset.splits import FOLDS, check_folds, read_folds
from nnunet_box.dataset.untrusted import check_gzip
from nnunet_box.dataset.volumes import Volume, read_header
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json
from nnunet_box.progress import track

REPAIR = "nnbox check --fix writes the workspace's copy anew."


def check_dataset(folder: Path, splits: Path | None = None) -> list[Finding]:
    """All findings of a raw data set, errors first. One case is in memory at a time.

    splits: ``splits.json`` of the data set, looked at where it exists.

    Raises
    ------
    InvalidData: ``dataset.json`` or ``cases.json`` cannot be read, so that there is no data set to look at.
    """
    findings: list[Finding] = []
    dataset = load_dataset(folder, report=lambda problem: findings.append(Finding.of(problem)))
    findings.extend(_counts(dataset))
    if splits is not None and splits.exists():
        findings.extend(_splits(dataset, splits))
    facts: list[CaseFacts] = []
    for case in track((*dataset.cases, *dataset.test_cases), "Checking cases"):
        found, known = check_case(case, dataset.labels)
        findings.extend(found)
        if known is not None:
            facts.append(known)
    findings.extend(cohort_findings(dataset, facts))
    return sorted(findings, key=lambda finding: finding.severity)


def check_case(case: SourceCase, labels: dict[int, str]) -> tuple[list[Finding], CaseFacts | None]:
    """All findings of one case, its image and its label looked at independently, and what is compared between cases;
    None of that where the image cannot be read.
    """
    findings: list[Finding] = []
    try:
        for file in dict.fromkeys(channel.path for channel in case.channels):
            check_gzip(file)
        volumes = case_volumes(case)
    except InvalidData as problem:
        return [Finding.of(problem), *_label(case, labels)[0]], None
    findings.extend(_image(case, volumes))
    digest, geometry = _digest(case, volumes), volumes[case.reference_file].geometry
    # The image goes before the label comes: they need not be in memory together.
    del volumes
    found, present = _label(case, labels)
    return findings + found, CaseFacts(case, geometry, digest, present)


def _image(case: SourceCase, volumes: dict[Path, Volume]) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for channel in case.channels:
        array = channel_array(volumes, channel)
        if array.min() == array.max():
            found = f"{array.flat[0]} in every voxel"
            yield Finding("warning", str(channel.path), "an image with contrast", found, "Look at the file.")
            continue
        content = hashlib.blake2b(np.ascontiguousarray(array).data).hexdigest()
        if content in seen:
            yield Finding(
                "warning",
                str(channel.path),
                "another image than in the case's other channels",
                f"the voxels of {seen[content].name}",
                "Take the channel from the download again, or leave it out.",
            )
        seen[content] = channel.path
    for file, volume in volumes.items():
        yield from _forms(file, volume.header, form_problems(volume.geometry, volume.header))


def _digest(case: SourceCase, volumes: dict[Path, Volume]) -> str:
    """Hash of a case's voxels, whatever type, header and compression they are stored with."""
    digest = hashlib.blake2b(digest_size=20)
    for channel in case.channels:
        array = channel_array(volumes, channel)
        digest.update(f"{array.shape}".encode())
        for plane in array:
            digest.update(np.ascontiguousarray(plane, dtype=np.float64).data)
    return digest.hexdigest()


def _label(case: SourceCase, labels: dict[int, str]) -> tuple[list[Finding], frozenset[int] | None]:
    """Findings of a case's label, and the values in it; None without a label that can be read."""
    if case.label is None:
        return [], None
    try:
        check_gzip(case.label)
        label = read_label(case.label, set(labels), case.reference_file)
    except InvalidData as problem:
        # An image whose header does not open has been told already; its label has nothing to be compared with.
        return ([Finding.of(problem)] if problem.file != case.reference_file else []), None
    findings = list(_label_header(case, case.label))
    if not label.any():
        fix = "Leave it if the structure is really absent."
        findings.append(Finding("warning", str(case.label), "some foreground", "background only", fix))
    return findings, frozenset(int(value) for value in np.unique(label))


def _label_header(case: SourceCase, file: Path) -> Iterator[Finding]:
    geometry, _, header = read_header(file)
    image = read_header(case.reference_file)[0]
    if not np.allclose(image.affine_ras(), geometry.affine_ras(), atol=SAME_AFFINE_MM):
        yield Finding(
            "warning",
            str(file),
            f"the grid of {case.reference_file.name} ({_grid(image.affine_ras())})",
            _grid(geometry.affine_ras()),
            f"Voxels are compared, not headers; look at image and label together once. {REPAIR}",
            fixable=True,
        )
    yield from _forms(file, header, form_problems(geometry, header))
    if str(header.get("dtype", "")).startswith("float"):
        yield Finding("warning", str(file), "a label map of integers", header["dtype"], REPAIR, fixable=True)


def _forms(file: Path, header: dict[str, object], problems: list[str]) -> Iterator[Finding]:
    for problem in problems:
        found, _, remedy = problem.partition("; ")
        codes = f"qform code {header['qform_code']}, sform code {header['sform_code']}"
        yield Finding(
            "warning",
            str(file),
            "qform, sform and pixdim that agree",
            f"{found} ({codes})",
            f"{REPAIR[:-1]}: {remedy}.",
            fixable=True,
        )


def _grid(affine: np.ndarray) -> str:
    spacing = " x ".join(f"{length:g}" for length in np.linalg.norm(affine[:3, :3], axis=0))
    origin = ", ".join(f"{value:g}" for value in affine[:3, 3])
    return f"{''.join(nibabel.aff2axcodes(affine))}, {spacing} mm, origin {origin}"


def _splits(dataset: Dataset, file: Path) -> Iterator[Finding]:
    try:
        check_folds(read_folds(file), dataset.cases, file)
    except InvalidData as problem:
        yield Finding.of(problem)


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
