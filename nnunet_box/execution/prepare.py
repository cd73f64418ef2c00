"""Fingerprint, plan and preprocessing of a data set in a workspace."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunet_box.dataset.cases import SourceCase, read_image, read_label
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.errors import UsageError
from nnunet_box.execution.stage import file_facts, is_done, key_of, stage
from nnunet_box.files import write_json
from nnunet_box.planning.fingerprint import load_fingerprint
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.planning.planner import make_plan
from nnunet_box.preprocessing.fingerprint import extract_fingerprint, write_fingerprint
from nnunet_box.preprocessing.parallel import map_cases
from nnunet_box.preprocessing.pipeline import prepare_case
from nnunet_box.preprocessing.store import has_case, write_case
from nnunet_box.workspace import Workspace

TRAINABLE = ("2d", "3d_fullres")
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
    """Configurations to work on: those asked for, else all of the plan that can be trained.

    Raises
    ------
    UsageError: one that the plan does not have or that cannot be trained yet.
    """
    known = [name for name in TRAINABLE if name in plan.configurations]
    for name in wanted or ():
        if name not in known:
            raise UsageError(f"Configuration {name!r}: this data set's are {', '.join(known)}.")
    return list(wanted) if wanted else known


def preprocess_dataset(
    workspace: Workspace, dataset: Dataset, plan: Plan, configuration: str, processes: int | None = None
) -> Path:
    """Fill the case store of one configuration; cases that are there stay. Returns the store's folder.

    Raises
    ------
    InvalidData: a case that cannot be read. NnboxError: the disk is full.
    """
    folder = workspace.case_store(configuration)
    shared = plan.model_dump(mode="json", exclude={"configurations", "memory_gb", "dataset"})
    key = key_of([shared, plan.configurations[configuration].model_dump(mode="json"), dataset_facts(dataset)])
    if is_done(folder, key):
        return folder
    marker = folder / "key"
    if folder.is_dir() and not (marker.is_file() and marker.read_text() == key):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)
    todo = [case for case in dataset.cases if not has_case(folder, case.id)]
    store = partial(_store_case, folder=folder, plan=plan, configuration=configuration)
    with stage(folder, key, {"configuration": configuration, "cases": len(dataset.cases)}):
        for _ in map_cases(store, todo, f"Preprocess {configuration}", processes):
            pass
    return folder


def _store_case(case: SourceCase, folder: Path, plan: Plan, configuration: str) -> None:
    image, geometry = read_image(case)
    assert case.label is not None
    labels = read_label(case.label, set(plan.labels), case.reference_file)
    chosen = plan.configurations[configuration]
    write_case(folder, case.id, prepare_case(image, geometry.spacing, labels, plan, chosen), chosen.patch_size)
