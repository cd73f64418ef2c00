"""``nnbox train-all`` as a graph of tasks. Each is the argv of an nnbox command that does nothing where nothing is left
to do and goes on where it was interrupted; so whatever runs the graph may die, and be run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.errors import UsageError
from nnunet_box.execution.choose import is_selected, select_and_bundle
from nnunet_box.execution.contents import dataset_key
from nnunet_box.execution.fold import fold_is_done, train_fold
from nnunet_box.execution.folds import previous_predictions, training_name
from nnunet_box.execution.prepare import (
    are_preprocessed,
    check_configurations,
    existing_plan,
    is_previous_stage_prepared,
    plan_is_current,
    prepare_previous_stage,
    preprocess_configurations,
)
from nnunet_box.execution.request import Request, read_request, training_arguments
from nnunet_box.execution.stage import key_of
from nnunet_box.files import write_json
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.planning.variant import model_name
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import WEIGHTS
from nnunet_box.workspace import VALIDATION, Workspace

Kind = Literal["plan", "preprocess", "train", "inputs", "select"]
SELECT = "select"


@dataclass(frozen=True)
class Task:
    """A node of the graph.

    argv: what follows ``nnbox``. needs: names of tasks that must be finished. inputs, outputs: files and folders. key:
    of all that its result follows from; a record of another key is of another task. gpu: whether it is worth one.
    settings: of a training. is_done: asks the disk. run: does in this process what the command does.
    """

    name: str
    kind: Kind
    argv: tuple[str, ...]
    needs: tuple[str, ...]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    key: str
    is_done: Callable[[], bool] = field(repr=False, compare=False)
    run: Callable[[], object] = field(repr=False, compare=False)
    settings: TrainingSettings | None = None

    @property
    def gpu(self) -> bool:
        """Whether it runs networks."""
        return self.kind == "train"


def networks(workspace: Workspace, dataset: Dataset, plan: Plan, request: Request) -> list[tuple[str, int]]:
    """Configuration and fold of every network of the cross-validation, fold by fold so that early folds of all
    configurations can be compared soon; the cascade after all others.

    Where both stages of a cascade are asked for, the first one has all folds, whatever was asked for: each case's input
    is the prediction of the network that has not seen it.
    """
    names = check_configurations(plan, request.configurations)
    every = range(len(load_or_make_folds(workspace.splits, dataset)))
    wanted = request.folds if request.folds is not None else every
    unknown = [fold for fold in wanted if fold not in every]
    if unknown:
        raise UsageError(f"--folds {unknown}: this data set has folds 0 to {len(every) - 1}.")
    needed = {plan.previous_stage_of(name) for name in names}
    found = [
        (name, fold)
        for fold in sorted({*wanted, *every} if needed & set(names) else wanted)
        for name in names
        if fold in wanted or name in needed
    ]
    return sorted(found, key=lambda one: plan.previous_stage_of(one[0]) is not None)


def task_graph(workspace: Workspace, dataset: Dataset, request: Request) -> list[Task]:
    """All tasks from the plan, which is there already, to the bundle, each after those it needs.

    Raises
    ------
    UsageError: a configuration or fold that is not there, or a cascade whose first stage is neither trained nor part
    of the request. InvalidData: the plan or the folds are not what they should be.
    """
    plan = load_plan(workspace.plan)
    names = check_configurations(plan, request.configurations)
    for name in names:
        if plan.previous_stage_of(name) not in names:
            # Nothing of this graph makes it: better said now than after days of training.
            previous_predictions(workspace, dataset, plan, name, request.variants)
    return _Graph(workspace, dataset, plan, request, names).tasks()


def prepared_graph(
    workspace: Workspace, dataset: Dataset, request: Request, at_once: int = 1, keep: bool = True
) -> list[Task]:
    """The graph of a request. What it hangs on is made first if need be: the plan, which says what there is to train.

    at_once: trainings beside each other, which share a budget. keep: note the request for ``nnbox status``, and for
    the next run, which takes over a budget's shares.

    Raises
    ------
    UsageError, InvalidData: as planning and ``task_graph`` do.
    """
    plan = existing_plan(workspace, dataset)
    count = len(networks(workspace, dataset, plan, request))
    request = request.with_shares(count, at_once, read_request(workspace.request))
    tasks = task_graph(workspace, dataset, request)
    if keep:
        write_json(workspace.request, request.model_dump(mode="json"))
    return tasks


def last_graph(workspace: Workspace, dataset: Dataset) -> list[Task]:
    """The graph of the last request, or of everything where none was made; empty where nothing is planned yet.

    Raises
    ------
    UsageError, InvalidData: as ``task_graph`` and ``read_request`` do.
    """
    if not workspace.plan.is_file():
        return []
    return task_graph(workspace, dataset, read_request(workspace.request) or Request())


@dataclass(frozen=True)
class _Graph:
    workspace: Workspace
    dataset: Dataset
    plan: Plan
    request: Request
    names: list[str]

    def tasks(self) -> list[Task]:
        trainings = networks(self.workspace, self.dataset, self.plan, self.request)
        tasks = [self._plan(), self._preprocess()]
        for name in self.names:
            if self.plan.previous_stage_of(name) is not None:
                tasks.append(self._inputs(name, tasks[1].key, trainings))
        inputs = {task.name: task for task in tasks[2:]}
        last = [self._train(name, fold, tasks[1], inputs) for name, fold in trainings]
        # The cascade's input stands where it can begin: before the cascade's own networks.
        first = [task for task in last if not set(task.needs) & set(inputs)]
        cascade = [task for task in last if task not in first]
        return [*tasks[:2], *first, *inputs.values(), *cascade, self._select(trainings, last)]

    def _command(self, *arguments: str) -> tuple[str, ...]:
        name = self.dataset.name
        inside = self.workspace.root / "datasets" / name
        dataset = name if inside.resolve() == self.dataset.folder.resolve() else str(self.dataset.folder.resolve())
        return (arguments[0], dataset, *arguments[1:], "--workspace", str(self.workspace.root.resolve()))

    def _plan(self) -> Task:
        key = key_of([dataset_key(self.workspace, self.dataset), self.plan.memory_gb])
        return Task(
            "plan",
            "plan",
            self._command("plan", "--memory-gb", f"{self.plan.memory_gb:g}"),
            (),
            (self.dataset.folder,),
            (self.workspace.fingerprint, self.workspace.plan),
            key,
            partial(plan_is_current, self.workspace, self.dataset),
            lambda: None,
        )

    def _preprocess(self) -> Task:
        arguments = (self.workspace, self.dataset, self.plan, self.names)
        entries = list(dict.fromkeys(self.plan.entry_of(name) for name in self.names))
        return Task(
            "preprocess",
            "preprocess",
            self._command("preprocess", "--configurations", ",".join(entries)),
            ("plan",),
            (self.dataset.folder, self.workspace.plan),
            tuple(self.workspace.case_store(entry) for entry in entries),
            key_of([dataset_key(self.workspace, self.dataset), self.plan.model_dump(mode="json"), entries]),
            partial(are_preprocessed, *arguments),
            partial(preprocess_configurations, *arguments),
        )

    def _inputs(self, name: str, before: str, trainings: list[tuple[str, int]]) -> Task:
        first = self.plan.previous_stage_of(name)
        assert first is not None
        model = model_name(name, self.request.variants)
        folds = range(len(load_or_make_folds(self.workspace.splits, self.dataset)))
        needs = [training_name(model_name(first, self.request.variants), fold) for fold in folds]
        own = {training_name(model_name(name, self.request.variants), fold) for name, fold in trainings}
        variant = ("--variant", ",".join(self.request.variants)) if self.request.variants else ()

        def predictions() -> dict[str, Path]:
            found = previous_predictions(self.workspace, self.dataset, self.plan, name, self.request.variants)
            assert found is not None
            return found

        def is_done() -> bool:
            try:
                return is_previous_stage_prepared(self.workspace, self.dataset, self.plan, model, predictions())
            except UsageError:
                return False

        return Task(
            f"inputs-{model}",
            "inputs",
            self._command("preprocess", "--previous-stage", name, *variant),
            ("preprocess", *(need for need in needs if need in own)),
            tuple(self.workspace.fold(model_name(first, self.request.variants), fold) / VALIDATION for fold in folds),
            (self.workspace.case_store(model),),
            key_of([before, self.request.training(name, 0).of_the_result()]),
            is_done,
            lambda: prepare_previous_stage(self.workspace, self.dataset, self.plan, model, predictions()),
        )

    def _train(self, name: str, fold: int, preprocess: Task, inputs: dict[str, Task]) -> Task:
        settings = self.request.training(name, fold)
        input_ = inputs.get(f"inputs-{settings.model}")
        folder = self.workspace.fold(settings.model, fold)
        stores = (self.workspace.case_store(self.plan.entry_of(name)),)

        def is_done() -> bool:
            try:
                before = previous_predictions(self.workspace, self.dataset, self.plan, name, settings.variants)
            except UsageError:
                return False
            return fold_is_done(self.workspace, self.dataset, self.plan, settings, before)

        return Task(
            training_name(settings.model, fold),
            "train",
            self._command("train", *training_arguments(settings)),
            ("preprocess",) if input_ is None else (input_.name,),
            (*stores, *(() if input_ is None else input_.outputs)),
            (folder / WEIGHTS, folder / VALIDATION),
            key_of([(input_ or preprocess).key, settings.of_the_result()]),
            is_done,
            lambda: train_fold(self.workspace, self.dataset, settings),
            settings,
        )

    def _select(self, trainings: list[tuple[str, int]], tasks: list[Task]) -> Task:
        models = [model_name(name, self.request.variants) for name in self.names]
        trained = [{fold for name, fold in trainings if name == wanted} for wanted in self.names]
        folds = sorted(set.intersection(*trained))
        arguments = (self.workspace, self.dataset, models, folds)
        return Task(
            SELECT,
            "select",
            self._command(
                "select", "--configurations", ",".join(models), "--folds", ",".join(str(fold) for fold in folds)
            ),
            tuple(task.name for task in tasks),
            tuple(path for task in tasks for path in task.outputs),
            (self.workspace.selection, self.workspace.bundle),
            key_of([task.key for task in tasks]),
            partial(is_selected, self.workspace, models, folds),
            partial(select_and_bundle, *arguments),
        )
