"""The whole chain on one machine, one network after the other; interrupted anywhere, it goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnunet_box.bundle import Bundle
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.evaluation.selection import Selection
from nnunet_box.execution.choose import bundle_dataset, select_dataset
from nnunet_box.execution.fold import train_fold
from nnunet_box.execution.folds import previous_predictions
from nnunet_box.execution.prepare import check_configurations, plan_dataset, preprocess_configurations
from nnunet_box.execution.stage import STAGE_FILE
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.planning.variant import model_name
from nnunet_box.progress import say
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """One network to train."""

    configuration: str
    fold: int


def training_tasks(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    configurations: Sequence[str] | None,
    folds: Sequence[int] | None,
) -> list[Task]:
    """Every network of the cross-validation, fold by fold so that early folds of all configurations can be compared
    soon; the cascade after all others.

    Where both stages of a cascade are asked for, the first one has all folds, whatever ``folds`` says: each case's
    input is the prediction of the network that has not seen it.
    """
    names = check_configurations(plan, configurations)
    every = range(len(load_or_make_folds(workspace.splits, dataset)))
    wanted = folds if folds is not None else every
    needed = {plan.previous_stage_of(name) for name in names}
    tasks = [
        Task(name, fold)
        for fold in sorted({*wanted, *every} if needed & set(names) else wanted)
        for name in names
        if fold in wanted or name in needed
    ]
    return sorted(tasks, key=lambda task: plan.previous_stage_of(task.configuration) is not None)


def train_all(
    workspace: Workspace,
    dataset: Dataset,
    settings: TrainingSettings,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    memory_gb: float = 12.0,
) -> tuple[Selection, Bundle]:
    """Plan, preprocess, train, validate, select, bundle.

    ``settings``: the run's; its configuration and fold are replaced task by task, a budget is shared out evenly.

    Raises
    ------
    InvalidData, UsageError, NnboxError: as the steps do.
    """
    plan = load_plan(workspace.plan) if workspace.plan.is_file() else plan_dataset(workspace, dataset, memory_gb)
    tasks = training_tasks(workspace, dataset, plan, configurations, folds)
    names = check_configurations(plan, configurations)
    for name in names:
        if plan.previous_stage_of(name) not in names:
            # Nothing of this run makes it: better said now than after days of training.
            previous_predictions(workspace, dataset, plan, name, settings.variants)
    preprocess_configurations(workspace, dataset, plan, names)
    models = [model_name(name, settings.variants) for name in names]
    budget = settings.budget_seconds / len(tasks) if settings.budget_seconds is not None else None
    for number, task in enumerate(tasks, start=1):
        model = model_name(task.configuration, settings.variants)
        say(f"Network {number} of {len(tasks)}: {model} fold {task.fold}")
        train_fold(
            workspace,
            dataset,
            replace(settings, configuration=task.configuration, fold=task.fold, budget_seconds=budget),
        )
    trained = [{task.fold for task in tasks if task.configuration == name} for name in names]
    selection = select_dataset(workspace, dataset, models, sorted(set.intersection(*trained)))
    return selection, bundle_dataset(workspace, dataset)


def task_states(workspace: Workspace, tasks: Sequence[Task], variants: Sequence[str] = ()) -> list[dict[str, object]]:
    """For each task with these variants: ``done``, ``unfinished`` (a checkpoint is there) or ``waiting``."""
    states: list[dict[str, object]] = []
    for task in tasks:
        folder = workspace.fold(model_name(task.configuration, variants), task.fold)
        if (folder / STAGE_FILE).is_file():
            state = "done"
        else:
            state = "unfinished" if (folder / "log.jsonl").is_file() else "waiting"
        states.append({"configuration": task.configuration, "fold": task.fold, "state": state})
    return states
