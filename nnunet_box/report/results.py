"""What trainings left on disk: curves, and the Dice of every validation case, whatever is finished so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_box.dataset.splits import Fold
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.selection import ENSEMBLES, Selection, ensemble_name, simplest_first
from nnunet_box.evaluation.summary import read_summary
from nnunet_box.execution.stage import STAGE_FILE
from nnunet_box.files import read_json
from nnunet_box.means import mean_of
from nnunet_box.training.run_log import LOG, Epoch, read_log
from nnunet_box.workspace import VALIDATION, Workspace

Dice = dict[int, float | None]
"""By label; None where neither prediction nor reference has it."""


@dataclass(frozen=True)
class Run:
    """One network. seconds: of its training's epochs. finished: trained and validated. settings, peak_memory_bytes,
    versions: of its ``stage.json``, empty while it is not finished.
    """

    model: str
    fold: int
    epochs: tuple[Epoch, ...]
    finished: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds or 0.0 for epoch in self.epochs)


@dataclass(frozen=True)
class Scored:
    """A model's or an ensemble's validation cases. cases: by case id, Dice. predictions: by case id, label map."""

    name: str
    cases: Mapping[str, Dice]
    predictions: Mapping[str, Path]

    def mean_of(self, case: str) -> float | None:
        """Mean over the structures of a case that have a Dice."""
        return mean_of(self.cases[case].values())

    def mean_dice(self, labels: Sequence[int]) -> Dice:
        """By label, over the cases."""
        return {label: mean_of([dice.get(label) for dice in self.cases.values()]) for label in labels}


def trained_models(workspace: Workspace) -> list[str]:
    """Models with a fold that has begun, the simplest first."""
    return simplest_first(
        {log.parent.parent.name for log in workspace.models.glob(f"*/fold_*/{LOG}") if log.parent.parent.is_dir()}
    )


def read_runs(workspace: Workspace, models: Sequence[str], folds: int) -> list[Run]:
    """Every network that has begun, model by model and fold by fold."""
    found = []
    for model in models:
        for fold in range(folds):
            folder = workspace.fold(model, fold)
            epochs = read_log(folder / LOG)
            stage = _stage(folder / STAGE_FILE)
            if epochs or stage:
                memory = stage.get("peak_memory_bytes")
                found.append(
                    Run(
                        model,
                        fold,
                        tuple(epochs),
                        bool(stage),
                        _mapping(stage.get("parameters")),
                        memory if isinstance(memory, int) else None,
                        _mapping(stage.get("versions")),
                    )
                )
    return found


def read_scores(workspace: Workspace, model: str, folds: Sequence[Fold]) -> Scored:
    """Of a model, over the folds that are validated.

    Raises
    ------
    InvalidData: a fold's ``summary.json`` is damaged.
    """
    cases: dict[str, Dice] = {}
    predictions: dict[str, Path] = {}
    for number, fold in enumerate(folds):
        folder = workspace.fold(model, number) / VALIDATION
        if (folder / "summary.json").is_file():
            cases |= _cases(folder / "summary.json", set(fold.val))
            predictions |= {case: folder / f"{case}.nii.gz" for case in fold.val}
    return Scored(model, cases, {case: file for case, file in predictions.items() if case in cases})


def read_ensemble(workspace: Workspace, selection: Selection, folds: Sequence[Fold]) -> Scored | None:
    """Of the chosen pair; None where one model was chosen.

    Raises
    ------
    InvalidData: its ``summary.json`` is missing or damaged.
    """
    if len(selection.chosen) < 2:
        return None
    name = ensemble_name(selection.chosen)
    folder = workspace.models / ENSEMBLES / name
    cases = _cases(folder / "summary.json", {case for fold in folds for case in fold.val})
    return Scored(name, cases, {case: folder / VALIDATION / f"{case}.nii.gz" for case in cases})


def _cases(summary: Path, expected: set[str]) -> dict[str, Dice]:
    found: dict[str, Dice] = {}
    try:
        for entry in read_summary(summary)["metric_per_case"]:
            case = Path(entry["prediction_file"]).name.removesuffix(".nii.gz")
            if case in expected:
                found[case] = {int(label): _finite(values["Dice"]) for label, values in entry["metrics"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fix = "Delete it and run the step that writes it again."
        raise InvalidData(summary, "a summary of metrics", f"no {error}", fix) from error
    return found


def _stage(file: Path) -> Mapping[str, Any]:
    return _mapping(read_json(file, schema_version=1)) if file.is_file() else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _finite(value: Any) -> float | None:
    number = float(value) if value is not None else math.nan
    return number if math.isfinite(number) else None
