"""Medical Segmentation Decathlon: ten tasks in one layout, driven by each download's own ``dataset.json``.

Layout, names and terms: medicaldecathlon.com; Antonelli et al., Nature Communications 13, 4128 (2022).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnbox_challenges import published
from nnbox_challenges.base import FILE_ENDING, Adapter
from nnbox_challenges.bcv_layout import IMAGE as BCV_IMAGE
from nnbox_challenges.decathlon_tasks import CAVEATS, PREFIXES, TASKS, TOLERANCES_MM, task_facts
from nnbox_challenges.layout import (
    CHANNEL_SUFFIX,
    children,
    describe,
    folders_below,
    natural_key,
    plain_cases,
    require_folder,
    volume_at,
)
from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, Recognition, SubmissionForm, SubmissionPart, TaskFacts
from nnunet_box.dataset.volumes import is_volume, read_header, strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json

V1_FOLDER = re.compile(r"Task\d{3}_\w+")
V2_FOLDER = re.compile(r"Dataset\d{3}_\w+")


class Decathlon(Adapter):
    """One task of the Decathlon.

    tolerances: millimetres for the surface Dice, by task folder name; the defaults are in ``decathlon_tasks``.
    """

    name = "decathlon"
    title = "Medical Segmentation Decathlon"
    facts = ChallengeFacts(
        tasks=TASKS,
        group="the case (Task04's left and right hippocampus of a subject cannot be paired by name)",
        metrics="Dice and surface Dice (NSD) per label, mean over cases",
        submission="one zip, the ten task folders at its root, each with one .nii.gz per image of imagesTs, same names",
        licence="CC-BY-SA 4.0",
        reference="Antonelli et al., Nature Communications 13, 4128 (2022); Simpson et al., arXiv:1902.09063",
        obtain="medicaldecathlon.com: one tar per task; unpack and give its folder",
        form=SubmissionForm(folder="{task}"),
        published=published.DECATHLON,
        certainty={
            "labels": "verified",
            "counts": "secondary",
            "group": "inferred",
            "metrics": "verified",
            "surface Dice tolerances": "memory",
            "submission": "secondary",
            "file names": "inferred",
            "all ten tasks needed": "inferred",
            "voxel type": "memory",
            "licence": "verified",
            "reference": "verified",
            "obtain": "verified",
        },
    )

    def __init__(self, tolerances: Mapping[str, float] = TOLERANCES_MM) -> None:
        self.tolerances = dict(tolerances)

    def recognise(self, folder: Path) -> Recognition:
        """Find one task at or up to four levels below ``folder``; see ``Challenge.recognise``."""
        root = find_task(folder)
        declared = read_json(root / "dataset.json")
        channels = _names(root, declared, "modality")
        labels = _names(root, declared, "labels")
        training = _training(root, declared, len(channels))
        test, absent = _test(root, declared, len(channels))
        name = task_name(root, [case.reference_file for case in training])
        channel_names = tuple(channels[key] for key in sorted(channels))
        messages = _messages(name, labels, channel_names, declared, training, test)
        messages += [*absent, *_unlisted(root, training)]
        return Recognition(root, f"decathlon-{name}", labels, channel_names, training, test, tuple(messages))

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """Cases of an ``imagesTs`` folder, of a task folder that holds one, or of a folder with nnU-Net's channel
        suffixes.

        Raises
        ------
        InvalidData: no images, or none with as many channels.
        """
        folder = require_folder(folder)
        images = _images_ts(folder)
        plain = plain_cases(images, channels)
        if plain is not None:
            return plain
        files = [path for path in children(images) if is_volume(path) and path.is_file()]
        if not files:
            found = describe(folder)
            raise InvalidData(
                folder,
                "imagesTs of a Decathlon task, or a folder of its .nii.gz images",
                found,
                "Give the task's folder.",
            )
        found_channels: dict[Path, int] = {}
        for file in files:
            # One that cannot be read, or is no image of this task, is told when it is predicted, and the others are.
            with suppress(InvalidData):
                found_channels[file] = read_header(file)[1]
        if found_channels and channels not in found_channels.values():
            file, count = next(iter(found_channels.items()))
            raise InvalidData(
                file,
                f"{channels} channel{'s' * (channels > 1)}",
                f"{count}",
                "Give the images of the task the model was trained on.",
            )
        return tuple(_case(file, channels, None) for file in files)

    def submission(self, test_folder: Path) -> tuple[SubmissionPart, ...]:
        """One part a task; see ``decathlon_archive.parts``."""
        from nnbox_challenges.decathlon_archive import parts

        return parts(test_folder, self.facts.form.folder, task_name, self.test_cases)

    def _dataset_json(self, recognition: Recognition, labels: dict[int, str]) -> dict[str, Any]:
        """As every adapter's, with what the download says about itself."""
        own = read_json(recognition.root / "dataset.json")
        # The tars spell release "relase".
        said = {
            "description": own.get("description"),
            "reference": str(own.get("reference") or "").strip(),
            "licence": own.get("licence") or own.get("license"),
            "release": own.get("relase") or own.get("release"),
        }
        return {**super()._dataset_json(recognition, labels), **{key: value for key, value in said.items() if value}}

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """Dice and surface Dice per label; see ``decathlon_scores.evaluate``."""
        from nnbox_challenges.decathlon_scores import evaluate

        return evaluate(Path(predictions), Path(references), self.tolerances)


