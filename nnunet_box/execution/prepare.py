"""Fingerprint, plan and preprocessing of a data set in a workspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nnunet_box.dataset.cases import SourceCase, read_labelled
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.disk import tell_if_tight
from nnunet_box.errors import UsageError
from nnunet_box.execution.contents import dataset_key
from nnunet_box.execution.folds import content_key
from nnunet_box.execution.space import stored_bytes
from nnunet_box.execution.stage import is_done, key_of, stage
from nnunet_box.files import fill_beside, remove_folder, write_json, write_text
from nnunet_box.locks import held
from nnunet_box.parallel import map_cases
from nnunet_box.planning.fingerprint import load_fingerprint
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.planning.planner import make_plan
from nnunet_box.planning.variant import split_model_name
from nnunet_box.preprocessing.fingerprint import extract_fingerprint, write_fingerprint
from nnunet_box.preprocessing.pipeline import (
    PreparedCase,
    case_placement,
    check_enlargement,
    prepare_case,
    same_grid,
)
from nnunet_box.preprocessing.previous_stage import has_previous, labels_on_grid, write_previous
from nnunet_box.preprocessing.store import IMAGE, has_case, write_case
from nnunet_box.progress import say
from nnunet_box.temporary import sweep_left
from nnunet_box.workspace import Workspace

MEMORY_GB = 12.0


def plan_dataset(
    workspace: Workspace, dataset: Dataset, memory_gb: float = MEMORY_GB, processes: int | None = None
) -> Plan:
    """Write ``fingerprint.json`` (kept while the data is the same) and ``plan.json``; return the plan.

    Raises
    ------
    InvalidData: any training case that cannot be read, or labels that do not fit.
    """
    with held(workspace.lock("plan"), f"the plan of {dataset.name}"):
        folder = workspace.preprocessed
        sweep_left(folder)
        key = dataset_key(workspace, dataset)
        if not (workspace.fingerprint.is_file() and is_done(folder, key)):
            with stage(folder, key, {"dataset": dataset.name, "cases": len(dataset.cases)}):
                write_fingerprint(workspace.fingerprint, extract_fingerprint(dataset, processes))
        plan = make_plan(load_fingerprint(workspace.fingerprint), dataset.name, dataset.labels, memory_gb)
        write_json(workspace.plan, _as_json(plan))
    return plan


def plan_is_current(workspace: Workspace, dataset: Dataset) -> bool:
    """Whether there is a plan of the data set as it is now. One without a fingerprint was put there by a person."""
    if not workspace.plan.is_file():
        return False
    return not workspace.fingerprint.is_file() or is_done(workspace.preprocessed, dataset_key(workspace, dataset))


def existing_plan(workspace: Workspace, dataset: Dataset, processes: int | None = None) -> Plan:
    """The plan on disk if there is one of this data (it may have been edited), else a new one.

    Raises
    ------
    UsageError: the data changed since, and the plan on disk is not the planner's own, which would be lost.
    """
    if plan_is_current(workspace, dataset):
        return load_plan(workspace.plan)
    if not workspace.plan.is_file():
        return plan_dataset(workspace, dataset, processes=processes)
    plan = load_plan(workspace.plan)
    made = make_plan(load_fingerprint(workspace.fingerprint), plan.dataset, plan.labels, plan.memory_gb)
    if _as_json(made) != _as_json(plan):
        raise UsageError(
            f"{workspace.plan} was edited, or is another version's, and the data set has changed since. To keep it, "
            f"delete {workspace.fingerprint}; to plan anew: nnbox plan {dataset.name}"
        )
    say(f"The data set has changed since {workspace.plan} was made: it is planned anew.")
    return plan_dataset(workspace, dataset, plan.memory_gb, processes)


def _as_json(plan: Plan) -> dict[str, object]:
    return plan.model_dump(mode="json", exclude_none=True)


def check_configurations(plan: Plan, wanted: Sequence[str] | None) -> list[str]:
    """Configurations to work on, each once and the simplest first: those asked for, else all of the plan.

    Raises
    ------
    UsageError: one that the plan does not have.
    """
    for name in wanted or ():
        plan.entry_of(name)
    return [name for name in plan.models if not wanted or name in wanted]


def preprocess_dataset(
    workspace: Workspace, dataset: Dataset, plan: Plan, configuration: str, processes: int | None = None
) -> Path:
    """As ``preprocess_configurations``, of one; returns the store's folder."""
    return preprocess_configurations(workspace, dataset, plan, [configuration], processes)[0]


