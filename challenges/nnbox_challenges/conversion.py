"""From recognised cases to files: checked, repaired, in parallel, and going on where an interrupted run stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnbox_challenges.raters import fuse
from nnunet_box import __version__
from nnunet_box.dataset.cases import (
    CaseRecord,
    SourceCase,
    case_headers,
    check_finite_slabs,
    check_label_shape,
    label_values,
    read_label,
)
from nnunet_box.dataset.forms import SAME_AFFINE_MM, form_problems
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.metaimage import open_metaimage
from nnunet_box.dataset.streaming import read_slabs, save_slabs
from nnunet_box.dataset.untrusted import check_gzip
from nnunet_box.dataset.volumes import NIFTI_SUFFIXES, read_header, save_nifti, stored_type
from nnunet_box.errors import InvalidData
from nnunet_box.files import link_or_copy, write_json
from nnunet_box.parallel import map_cases, workers_that_fit
from nnunet_box.progress import say

FILE_ENDING = ".nii.gz"
WORKER_BYTES = 256 << 20
"""A worker's interpreter, libraries and slabs."""

WIDEST_VOXEL = 8
"""Bytes; what a file that is read as a whole may take, whatever its type."""

WORTH_A_PROCESS = 64 << 20
"""Bytes of source files; fewer are converted before other processes would have started."""


