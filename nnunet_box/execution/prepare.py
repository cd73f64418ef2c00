"""Fingerprint, plan and preprocessing of a data set in a workspace."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from nnunet_box.dataset.cases import SourceCase, read_image, read_label
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.execution.folds import content_key
from nnunet_box.execution.stage import file_facts, is_done, key_of, stage
from nnunet_box.files import write_json
from nnunet_box.parallel import map_cases
from nnunet_box.planning.fingerprint import load_fingerprint
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.planning.planner import make_plan
from nnunet_box.planning.variant import split_model_name
from nnunet_box.preprocessing.fingerprint import extract_fingerprint, write_fingerprint
from nnunet_box.preprocessing.pipeline import case_placement, prepare_case
from nnunet_box.preprocessing.previous_stage import has_previous, labels_on_grid, write_previous
from nnunet_box.preprocessing.store import has_case, write_case
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


def existing_plan(workspace: Workspace, dataset: Dataset) -> Plan:
    """The plan on disk if there is one (it may have been edited), else a new one."""
    return load_plan(workspace.plan) if workspace.plan.is_file() else plan_dataset(workspace, dataset)


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
    """Fill the case store of one configuration; cases that are there stay. Returns the store's folder.

    The cascade reads its images and labels from the store of ``3d_fullres``.

    Raises
    ------
    InvalidData: a case that cannot be read. NnboxError: the disk is full.
    """
    entry = plan.entry_of(configuration)
    folder = workspace.case_store(entry)
    store = partial(_store_case, folder=folder, plan=plan, configuration=entry)
    key = key_of(_grid_facts(plan, entry, dataset))
    _fill(folder, key, dataset.cases, has_case, store, f"Preprocess {entry}", {"configuration": entry}, processes)
    return folder


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
    folder = workspace.case_store(model)
    store = partial(_store_previous, folder=folder, plan=plan, entry=entry, predictions=predictions)
    key = key_of([*_grid_facts(plan, entry, dataset), content_key(predictions)])
    _fill(folder, key, dataset.cases, has_previous, store, f"Prepare input of {model}", {"model": model}, processes)
    return folder


def _grid_facts(plan: Plan, entry: str, dataset: Dataset) -> list[object]:
    """What the cases of a store follow from."""
    shared = plan.model_dump(mode="json", exclude={"configurations", "memory_gb", "dataset"})
    return [shared, plan.configurations[entry].model_dump(mode="json"), dataset_facts(dataset)]


def _fill(
    folder: Path,
    key: str,
    cases: Sequence[SourceCase],
    has: Callable[[Path, str], bool],
    store: Callable[[SourceCase], None],
    what: str,
    parameters: dict[str, object],
    processes: int | None,
) -> None:
    """Run ``store`` on the cases that a folder of this key lacks; a folder of another key is begun anew."""
    if is_done(folder, key):
        return
    marker = folder / "key"
    if folder.is_dir() and not (marker.is_file() and marker.read_text() == key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)
    todo = [case for case in cases if not has(folder, case.id)]
    with stage(folder, key, {**parameters, "cases": len(cases)}):
        # A case that shares another's image comes after it.
        for part in ([case for case in todo if not case.image_of], [case for case in todo if case.image_of]):
            for _ in map_cases(store, part, what, processes):
                pass


def _store_case(case: SourceCase, folder: Path, plan: Plan, configuration: str) -> None:
    image, geometry = read_image(case)
    assert case.label is not None
    labels = read_label(case.label, set(plan.labels), case.reference_file)
    chosen = plan.configurations[configuration]
    prepared = prepare_case(image, geometry.spacing, labels, plan, chosen)
    write_case(folder, case.id, prepared, chosen.patch_size, case.image_of)


def _store_previous(case: SourceCase, folder: Path, plan: Plan, entry: str, predictions: Mapping[str, Path]) -> None:
    image, geometry = read_image(case)
    labels = read_label(predictions[case.id], set(plan.labels), case.reference_file)
    chosen = plan.configurations[entry]
    on_grid = labels_on_grid(labels, case_placement(image, geometry.spacing, chosen))
    write_previous(folder, case.id, on_grid, chosen.patch_size)
