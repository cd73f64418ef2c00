"""What the Decathlon's archive holds: one folder a task, named as the task, with one file per image of ``imagesTs``.

The scorer's container reads ``/input/TaskNN_Name`` and stops where a folder is missing (github.com/Ziyan-Huang/FLARE22,
issue 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nnbox_challenges.decathlon_tasks import task_facts
from nnbox_challenges.layout import CHANNEL_SUFFIX, children, describe, folders_below, require_folder
from nnunet_box.dataset.cases import SourceCase
from nnunet_box.dataset.challenge import SubmissionPart, TaskFacts
from nnunet_box.dataset.volumes import is_volume, read_header, strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json

TestCases = Callable[[Path, int], tuple[SourceCase, ...]]
TaskName = Callable[[Path, list[Path]], str]


def parts(
    test_folder: Path, form_folder: str, task_name: TaskName, test_cases: TestCases
) -> tuple[SubmissionPart, ...]:
    """One part for each ``imagesTs`` at or below ``test_folder``, or for a folder that holds images itself.

    Raises
    ------
    InvalidData: no images; a task twice; a task that is none of the ten and has no ``dataset.json``.
    """
    folder = require_folder(test_folder)
    below = [path for path in folders_below(folder) if path.name == "imagesTs"]
    found: dict[str, SubmissionPart] = {}
    for images in below or [folder]:
        part = _part(images, form_folder, task_name, test_cases)
        if part.task.name in found:
            raise InvalidData(images, f"{part.task.name} once", "another folder of it", "Give the folder of one copy.")
        found[part.task.name] = part
    return tuple(found[name] for name in sorted(found))


def _part(images: Path, form_folder: str, task_name: TaskName, test_cases: TestCases) -> SubmissionPart:
    files = [path for path in children(images) if is_volume(path) and path.is_file()]
    if not files:
        raise InvalidData(
            images, "a Decathlon task's test images (.nii.gz)", describe(images), "Give the task's folder."
        )
    task = _task(images, task_name(images.parent if images.name == "imagesTs" else images, files))
    suffixed = CHANNEL_SUFFIX.search(strip_suffix(files[0]))
    channels = len(task.channels) if suffixed else read_header(files[0])[1]
    return SubmissionPart(task, form_folder.format(task=task.name), test_cases(images, channels))


def _task(images: Path, name: str) -> TaskFacts:
    """Published facts, with the labels of the download's own ``dataset.json`` where that is there."""
    facts = task_facts(name)
    file = images.parent / "dataset.json"
    declared = read_json(file) if file.is_file() else {}
    labels = declared.get("labels")
    if isinstance(labels, dict) and labels and all(str(value).isdigit() for value in labels):
        own = {int(value): str(label) for value, label in labels.items()}
        channels = tuple(str(channel) for channel in declared.get("modality", {}).values())
        return replace(facts, labels=own) if facts else TaskFacts(name, own, channels, 0, 0)
    if facts is None:
        raise InvalidData(
            images,
            "one of the ten tasks, by its folder's or its files' names, or a dataset.json beside imagesTs",
            f"{name}",
            "Give the task's folder as it was unpacked.",
        )
    return facts
