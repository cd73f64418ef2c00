"""The whole chain in this process, one task after the other; interrupted anywhere, it goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_box.bundle import Bundle, load_bundle
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.evaluation.selection import Selection, load_selection
from nnunet_box.execution.graph import prepared_graph
from nnunet_box.execution.prepare import MEMORY_GB, plan_dataset
from nnunet_box.execution.request import Request
from nnunet_box.progress import say
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace


def train_all(
    workspace: Workspace,
    dataset: Dataset,
    settings: TrainingSettings,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
    memory_gb: float = MEMORY_GB,
) -> tuple[Selection, Bundle]:
    """Plan, preprocess, train, validate, select, bundle.

    ``settings``: the run's; its configuration and fold are replaced task by task, a budget is shared out evenly.

    Raises
    ------
    InvalidData, UsageError, NnboxError: as the steps do.
    """
    if not workspace.plan.is_file():
        plan_dataset(workspace, dataset, memory_gb)
    tasks = prepared_graph(workspace, dataset, Request.of(settings, configurations, folds))
    count, number = sum(task.settings is not None for task in tasks), 0
    for task in tasks:
        if task.settings is not None:
            number += 1
            say(f"Network {number} of {count}: {task.settings.model} fold {task.settings.fold}")
        task.run()
    return load_selection(workspace.selection), load_bundle(workspace.bundle)