def preprocess_configurations(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    configurations: Sequence[str],
    processes: int | None = None,
) -> list[Path]:
    """Fill the case stores of configurations; cases that are there stay. Returns the stores' folders, each once.

    Each case is read once for all of them. The cascade reads its images and labels from the store of ``3d_fullres``.

    Raises
    ------
    InvalidData: a case that cannot be read. NnboxError: the disk is full.
    """
    stores = _stores(workspace, dataset, plan, configurations)
    labels = [(case, case.label) for case in dataset.cases if case.label is not None]
    what = f"Preprocess {', '.join(store.entry for store in stores)}"
    _fill(workspace, stores, labels, has_case, partial(_store_case, plan=plan), what, processes)
    return [store.folder for store in stores]


def are_preprocessed(workspace: Workspace, dataset: Dataset, plan: Plan, configurations: Sequence[str]) -> bool:
    """Whether the case stores of configurations are full."""
    return all(is_done(store.folder, store.key) for store in _stores(workspace, dataset, plan, configurations))


def _stores(workspace: Workspace, dataset: Dataset, plan: Plan, configurations: Sequence[str]) -> list[_Store]:
    """Those of configurations, each once."""
    data = dataset_key(workspace, dataset)
    return [
        _Store(
            entry,
            workspace.case_store(entry),
            key_of(_grid_facts(plan, entry, data)),
            {"configuration": entry, "cases": len(dataset.cases)},
            stored_bytes(workspace, dataset, plan, entry),
        )
        for entry in dict.fromkeys(plan.entry_of(name) for name in configurations)
    ]


def prepare_previous_stage(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    model: str,
    predictions: Mapping[str, Path],
    processes: int | None = None,
) -> Path:
    """Bring the label maps of a cascade's first stage onto the cascade's grid, into a store of their own.

    model: the cascade's name, with its variants. predictions: case id to label map on the case's own grid. Label maps
    that changed are all made again. Returns the store's folder.

    Raises
    ------
    InvalidData: a case or a label map that cannot be read. NnboxError: the disk is full.
    """
    store = _previous_store(workspace, dataset, plan, model, predictions)
    labels = [(case, predictions[case.id]) for case in dataset.cases]
    save, what = partial(_store_previous, plan=plan), f"Prepare input of {model}"
    _fill(workspace, [store], labels, has_previous, save, what, processes)
    return store.folder


def is_previous_stage_prepared(
    workspace: Workspace, dataset: Dataset, plan: Plan, model: str, predictions: Mapping[str, Path]
) -> bool:
    """Whether ``prepare_previous_stage`` has nothing left to do."""
    store = _previous_store(workspace, dataset, plan, model, predictions)
    return is_done(store.folder, store.key)


def _previous_store(
    workspace: Workspace, dataset: Dataset, plan: Plan, model: str, predictions: Mapping[str, Path]
) -> _Store:
    entry = plan.entry_of(split_model_name(model)[0])
    key = key_of([*_grid_facts(plan, entry, dataset_key(workspace, dataset)), content_key(predictions)])
    return _Store(entry, workspace.case_store(model), key, {"model": model, "cases": len(dataset.cases)})


@dataclass(frozen=True)
class _Store:
    """A folder of cases. entry: the plan's configuration they are for. key, parameters: of its ``stage.json``. sizes:
    case id to the most bytes it takes, where that is known.
    """

    entry: str
    folder: Path
    key: str
    parameters: dict[str, object]
    sizes: Mapping[str, int] = field(default_factory=dict)

    def needed(self, has: Callable[[Path, str], bool]) -> Callable[[], float] | None:
        """Counts what the cases that are not there take at most."""
        if not self.sizes:
            return None
        return lambda: sum(size for case, size in self.sizes.items() if not has(self.folder, case))