def find_task(folder: Path) -> Path:
    """Root of the one task at or below ``folder``.

    Raises
    ------
    InvalidData: none, several, or a layout that looks alike and is not (nnU-Net raw data), with the reason.
    """
    folder = require_folder(folder)
    found: list[Path] = []
    lookalikes: list[InvalidData] = []
    for candidate in folders_below(folder):
        if any(candidate.is_relative_to(root) for root in found):
            continue
        reason = _lookalike(candidate)
        if reason is not None:
            lookalikes.append(reason)
        elif (candidate / "dataset.json").is_file() and (candidate / "imagesTr").is_dir():
            found.append(candidate)
    if len(found) > 1:
        names = ", ".join(str(root.relative_to(folder)) for root in found)
        raise InvalidData(folder, "one Decathlon task", f"{len(found)}: {names}", "Give the folder of one of them.")
    if not found:
        if lookalikes:
            raise lookalikes[0]
        raise InvalidData(
            folder,
            "a Decathlon task: dataset.json, imagesTr, labelsTr, imagesTs (looked four levels down)",
            describe(folder),
            "Unpack the task's tar and give its folder; see nnbox challenges show decathlon.",
        )
    return found[0]


def _lookalike(folder: Path) -> InvalidData | None:
    """Why a folder that looks like a task is none; None where it may be one or nothing at all."""
    images = folder / "imagesTr"
    json_file = folder / "dataset.json"
    if images.is_dir() and any(BCV_IMAGE.fullmatch(strip_suffix(path)) for path in children(images)):
        return InvalidData(
            folder, "a Decathlon task", "BCV in MONAI's layout (imgNNNN in imagesTr)", "Convert with --challenge bcv."
        )
    if not images.is_dir() and not json_file.is_file():
        return None
    if images.is_dir() and not json_file.is_file():
        return InvalidData(
            json_file,
            "the dataset.json beside imagesTr",
            "no such file",
            "The copy is incomplete: unpack the task's tar again.",
        )
    declared = read_json(json_file)
    keys = sorted(declared) if isinstance(declared, dict) else []
    if "channel_names" in keys or V2_FOLDER.fullmatch(folder.name):
        return InvalidData(
            folder,
            "a Decathlon task",
            "an nnU-Net v2 raw data set (channel_names in dataset.json or a DatasetNNN folder)",
            "It needs no conversion: give its path to nnbox check, plan and train-all.",
        )
    if "modality" not in keys or "labels" not in keys:
        return InvalidData(json_file, "modality, labels and training", f"keys {keys}", "Unpack the task's tar again.")
    suffixed = images.is_dir() and any(
        CHANNEL_SUFFIX.search(strip_suffix(path)) for path in children(images) if is_volume(path)
    )
    if suffixed or V1_FOLDER.fullmatch(folder.name):
        return InvalidData(
            folder,
            "a Decathlon task (TaskNN, two digits, one file a case)",
            "an nnU-Net v1 data set (TaskNNN or _0000 channel suffixes)",
            "Give the original Decathlon folder, or bring it to the v2 layout (channel_names, name-to-value labels).",
        )
    if not images.is_dir():
        return InvalidData(
            images,
            "the imagesTr beside dataset.json",
            "no such folder",
            "The copy is incomplete: unpack the task's tar again.",
        )
    return None


def _names(root: Path, declared: dict[str, Any], key: str) -> dict[int, str]:
    """``{"0": "MRI"}`` as ``{0: "MRI"}``."""
    value = declared[key]
    if not isinstance(value, dict) or not value or not all(str(number).lstrip("-").isdigit() for number in value):
        raise InvalidData(
            root / "dataset.json",
            f'{key} as {{"0": "name", ...}}',
            f"{value!r}",
            "Restore the dataset.json of the task's tar.",
        )
    return {int(number): str(name) for number, name in sorted(value.items(), key=lambda item: int(item[0]))}


def _case(file: Path, channels: int, label: Path | None) -> SourceCase:
    case_id = strip_suffix(file)
    files = (ChannelFile(file),) if channels == 1 else tuple(ChannelFile(file, index) for index in range(channels))
    return SourceCase(id=case_id, group=case_id, channels=files, label=label, output_name=f"{case_id}{FILE_ENDING}")


