"""The Decathlon's metrics: Dice and surface Dice (NSD) of each label, each case, and their means over cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnbox_challenges.decathlon_tasks import DEFAULT_TOLERANCE_MM, PREFIXES, task_facts
from nnbox_challenges.scores import label_files, mean, pair
from nnunet_box.dataset.cases import read_label
from nnunet_box.dataset.volumes import read_header
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts
from nnunet_box.evaluation.surfels import structure_surfels
from nnunet_box.files import read_json
from nnunet_box.progress import track


def evaluate(predictions: Path, references: Path, tolerances: Mapping[str, float]) -> dict[str, Any]:
    """Score a folder of predictions named as the images.

    references: ``labelsTr``, or the task's folder that holds it. Labels and task come from the ``dataset.json`` beside
    it, else from what the files are called. Labels are scored one by one, not as unions. Where neither side holds a
    label, Dice and surface Dice are undefined (NaN) and left out of the means; where one side does, both are 0 (as the
    scorer's surface-distance code has it). Spacing is the reference header's.

    Raises
    ------
    InvalidData: no predictions, one without a reference, another shape, or a label that is not declared.
    """
    folder = Path(references) / "labelsTr" if (Path(references) / "labelsTr").is_dir() else Path(references)
    files = label_files(folder)
    task, labels = _task(folder, files)
    tolerance = tolerances.get(task, DEFAULT_TOLERANCE_MM)
    pairs = pair(label_files(predictions), files)
    cases: list[dict[str, Any]] = []
    for case, prediction_file, reference_file in track(pairs, "Scoring"):
        reference = read_label(reference_file, set(labels), reference_file)
        prediction = read_label(prediction_file, set(labels), reference_file)
        foreground = [value for value in labels if value]
        matrix = confusion_matrix(prediction, reference, max(labels) + 1)
        surfels = structure_surfels(prediction, reference, foreground, read_header(reference_file)[0].spacing)
        scores = {
            labels[value]: {
                "dice": label_counts(matrix, value).dice,
                "surface_dice": surfels[value].surface_dice(tolerance),
            }
            for value in foreground
        }
        cases.append({"case": case, "labels": scores})
    names = [labels[value] for value in sorted(labels) if value]
    means = {
        name: {key: mean(case["labels"][name][key] for case in cases) for key in ("dice", "surface_dice")}
        for name in names
    }
    return {
        "challenge": "decathlon",
        "task": task,
        "tolerance_mm": tolerance,
        "cases": len(cases),
        "missing": sorted(set(files) - {case for case, _, _ in pairs}),
        "labels": means,
        "mean": {key: mean(means[name][key] for name in names) for key in ("dice", "surface_dice")},
        "per_case": cases,
    }


def _task(folder: Path, files: Mapping[str, Path]) -> tuple[str, dict[int, str]]:
    """Name of the task and its labels (value to name)."""
    prefixes = {name.rsplit("_", 1)[0] for name in files}
    task = PREFIXES.get(prefixes.pop(), "") if len(prefixes) == 1 else ""
    json_file = folder.parent / "dataset.json"
    if json_file.is_file():
        declared = read_json(json_file)["labels"]
        # The Decathlon declares {"1": "liver"}, nnU-Net v2 {"liver": 1}.
        pairs = ((key, name) if str(key).isdigit() else (name, key) for key, name in declared.items())
        return task or folder.resolve().parent.name, {int(value): str(name) for value, name in pairs}
    facts = task_facts(task)
    if facts is not None:
        return task, facts.labels
    values: set[int] = {0}
    for file in files.values():
        values |= {int(value) for value in np.unique(read_label(file, set(range(256)), file))}
    return task, {value: f"label {value}" if value else "background" for value in sorted(values)}
