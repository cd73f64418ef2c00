"""Everything for which an organiser would refuse an archive, found before it is uploaded."""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from nnunet_box.dataset.cases import SourceCase, check_finite
from nnunet_box.dataset.challenge import ChallengeFacts, SubmissionForm, SubmissionPart
from nnunet_box.dataset.findings import Finding
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import Volume, is_junk, read_header, read_volume, strip_suffix
from nnunet_box.disk import disk_errors
from nnunet_box.errors import InvalidData
from nnunet_box.progress import track
from nnunet_box.submission.members import check_compression, copy_member, objection, open_zip

SPACING_MM = 1e-3
ORIGIN_MM = 1e-2
"""Headers hold 32-bit floats and quaternions; a second writer rounds once more. A voxel is at least 0.2 mm."""

DIRECTION = 1e-3
LARGEST_VOXEL = 8
"""Bytes of the largest number a label map may be stored in, so that a wrong type is named and not only its size."""

HEADER_BYTES = 1 << 20
AGAIN = "Predict this case again with nnbox predict --challenge."


@dataclass(frozen=True)
class Wanted:
    """One prediction the archive has to hold. names: its files in the archive, the one that is opened first."""

    names: tuple[str, ...]
    case: SourceCase
    labels: frozenset[int]


def wanted(parts: Sequence[SubmissionPart], form: SubmissionForm) -> list[Wanted]:
    """All predictions, in the order of their names.

    Raises
    ------
    InvalidData: two cases of one name.
    """
    result = []
    for part in parts:
        labels = frozenset(form.labels if form.labels is not None else part.task.labels)
        for case in part.cases:
            names = tuple((PurePosixPath(part.folder) / name).as_posix() for name in form.files(case.output_name))
            result.append(Wanted(names, case, labels))
    twice = [name for name, times in Counter(item.names[0] for item in result).items() if times > 1]
    if twice:
        raise InvalidData(twice[0], "one case of that name", "two", "Give the test folder of one copy of the download.")
    return sorted(result, key=lambda item: item.names)


def verify_archive(path: Path, facts: ChallengeFacts, parts: Sequence[SubmissionPart]) -> list[Finding]:
    """All findings, errors first; the archive would be taken where none is an error.

    One member at a time is copied to a temporary file under a name of the test folder's, after its size was held
    against what its image's shape allows; nothing is written where the archive says.

    Raises
    ------
    InvalidData: the test folder cannot be read.
    """
    findings: list[Finding] = list(_counts(facts, parts))
    expected = wanted(parts, facts.form)
    limit = facts.form.most_bytes
    try:
        archive = open_zip(Path(path))
    except InvalidData as problem:
        return [Finding.of(problem)]
    with archive:
        size = Path(path).stat().st_size
        if limit is not None and size > limit:
            fix = "Ask the organisers, or leave out what they do not want."
            findings.append(Finding("error", str(path), f"at most {limit} bytes", f"{size} bytes", fix))
        names = {name for item in expected for name in item.names}
        members, problems = _members(archive, names)
        findings += problems
        for item in track(expected, "Verifying"):
            findings += _prediction(archive, members, item, facts.form)
    return sorted(findings, key=lambda finding: finding.severity)


def _counts(facts: ChallengeFacts, parts: Sequence[SubmissionPart]) -> Iterator[Finding]:
    """A test folder that is not the whole of what is published."""
    fix = "Give the whole test folder before you upload."
    if len(parts) < len(facts.tasks):
        names = ", ".join(part.task.name for part in parts)
        yield Finding("warning", "test folder", f"{len(facts.tasks)} tasks", f"{len(parts)}: {names}", fix)
    for part in parts:
        if len(part.cases) < part.task.test:
            expected = f"{part.task.test} published test cases of {part.task.name}"
            yield Finding("warning", "test folder", expected, f"{len(part.cases)}", fix)


def _members(archive: zipfile.ZipFile, names: set[str]) -> tuple[dict[str, zipfile.ZipInfo], list[Finding]]:
    """The members to be looked into, by the name they should have, and what is wrong with members by their entries."""
    findings: list[Finding] = []
    members: dict[str, zipfile.ZipInfo] = {}
    strangers: list[zipfile.ZipInfo] = []
    infos = archive.infolist()
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    for name, times in Counter(info.filename for info in infos).items():
        if times > 1:
            fix = "Make the archive again; unpackers disagree on which one counts."
            findings.append(Finding("error", name, "one member of that name", f"{times}", fix))
    for info in infos:
        problem = objection(info)
        if problem is not None:
            findings.append(Finding("error", info.orig_filename, *problem, "Make the archive again without it."))
            if info.filename in names:
                members[info.filename] = info
        elif info.is_dir():
            inside = any(other.filename.startswith(info.filename) for other in infos if other is not info)
            if info.filename.rstrip("/") not in folders and not inside and not is_junk(Path(info.filename)):
                findings.append(_stranger(info))
        elif is_junk(Path(info.filename)):
            fix = "Zip the predictions only: nnbox build-submission archive does."
            findings.append(Finding("error", info.filename, "predictions only", "a system's junk file", fix))
        elif info.filename in names:
            members[info.filename] = info
        else:
            strangers.append(info)
    for info in strangers:
        meant, finding = _meant(info, names - set(members))
        findings.append(finding)
        if meant is not None:
            members[meant] = info
    return members, findings


def _stranger(info: zipfile.ZipInfo) -> Finding:
    return Finding(
        "error", info.filename, "the test cases' predictions only", "a file of no test case", "Leave it out."
    )


