"""A data set in nnU-Net v2's raw layout, with or without our ``cases.json``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnunet_box.dataset.cases import CaseRecord, CasesFile, ChannelFile, SourceCase, SplitRule
from nnunet_box.dataset.volumes import NIFTI_SUFFIXES, OTHER_SUFFIXES, is_volume, strip_suffix
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.files import read_json

MOST_LABELS = 256
"""They are kept as bytes."""


@dataclass(frozen=True)
class Dataset:
    """A raw data set on disk.

    channel_names: in channel order; "CT" (any case) gets CT normalisation. labels: value to name, 0 is background.
    cases: training cases, sorted by id. test_cases: sorted by id, without labels. splits: how folds are made.
    """

    folder: Path
    name: str
    channel_names: tuple[str, ...]
    labels: dict[int, str]
    file_ending: str
    challenge: str | None
    cases: tuple[SourceCase, ...]
    test_cases: tuple[SourceCase, ...]
    splits: SplitRule = "groups"

    @property
    def foreground_labels(self) -> tuple[int, ...]:
        return tuple(sorted(value for value in self.labels if value != 0))


Report = Callable[[InvalidData], None]
"""What is done with a case that cannot be used: raise (the default), or note it and go on without the case."""


def _refuse(problem: InvalidData) -> None:
    raise problem


def load_dataset(folder: Path, report: Report = _refuse) -> Dataset:
    """Read ``dataset.json`` and pair images with labels by id.

    Without ``cases.json`` (a foreign nnU-Net folder) every case is a group of its own. Cases with a missing file go to
    ``report`` and are left out of the result if it returns.

    Raises
    ------
    InvalidData: no ``dataset.json``, region labels, a missing channel or label, an image without a label.
    """
    folder = Path(folder)
    file = folder / "dataset.json"
    declared = read_json(file)
    names = declared.get("channel_names") if isinstance(declared, dict) else None
    if not isinstance(names, dict) or not names or not isinstance(declared.get("labels"), dict):
        found = f"keys {sorted(declared)}" if isinstance(declared, dict) else type(declared).__name__
        fix = "Convert the data set: nnbox convert."
        raise InvalidData(file, "channel_names and labels (nnU-Net v2)", found, fix)
    if not all(re.fullmatch("[0-9]{1,4}", number) for number in names):
        raise InvalidData(file, "channel_names by number", f"{sorted(names)[:5]}", "Number the channels from 0.")
    channels = tuple(str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0])))
    labels = _labels(file, declared["labels"])
    ending = declared.get("file_ending", ".nii.gz")
    if ending not in (*NIFTI_SUFFIXES, *OTHER_SUFFIXES):
        expected = f"a file_ending of {', '.join((*NIFTI_SUFFIXES, *OTHER_SUFFIXES))}"
        raise InvalidData(file, expected, f"{ending!r}", "Convert the images to one of these formats.")
    records = _records(folder)
    facts = {record.id: record for record in records.cases} if records else {}
    cases = _folder_cases(folder / "imagesTr", len(channels), ending, folder / "labelsTr", facts, report)
    tests = _folder_cases(folder / "imagesTs", len(channels), ending, None, facts, report)
    challenge, splits = (records.challenge, records.splits) if records else (None, "groups")
    return Dataset(folder, folder.name, channels, labels, ending, challenge, cases, tests, splits)


def _labels(file: Path, declared: dict[str, Any]) -> dict[int, str]:
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in declared.values()):
        raise InvalidData(
            file,
            "one integer a label",
            "regions or an ignore label",
            "Give each voxel one label, a whole number: region-based training is not supported.",
        )
    labels = {int(value): str(name) for name, value in declared.items()}
    if 0 not in labels or sorted(labels) != list(range(len(labels))) or len(labels) > MOST_LABELS:
        expected = f"labels 0 (background), 1, 2, ... without gaps, at most {MOST_LABELS}"
        raise InvalidData(file, expected, f"{sorted(labels)[:20]}", "Renumber the labels.")
    return labels


def _records(folder: Path) -> CasesFile | None:
    file = folder / "cases.json"
    if not file.exists():
        return None
    try:
        return CasesFile.model_validate(read_json(file, schema_version=1))
    except ValidationError as error:
        raise InvalidData(
            file, "cases.json as nnbox convert writes it", _short(error), "Convert the data set again."
        ) from error


def _short(error: ValidationError) -> str:
    first, count = error.errors(include_url=False)[0], error.error_count()
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" + (f", and {count - 1} more" if count > 1 else "")


def _folder_cases(
    images: Path,
    channels: int,
    ending: str,
    labels: Path | None,
    records: dict[str, CaseRecord],
    report: Report = _refuse,
    incomplete: bool = False,
) -> tuple[SourceCase, ...]:
    """incomplete: keep cases with another number of channels, by which whoever reads them sees what they are."""
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(images.glob(f"*{ending}")) if images.is_dir() else []:
        stem = path.name[: -len(ending)]
        if is_volume(path) and stem[-5:-4] == "_" and stem[-4:].isdigit():
            found.setdefault(stem[:-5], {})[int(stem[-4:])] = path
    cases = []
    for case_id, files in sorted(found.items()):
        if sorted(files) != list(range(channels)) and not (incomplete and len(files) != channels):
            report(
                InvalidData(
                    images,
                    f"{channels} channels of {case_id}",
                    f"channels {sorted(files)}",
                    "Restore the missing file.",
                )
            )
            continue
        label = labels / f"{case_id}{ending}" if labels is not None else None
        if label is not None and not label.is_file():
            report(
                InvalidData(label, f"the label of {case_id}", "no such file", "Restore it or remove the case's images.")
            )
            continue
        record = records.get(case_id)
        cases.append(
            SourceCase(
                id=case_id,
                group=record.group if record else case_id,
                channels=tuple(ChannelFile(files[index]) for index in sorted(files)),
                label=label,
                stratum=record.stratum if record else None,
                rater=record.rater if record else None,
                output_name=record.output_name if record else f"{case_id}{ending}",
                image_of=record.image_of if record and record.image_of in found else None,
                facts=dict(record.facts) if record else {},
            )
        )
    for label in sorted(labels.glob(f"*{ending}")) if labels is not None and labels.is_dir() else []:
        if is_volume(label) and label.name[: -len(ending)] not in found:
            expected = images / f"{label.name[: -len(ending)]}_0000{ending}"
            report(
                InvalidData(expected, f"the image of {label.name}", "no such file", "Restore it or remove the label.")
            )
    return tuple(cases)


def plain_folder_cases(folder: Path, channels: int) -> tuple[SourceCase, ...]:
    """Cases of a plain folder: ``CASE_0000.nii.gz`` names, or, for one channel, one file a case.

    A case that lacks a channel has fewer of them: whoever reads it refuses it, and not the cases beside it.

    Raises
    ------
    InvalidData: no volumes, or names that do not say which channel a file is, or channels numbered otherwise.
    """
    volumes = sorted(path for path in Path(folder).iterdir() if is_volume(path)) if Path(folder).is_dir() else []
    if not volumes:
        raise InvalidData(folder, "images to predict", "none", "Give a folder of .nii.gz, .nii, .mha or .mhd files.")
    stems = [strip_suffix(path) for path in volumes]
    if all(len(stem) > 5 and stem[-5] == "_" and stem[-4:].isdigit() for stem in stems):
        ending = volumes[0].name[len(stems[0]) :]
        cases = _folder_cases(Path(folder), channels, ending, None, {}, incomplete=True)
    elif channels == 1:
        cases = tuple(
            SourceCase(id=stem, group=stem, channels=(ChannelFile(path),), output_name=f"{stem}.nii.gz")
            for stem, path in zip(stems, volumes, strict=True)
        )
    else:
        raise InvalidData(
            folder,
            f"{channels} files a case, CASE_0000 to CASE_{channels - 1:04d}",
            f"{volumes[0].name}",
            "Rename the channels.",
        )
    return cases


def _is_dataset(path: Path) -> bool:
    return not path.name.startswith(".") and (path / "dataset.json").is_file()


def find_dataset(workspace: Path, name: str | None) -> Path:
    """Folder of a data set: a path, a name in the workspace, or the only one there.

    Raises
    ------
    UsageError: no such data set, or none named where the workspace holds several.
    """
    root = workspace / "datasets"
    known = sorted(path.name for path in root.iterdir() if _is_dataset(path)) if root.is_dir() else []
    if name is None:
        if len(known) == 1:
            return root / known[0]
        raise UsageError(f"Which data set? {root} holds {', '.join(known) or 'none; run nnbox convert first'}.")
    if name in known:
        return root / name
    if (Path(name) / "dataset.json").is_file():
        return Path(name)
    raise UsageError(
        f"No data set {name!r}: not in {root} ({', '.join(known) or 'empty'}) and no folder with a dataset.json. "
        "Convert it first: nnbox convert."
    )