Labelled = tuple[SourceCase, Path]
"""A case and the label map to store of it."""
Job = tuple[SourceCase, Path, dict[str, Path]]
"""Those, and for each configuration that lacks the case the folder to write it in."""


def _grid_facts(plan: Plan, entry: str, data: str) -> list[object]:
    """What the cases of a store follow from. data: the data set's key."""
    shared = plan.model_dump(mode="json", exclude={"configurations", "memory_gb", "dataset"})
    return [shared, plan.configurations[entry].model_dump(mode="json"), data]


def _fill(
    workspace: Workspace,
    stores: Sequence[_Store],
    cases: Sequence[Labelled],
    has: Callable[[Path, str], bool],
    save: Callable[[Job], str],
    what: str,
    processes: int | None,
) -> None:
    """Run ``save`` on the cases that stores lack; a folder of another key is begun anew.

    save: writes a case into the folders given for it and returns what it is called there.
    """
    with ExitStack() as block:
        for store in sorted(stores, key=lambda one: one.folder):
            name = store.folder.name
            block.enter_context(held(workspace.lock(f"store-{name}"), f"the preprocessed cases of {name}"))
            sweep_left(store.folder)
        sweep_left(workspace.preprocessed)
        stores = [store for store in stores if not is_done(store.folder, store.key)]
        for store in stores:
            marker = store.folder / "key"
            if not (marker.is_file() and marker.read_text(encoding="utf-8", errors="replace") == store.key):
                if store.folder.is_dir():
                    remove_folder(store.folder)
                write_text(marker, store.key)
            block.enter_context(stage(store.folder, store.key, store.parameters))
        counts = [count for store in stores if (count := store.needed(has)) is not None]
        tell_if_tight(workspace.preprocessed, sum(count() for count in counts), what)
        # A case that shares another's image comes after it.
        for sharing in (False, True):
            part = [(case, label) for case, label in cases if bool(case.image_of) == sharing]
            _fill_part(stores, part, has, save, what, processes)


def _fill_part(
    stores: Sequence[_Store],
    cases: Sequence[Labelled],
    has: Callable[[Path, str], bool],
    save: Callable[[Job], str],
    what: str,
    processes: int | None,
) -> None:
    lacking = {store.entry: {case.id for case, _ in cases if not has(store.folder, case.id)} for store in stores}
    with ExitStack() as folders:
        fills = {
            store.entry: folders.enter_context(fill_beside(store.folder, store.needed(has)))
            for store in stores
            if lacking[store.entry]
        }
        jobs: list[Job] = []
        for case, label in cases:
            targets = {entry: folder for entry, (folder, _) in fills.items() if case.id in lacking[entry]}
            if targets:
                jobs.append((case, label, targets))
        # Workers end before the folders they write in go.
        done = folders.enter_context(closing(map_cases(save, jobs, what, processes, preload=["blosc2"])))
        for (_, _, targets), name in done:
            for entry in targets:
                fills[entry][1](name)


def _store_case(job: Job, plan: Plan) -> str:
    case, label, targets = job
    image, labels, geometry = read_labelled(case, label, set(plan.labels))
    check_enlargement(
        case.reference_file, image.shape[1:], geometry.spacing, (plan.configurations[entry] for entry in targets)
    )
    prepared: PreparedCase | None = None
    before = None
    for entry, folder in targets.items():
        chosen = plan.configurations[entry]
        if prepared is None or before is None or not same_grid(before, chosen, geometry.spacing):
            prepared = None  # Gone before the next one is made.
            prepared = prepare_case(image, geometry.spacing, labels, plan, chosen)
        before = chosen
        shared = folder.parent / case.image_of / IMAGE if case.image_of else None
        write_case(folder, case.id, prepared, chosen.patch_size, shared)
    return case.id


def _store_previous(job: Job, plan: Plan) -> str:
    case, label, targets = job
    image, labels, geometry = read_labelled(case, label, set(plan.labels))
    (entry, folder), *_ = targets.items()
    chosen = plan.configurations[entry]
    on_grid = labels_on_grid(labels, case_placement(image, geometry.spacing, chosen))
    return write_previous(folder, case.id, on_grid, chosen.patch_size)