def _meant(info: zipfile.ZipInfo, missing: set[str]) -> tuple[str | None, Finding]:
    """Which of the missing files a member of another name is, and what is wrong with its name."""
    own = PurePosixPath(info.filename)
    for name in sorted(missing):
        other = PurePosixPath(name)
        if own.name == other.name:
            where = f"in the folder {own.parent.as_posix()}" if own.parent.name else "at the root"
            fix = "Zip the files themselves, not the folder they lie in." if own.parent.name else "Zip the folders."
            return name, Finding("error", info.filename, name, f"the file {where}", fix)
        if own.as_posix().casefold() == other.as_posix().casefold():
            fix = "Rename it; the scorer's names are case-sensitive."
            return name, Finding("error", info.filename, name, "other capital letters", fix)
    for name in sorted(missing):
        if strip_suffix(Path(own)) == strip_suffix(Path(name)) and own.suffix != PurePosixPath(name).suffix:
            ending = own.name.removeprefix(strip_suffix(Path(own)))
            fix = "Export it in the format that is wanted: nnbox predict --challenge."
            return None, Finding("error", info.filename, name, f"another format ({ending})", fix)
    return None, _stranger(info)


def _prediction(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], item: Wanted, form: SubmissionForm
) -> Iterator[Finding]:
    """Findings of one prediction's content."""
    absent = [name for name in item.names if name not in members]
    for name in absent:
        fix = "Predict it, or repair its name, and make the archive again."
        yield Finding("error", name, f"the prediction of {item.case.id}", "no such member", fix)
    # What the entry alone forbids to open has been told.
    if absent or any(objection(members[name]) is not None for name in item.names):
        return
    image = read_header(item.case.reference_file)[0]
    most = math.prod(image.shape) * LARGEST_VOXEL + HEADER_BYTES
    with tempfile.TemporaryDirectory(prefix="nnbox-verify-") as folder:
        try:
            for name in item.names:
                file = Path(folder) / PurePosixPath(name).name
                # Not the archive's disk, where this is part of building one.
                with disk_errors(file, members[name].file_size):
                    copy_member(archive, members[name], file, most)
                check_compression(file, name, most)
            yield from content_findings(Path(folder) / PurePosixPath(item.names[0]).name, item, image, form)
        except InvalidData as problem:
            yield Finding("error", item.names[0], problem.expected, problem.found, problem.fix)


def content_findings(file: Path, item: Wanted, image: Geometry, form: SubmissionForm) -> Iterator[Finding]:
    """What is wrong with a prediction's content. image: the grid it has to have. Grid first, from the header alone:
    voxels are read only where the shape is the image's.

    Raises
    ------
    InvalidData: it cannot be read.
    """
    name = item.names[0]
    grid, channels, header = read_header(file)
    yield from _grid(name, grid, image, form)
    if channels > 1 or header.get("axes", 3) > 3:
        yield Finding("error", name, "3 axes", f"{max(header.get('axes', 4), 4)} axes", AGAIN)
        return
    if grid.shape != image.shape:
        return
    volume = read_volume(file)
    stored = str(header.get("dtype", volume.array.dtype))
    if np.dtype(volume.array.dtype).kind not in "iuf":
        yield Finding("error", name, f"{form.dtype} voxels", stored, AGAIN)
        return
    if stored != form.dtype:
        severity: Literal["error", "warning"] = "warning" if np.dtype(stored).kind in "iu" else "error"
        yield Finding(severity, name, f"{form.dtype} voxels", stored, AGAIN)
    yield from _labels(name, volume, item)


def _grid(name: str, grid: Geometry, image: Geometry, form: SubmissionForm) -> Iterator[Finding]:
    """A prediction's grid against its image's; shapes are told as (x, y, z), as files and viewers have them."""
    if grid.shape != image.shape:
        turned = " (the axes are in another order)" if sorted(grid.shape) == sorted(image.shape) else ""
        fix = "Bring it back to the image's voxels; do not resample or reorient what you export."
        yield Finding("error", name, f"shape {image.shape[::-1]}", f"{grid.shape[::-1]}{turned}", fix)
    if not np.allclose(grid.spacing, image.spacing, atol=SPACING_MM):
        expected = f"spacing {_numbers(image.spacing[::-1])} mm"
        yield Finding("error", name, expected, f"{_numbers(grid.spacing[::-1])} mm", "Copy the image's header.")
    severity: Literal["error", "warning"] = "error" if form.same_affine else "warning"
    if not np.allclose(grid.origin, image.origin, atol=ORIGIN_MM):
        expected = f"an affine with origin {_numbers(image.origin)} mm (LPS)"
        yield Finding(severity, name, expected, f"{_numbers(grid.origin)}", "Copy the image's header.")
    if not np.allclose(grid.direction, image.direction, atol=DIRECTION):
        expected = f"an affine with directions {_numbers(image.direction)}"
        yield Finding(severity, name, expected, f"{_numbers(grid.direction)}", "Copy the image's header.")


def _labels(name: str, volume: Volume, item: Wanted) -> Iterator[Finding]:
    array = volume.array
    check_finite(array, Path(name))
    values = np.unique(array)
    if not np.array_equal(values, np.rint(values)):
        fraction = values[values != np.rint(values)][0]
        yield Finding("error", name, "whole label values", f"{fraction:g}", "Export labels, not probabilities.")
    unknown = [f"{value:g}" for value in values if float(value) not in item.labels]
    if unknown:
        more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        found = f"{', '.join(unknown[:6])}{more}"
        yield Finding("error", name, f"labels {sorted(item.labels)}", found, "Map the labels to the challenge's.")
    if not np.any(values):
        fix = "Look at the case; leave it if nothing is there."
        yield Finding("warning", name, "some foreground", "background only", fix)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
