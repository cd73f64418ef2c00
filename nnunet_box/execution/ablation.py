"""The paper's Figure 2 on one data set: the same network on the same split, one design choice changed at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nnunet_box.dataset.dataset import Dataset
from nnunet_box.evaluation.summary import read_summary, summary_dice
from nnunet_box.execution.fold import train_fold
from nnunet_box.files import write_json
from nnunet_box.planning.variant import SEPARATOR, model_name
from nnunet_box.progress import say
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import VALIDATION, Workspace

FIGURE_2 = ("batch-norm", "no-norm", "relu", "no-augmentation", "ce-only", "dice-only")
PAPER_DICE = {"Task01": 0.72, "Task03": 0.78, "Task04": 0.89, "Task05": 0.77, "Task06": 0.65, "Task07": 0.65}
"""Mean foreground Dice of the paper's 3D U-Net by Decathlon task; Task03 at full resolution."""
PAPER_CHANGE = {
    "Task01": (1.0, 1.1, 0.6, -0.8, -0.6, 0.9),
    "Task03": (2.9, -22.8, 1.0, 1.5, -6.3, -10.1),
    "Task04": (-0.1, -0.2, -0.1, -1.5, 0.0, -0.3),
    "Task05": (-1.3, -4.2, -0.2, -0.4, -1.4, -3.0),
    "Task06": (-14.2, 3.0, -0.4, 4.2, -25.4, -11.5),
    "Task07": (-3.7, -100.0, 0.5, -11.3, -8.8, 1.6),
}
"""Relative change of that in percent, in the order of ``FIGURE_2``."""


class AblationRow(BaseModel):
    """One variant. dice: per label, None where it occurs in no validation case. change: relative to the paper's recipe
    in the same run, in percent. paper_change: what the paper's Figure 2 has for it, None where it has nothing.
    """

    model_config = ConfigDict(frozen=True)

    variant: str
    dice: dict[int, float | None]
    mean_foreground_dice: float
    change: float
    paper_change: float | None


class Ablation(BaseModel):
    """``ablation.json``. rows: the paper's recipe first. paper_dice: the paper's mean Dice, None where it has
    none for this data set.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    dataset: str
    configuration: str
    fold: int
    seconds_a_network: float | None
    labels: dict[int, str]
    paper_dice: float | None
    rows: tuple[AblationRow, ...]


def ablate(
    workspace: Workspace, dataset: Dataset, settings: TrainingSettings, variants: Sequence[tuple[str, ...]]
) -> Ablation:
    """Train the paper's recipe and each of ``variants`` on one fold; writes ``ablation.json`` among the models.

    ``settings``: the run's; its variants are replaced row by row, a budget is shared out evenly. Networks that are
    trained with the same settings are not trained again.

    Raises
    ------
    UsageError, InvalidData, NnboxError: as training does.
    """
    rows: list[tuple[str, ...]] = [(), *(names for names in variants if names)]
    budget = settings.budget_seconds / len(rows) if settings.budget_seconds is not None else None
    # Figure 2 is of the 3D network alone.
    task = dataset.name.partition("-")[2][:6] if settings.configuration == "3d_fullres" else ""
    published = dict(zip(FIGURE_2, PAPER_CHANGE.get(task, ()), strict=False))
    labels = dataset.foreground_labels
    found: list[AblationRow] = []
    for number, names in enumerate(rows, start=1):
        say(f"Network {number} of {len(rows)}: {SEPARATOR.join(names) or 'as in the paper'}")
        train_fold(workspace, dataset, replace(settings, variants=names, budget_seconds=budget))
        folder = workspace.fold(model_name(settings.configuration, names), settings.fold)
        summary = read_summary(folder / VALIDATION / "summary.json")
        mean = summary_dice(summary)
        reference = found[0].mean_foreground_dice if found else mean
        single = {label: summary_dice(summary, label) for label in labels}
        found.append(
            AblationRow(
                variant=SEPARATOR.join(names) or "paper",
                dice={label: None if math.isnan(value) else value for label, value in single.items()},
                mean_foreground_dice=mean,
                change=100 * (mean / reference - 1) if reference else 0.0,
                paper_change=published.get(names[0]) if len(names) == 1 else None,
            )
        )
    ablation = Ablation(
        dataset=dataset.name,
        configuration=settings.configuration,
        fold=settings.fold,
        seconds_a_network=budget,
        labels=dict(dataset.labels),
        paper_dice=PAPER_DICE.get(task),
        rows=tuple(found),
    )
    write_json(workspace.models / "ablation.json", ablation.model_dump(mode="json"))
    return ablation
