"""Fingerprint, plan and preprocessing of a data set in a workspace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_box.dataset.cases import SourceCase, read_labelled
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.execution.folds import content_key
from nnunet_box.execution.stage import file_facts, is_done, key_of, stage
from nnunet_box.files import fill_beside, write_json
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
from nnunet_box.workspace import Workspace

MEMORY_GB = 12.0


def dataset_facts(dataset: Dataset) -> list[object]:
    """What says that a data set's training cases changed."""
    paths = [channel.path for case in dataset.cases for channel in case.channels]
    paths += [case.label for case in dataset.cases if case.label is not None]
    return [dataset.channel_names, sorted(dataset.labels.items()), file_facts(paths)]


def plan_dataset(
    workspace: Workspace, dataset: Dataset, memory_gb: float = MEMORY_GB, processes: int | None = None
) -> Plan:
    """Write ``fingerprint.json`` (kept while the data is the same) and ``plan.json``; return the plan.

    Raises
    ------
    InvalidData: any training case that cannot be read, or labels that do not fit.
    """
    folder = workspace.preprocessed
    facts = key_of(dataset_facts(dataset))
    if not (workspace.fingerprint.is_file() and is_done(folder, facts)):
        with stage(folder, facts, {"dataset": dataset.name, "cases": len(dataset.cases)}):
            write_fingerprint(workspace.fingerprint, extract_fingerprint(dataset, processes))
    plan = make_plan(load_fingerprint(workspace.fingerprint), dataset.name, dataset.labels, memory_gb)
    write_json(workspace.plan, plan.model_dump(mode="json", exclude_none=True))
    return plan


def existing_plan(workspace: Workspace, dataset: Dataset, processes: int | None = None) -> Plan:
    """The plan on disk if there is one (it may have been edited), else a new one."""
    if workspace.plan.is_file():
        return load_plan(workspace.plan)
    return plan_dataset(workspace, dataset, processes=processes)


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
    entries = list(dict.fromkeys(plan.entry_of(name) for name in configurations))
    stores = [
        _Store(
            entry,
            workspace.case_store(entry),
            key_of(_grid_facts(plan, entry, dataset)),
            {"configuration": entry, "cases": len(dataset.cases)},
        )
        for entry in entries
    ]
    labels = [(case, case.label) for case in dataset.cases if case.label is not None]
    _fill(stores, labels, has_case, partial(_store_case, plan=plan), f"Preprocess {', '.join(entries)}", processes)
    return [store.folder for store in stores]


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
    entry = plan.entry_of(split_model_name(model)[0])
    key = key_of([*_grid_facts(plan, entry, dataset), content_key(predictions)])
    store = _Store(entry, workspace.case_store(model), key, {"model": model, "cases": len(dataset.cases)})
    labels = [(case, predictions[case.id]) for case in dataset.cases]
    _fill([store], labels, has_previous, partial(_store_previous, plan=plan), f"Prepare input of {model}", processes)
    return store.folder


@dataclass(frozen=True)
class _Store:
    """A folder of cases. entry: the plan's configuration they are for. key, parameters: of its ``stage.json``."""

    entry: str
    folder: Path
    key: str
    parameters: dict[str, object]


Labelled = tuple[SourceCase, Path]
"""A case and the label map to store of it."""
Job = tuple[SourceCase, Path, dict[str, Path]]
"""Those, and for each configuration that lacks the case the folder to write it in."""


def _grid_facts(plan: Plan, entry: str, dataset: Dataset) -> list[object]:
    """What the cases of a store follow from."""
    shared = plan.model_dump(mode="json", exclude={"configurations", "memory_gb", "dataset"})
    return [shared, plan.configurations[entry].model_dump(mode="json"), dataset_facts(dataset)]


def _fill(
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
    stores = [store for store in stores if not is_done(store.folder, store.key)]
    for store in stores:
        marker = store.folder / "key"
        if store.folder.is_dir() and not (marker.is_file() and marker.read_text(errors="replace") == store.key):
            shutil.rmtree(store.folder)
        store.folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(store.key)
    with ExitStack() as stages:
        for store in stores:
            stages.enter_context(stage(store.folder, store.key, store.parameters))
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
        fills = {s.entry: folders.enter_context(fill_beside(s.folder)) for s in stores if lacking[s.entry]}
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