def _listed(root: Path, entries: list[Any], key: str) -> list[Path]:
    """Paths ``dataset.json`` lists under ``key``, whatever their form; each must be there once.

    Raises
    ------
    InvalidData: files are listed that are not there, or listed twice.
    """
    wanted = [str(entry[key] if isinstance(entry, dict) else entry) for entry in entries]
    wanted = [path for path in wanted if not Path(path).name.startswith("._")]
    found = [volume_at(root / path) for path in wanted]
    missing = [path for path, file in zip(wanted, found, strict=True) if file is None]
    if missing:
        raise InvalidData(
            root / missing[0],
            f"the {len(wanted)} {key} files that dataset.json lists",
            f"{len(missing)} not there, the first {missing[0]}",
            "The copy is incomplete: unpack the task's tar again.",
        )
    twice = sorted({path for path in wanted if wanted.count(path) > 1})
    if twice:
        raise InvalidData(
            root / "dataset.json", "each file listed once", f"{twice[0]} twice", "Restore the dataset.json of the tar."
        )
    return [file for file in found if file is not None]


def _training(root: Path, declared: dict[str, Any], channels: int) -> tuple[SourceCase, ...]:
    entries = declared.get("training")
    if (
        not isinstance(entries, list)
        or not entries
        or not all(isinstance(e, dict) and {"image", "label"} <= set(e) for e in entries)
    ):
        raise InvalidData(
            root / "dataset.json",
            "training as a list of image and label",
            f"{type(entries).__name__}",
            "Restore it from the tar.",
        )
    images = _listed(root, entries, "image")
    labels = _listed(root, entries, "label")
    for image, label in zip(images, labels, strict=True):
        if strip_suffix(image) != strip_suffix(label):
            raise InvalidData(
                root / "dataset.json",
                f"the label of {image.name}",
                label.name,
                "Correct the list: image and label have one name.",
            )
    cases = [_case(image, channels, label) for image, label in zip(images, labels, strict=True)]
    return tuple(sorted(cases, key=lambda case: natural_key(case.id)))


def _test(root: Path, declared: dict[str, Any], channels: int) -> tuple[tuple[SourceCase, ...], list[str]]:
    entries = declared.get("test") or []
    if entries and not (root / "imagesTs").is_dir():
        return (), [f"imagesTs is not there: {len(entries)} listed test images are left out"]
    cases = [_case(image, channels, None) for image in _listed(root, entries, "image")]
    return tuple(sorted(cases, key=lambda case: natural_key(case.id))), []


def _images_ts(folder: Path) -> Path:
    """The folder of test images: ``folder`` itself, or the ``imagesTs`` of the one task at or below it."""
    if folder.name != "imagesTs":
        below = [path for path in folders_below(folder) if path.name == "imagesTs"]
        if len(below) > 1:
            raise InvalidData(folder, "one imagesTs", f"{len(below)}", "Give one task's folder.")
        if below:
            return below[0]
        if (folder / "imagesTr").is_dir():
            raise InvalidData(
                folder / "imagesTs", "the test images beside imagesTr", "no such folder", "Unpack the task's tar again."
            )
    return folder


def task_name(root: Path, images: list[Path]) -> str:
    """Name of the task: its folder's, or what the image files start with where the folder was renamed
    (``Task03_Liver_v2``).
    """
    if task_facts(root.name) is not None:
        return root.name
    prefixes = {strip_suffix(path).rsplit("_", 1)[0] for path in images}
    if len(prefixes) == 1 and (known := PREFIXES.get(prefixes.pop())):
        return known
    return re.sub(r"[^\w.-]+", "-", root.name)


def _messages(
    name: str,
    labels: dict[int, str],
    channels: tuple[str, ...],
    declared: dict[str, Any],
    training: tuple[SourceCase, ...],
    test: tuple[SourceCase, ...],
) -> list[str]:
    messages = []
    facts = task_facts(name)
    if facts is None:
        messages.append(f"{name} is none of the ten tasks; its dataset.json is followed")
        messages.append(f"{len(training)} training and {len(test)} test cases")
    else:
        messages.append(f"{len(training)} of {facts.training} training cases, {len(test)} of {facts.test} test cases")
        messages.extend(_differences(facts, labels, channels))
    for key, cases in (("numTraining", training), ("numTest", test)):
        if declared.get(key) is not None and declared[key] != len(cases):
            messages.append(f"dataset.json says {key} {declared[key]}, it lists {len(cases)}; the list is followed")
    return messages + ([CAVEATS[name]] if name in CAVEATS else [])


def _differences(facts: TaskFacts, labels: dict[int, str], channels: tuple[str, ...]) -> list[str]:
    differences = []
    if sorted(labels) != sorted(facts.labels) or any(labels[v].lower() != facts.labels[v].lower() for v in labels if v):
        differences.append(f"labels {labels} are not the published {facts.labels}; dataset.json is followed")
    if len(channels) != len(facts.channels):
        differences.append(f"{len(channels)} channels, {len(facts.channels)} are published; dataset.json is followed")
    return differences


def _unlisted(root: Path, training: tuple[SourceCase, ...]) -> list[str]:
    listed = {case.id for case in training}
    extra = [path for path in children(root / "imagesTr") if is_volume(path) and strip_suffix(path) not in listed]
    return [f"{len(extra)} images in imagesTr are not listed and left out, the first {extra[0].name}"] if extra else []
