"""How far trainings are, from the logs they write: for tables of what runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_box.execution.graph import Task
from nnunet_box.execution.records import State
from nnunet_box.training.run_log import LOG, epoch_seconds, read_log
from nnunet_box.training.schedule import MOST_EPOCHS
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace


@dataclass(frozen=True)
class Far:
    """epochs done; most: at most so many, None in a budget. seconds: spent. left: seconds, None where unknown. loss,
    dice: of the last epoch, the latter a mean over classes of validation patches; None where unknown.
    """

    epochs: int
    most: int | None
    seconds: float
    left: float | None
    loss: float | None = None
    dice: float | None = None


def how_far(folder: Path, settings: TrainingSettings) -> Far:
    """Of one training, from its ``log.jsonl``. An upper bound where the paper's rule may end it earlier."""
    epochs = read_log(folder / LOG)
    spent = sum(line.seconds or 0.0 for line in epochs)
    loss = epochs[-1].loss if epochs else None
    dice = next((line.validation_dice for line in reversed(epochs) if line.validation_dice is not None), None)
    if settings.budget_seconds is not None:
        return Far(len(epochs), None, spent, max(0.0, settings.budget_seconds - spent), loss, dice)
    most = settings.epochs or MOST_EPOCHS
    each = epoch_seconds(epochs)
    return Far(len(epochs), most, spent, None if each is None else each * (most - len(epochs)), loss, dice)


def seconds_left(
    workspace: Workspace, tasks: Sequence[Task], states: Mapping[str, State], at_once: int = 1
) -> tuple[dict[str, float | None], float | None]:
    """Seconds left of each training that is not done, and of all of them together when ``at_once`` run; None where
    nothing tells. One that has not begun takes as long as others of its model do.
    """
    of_task: dict[str, float | None] = {}
    whole: dict[str, list[float]] = {}
    for task in tasks:
        if task.settings is None:
            continue
        far = how_far(workspace.fold(task.settings.model, task.settings.fold), task.settings)
        if states[task.name] == "done":
            whole.setdefault(task.settings.model, []).append(far.seconds)
        else:
            of_task[task.name] = far.left
            if far.left is not None and far.epochs:
                whole.setdefault(task.settings.model, []).append(far.seconds + far.left)
    for task in tasks:
        if task.name in of_task and of_task[task.name] is None and task.settings is not None:
            known = whole.get(task.settings.model)
            of_task[task.name] = sum(known) / len(known) if known else None
    if any(left is None for left in of_task.values()):
        return of_task, None
    known_left = [left for left in of_task.values() if left is not None]
    return of_task, max([sum(known_left) / at_once, *known_left], default=0.0)