@dataclass(frozen=True)
class Job:
    """One case to convert. declared: its label values. root: the download. content, notes: see ``continue_beside``."""

    case: SourceCase
    split: str
    declared: tuple[int, ...]
    root: Path
    content: Path
    notes: Path

    @property
    def label(self) -> Path | None:
        """The label to convert; a test case's is not."""
        return self.case.label if self.split == "train" else None

    @property
    def sources(self) -> list[Path]:
        files = dict.fromkeys(channel.path for channel in self.case.channels)
        return [*files, *([self.label, *self.case.other_labels] if self.label is not None else [])]

    @property
    def targets(self) -> list[Path]:
        """One image a channel, unless it is another case's (see ``link_shared_images``); then the label where there is
        one.
        """
        return self.files if self.case.image_of is None else self.files[len(self.case.channels) :]

    @property
    def files(self) -> list[Path]:
        """All files of the case, written or linked."""
        images = image_files(self.content, self.case.id, self.split, len(self.case.channels))
        return images + ([] if self.label is None else [self.content / "labelsTr" / f"{self.case.id}{FILE_ENDING}"])

    @property
    def note(self) -> Path:
        return self.notes / f"{self.case.id}.json"

    @cached_property
    def key(self) -> Any:
        """What the finished files depend on: the case, its source files' size and time, the parameters, the version."""
        parts = [part for file in self.sources if file.is_file() for part in _stored_in(file)]
        stamps = [(str(part), part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
        key = {"version": __version__, "split": self.split, "declared": self.declared, "sources": stamps}
        return json.loads(json.dumps({**key, "case": asdict(self.case)}, default=str))


def conversion_key(named: Sequence[object], jobs: Sequence[Job]) -> str:
    """What says that a conversion would give other files: the cases' keys. named: what else stands in the data set."""
    facts = json.dumps([*named, *(job.key for job in jobs)], sort_keys=True, default=str)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def bytes_left(jobs: Sequence[Job]) -> float:
    """About what the cases that are not finished will take: what their sources do."""
    return sum(file.stat().st_size for job in jobs if not job.note.is_file() for file in job.sources if file.is_file())


def _stored_in(file: Path) -> list[Path]:
    """A file, and where it is a header without voxels that of its voxels."""
    if file.suffix.lower() != ".mhd":
        return [file]
    try:
        return [file, open_metaimage(file).data]
    except InvalidData:  # Converting it will say so.
        return [file]


def image_files(folder: Path, case_id: str, split: str, channels: int) -> list[Path]:
    """Where a case's images lie in nnU-Net's raw layout, one a channel. split: ``train`` or ``test``."""
    images = folder / f"images{'Tr' if split == 'train' else 'Ts'}"
    return [images / f"{case_id}_{index:04d}{FILE_ENDING}" for index in range(channels)]


def link_shared_images(folder: Path, records: Sequence[CaseRecord]) -> None:
    """Give every case that shares another's image (``image_of``) that image under its own name: one file on the disk,
    and nnU-Net's raw layout all the same.

    Raises
    ------
    OSError: the disk is full.
    """
    for record in records:
        if record.image_of is not None:
            own, other = (
                image_files(folder, case_id, record.split, len(record.source_images))
                for case_id in (record.id, record.image_of)
            )
            for source, target in zip(other, own, strict=True):
                link_or_copy(source, target)


def convert_cases(jobs: Sequence[Job], what: str, workers: int | None) -> list[CaseRecord]:
    """Convert every case that an earlier run has not finished; return all entries of ``cases.json`` in the jobs' order.

    The files are the same whatever the number of ``workers``; by default as many as cores and free memory allow.

    Raises
    ------
    InvalidData: see ``write_case``. OSError: the disk is full.
    """
    records = {job.case.id: record for job in jobs if (record := _finished(job)) is not None}
    remaining = [job for job in jobs if job.case.id not in records]
    _remove_strangers([job for job in jobs if job.case.id in records], jobs[0].content, jobs[0].notes)
    if records:
        say(f"{what}: {len(records)} of {len(jobs)} cases were finished before")
    try:
        for job, record in map_cases(write_case, remaining, what, workers or _workers(remaining), "--workers"):
            records[job.case.id] = record
    except BaseException:
        kept = len(list(jobs[0].notes.glob("*.json")))
        if kept:
            say(
                f"{what}: {kept} finished cases are kept in {jobs[0].notes.parent}; the same command goes on from there"
            )
        raise
    return [records[job.case.id] for job in jobs]


def _workers(jobs: Sequence[Job]) -> int:
    if sum(file.stat().st_size for job in jobs for file in job.sources if file.is_file()) < WORTH_A_PROCESS:
        return 1
    return workers_that_fit(WORKER_BYTES + max(_held_whole(job) for job in jobs))


def _held_whole(job: Job) -> int:
    """Bytes of the largest file of a case that cannot be read slab by slab; 0 where all can."""
    whole = [
        file
        for file in job.sources
        if job.case.repair.axes != (0, 1, 2) or not file.name.lower().endswith(NIFTI_SUFFIXES)
    ]
    sizes = []
    for file in whole:
        geometry, channels, _ = read_header(file)
        sizes.append(int(np.prod(geometry.shape)) * channels * WIDEST_VOXEL)
    return max(sizes, default=0)


def _finished(job: Job) -> CaseRecord | None:
    """The entry of a case an earlier run finished from the same sources in the same way; None where it has to be
    done.
    """
    try:
        note = json.loads(job.note.read_text(encoding="utf-8"))
        same = note["key"] == job.key and note["sizes"] == [target.stat().st_size for target in job.targets]
    except (OSError, ValueError, KeyError):
        return None
    return CaseRecord.model_validate(note["record"]) if same else None


def _remove_strangers(finished: Sequence[Job], content: Path, notes: Path) -> None:
    """Remove what no finished case owns: halves of cases, and cases of an earlier run that this one does not have."""
    owned = {path for job in finished for path in (*job.targets, job.note)}
    for folder in (content, notes):
        for path in folder.rglob("*"):
            if path.is_file() and path not in owned:
                path.unlink()


def write_case(job: Job) -> CaseRecord:
    """Check one case and write its images and label, then the note that says so; return its entry of ``cases.json``.

    Raises
    ------
    InvalidData: a file is missing, truncated, not finite, of another shape than its partner, or holds undeclared
    labels.
    OSError: the disk is full.
    """
    case, key = job.case, job.key
    try:
        for folder in {target.parent for target in job.targets}:
            folder.mkdir(parents=True, exist_ok=True)
        headers = case_headers(case)
        geometry, header = headers[case.reference_file]
        grid = case.repair.grid(geometry)
        repairs = list(case.repair.reasons)
        for file, (own, facts) in headers.items() if case.image_of is None else ():
            targets = {
                channel.index or 0: target
                for channel, target in zip(case.channels, job.targets, strict=False)
                if channel.path == file
            }
            repairs += [
                reason for reason in _write_image(file, own, facts, grid, case, targets) if reason not in repairs
            ]
        if job.label is not None:
            write = _write_label if case.fusion is None else _write_fused
            repairs += write(job.label, case, grid, set(job.declared), job.targets[-1])
        record = CaseRecord(
            id=case.id,
            group=case.group,
            stratum=case.stratum,
            rater=case.rater,
            split=job.split,
            source_images=[_below(channel.path, job.root) for channel in case.channels],
            source_label=_below(job.label, job.root) if job.label is not None else None,
            output_name=case.output_name,
            image_of=case.image_of,
            geometry=geometry,
            header=header,
            repairs=repairs,
            repair=case.repair,
            facts=case.facts,
        )
        for target in job.targets:
            with target.open("rb") as written:
                os.fsync(written.fileno())
        sizes = [target.stat().st_size for target in job.targets]
    except BaseException as problem:
        for target in job.targets:
            target.unlink(missing_ok=True)
        if isinstance(problem, InvalidData) and problem.file in job.sources and problem.file.is_file():
            # Damage shows up as an odd header or odd voxels before the checksum at the file's end is reached.
            check_gzip(problem.file)
        raise
    write_json(job.note, {"key": key, "sizes": sizes, "record": record.model_dump(mode="json")})
    return record


def _write_image(
    file: Path, geometry: Geometry, header: dict[str, Any], grid: Geometry, case: SourceCase, targets: dict[int, Path]
) -> list[str]:
    """Write a file's channels; return what was repaired on the way, beyond what the case says."""
    dtype, extremes = check_finite_slabs(read_slabs(file), file)
    reasons = reasons_to_rewrite(file, geometry, header)
    if reasons or case.repair.reasons:
        save_slabs(read_slabs(file, case.repair), targets, stored_type(dtype, extremes), grid)
    else:
        shutil.copyfile(file, targets[0])
    return reasons


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


def _write_label(file: Path, case: SourceCase, grid: Geometry, declared: set[int], target: Path) -> list[str]:
    """Write a label map on its image's grid; label headers are not trusted, arrays are (see ``read_label``)."""
    check_label_shape(file, case.reference_file)
    for _, _, slab in read_slabs(file):
        label_values(slab, declared, file)
    geometry, _, header = read_header(file)
    same_grid = np.allclose(case.repair.grid(geometry).affine_ras(), grid.affine_ras(), atol=SAME_AFFINE_MM)
    whole = same_grid and header.get("dtype") == "uint8" and not reasons_to_rewrite(file, geometry, header)
    if whole and not case.repair.reasons:
        shutil.copyfile(file, target)
        return []
    save_slabs(read_slabs(file, case.repair), {0: target}, np.dtype(np.uint8), grid)
    repairs = []
    if header.get("dtype") != "uint8":
        repairs.append(f"label stored as {header.get('dtype', header['format'])} written as uint8")
    if not same_grid:
        repairs.append("label header disagreed with the image's; the image's grid was taken")
    return repairs


def _write_fused(file: Path, case: SourceCase, grid: Geometry, declared: set[int], target: Path) -> list[str]:
    """Write one label map made of several raters', of which ``file`` is the first."""
    assert case.fusion is not None
    files = (file, *case.other_labels)
    fused = fuse([read_label(one, declared, case.reference_file) for one in files], case.fusion)
    save_nifti(target, case.repair.apply(fused), grid)
    return [f"label is the {case.fusion} of {', '.join(one.name for one in files)}"]


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
