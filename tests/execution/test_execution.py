"""Stages that know when they are done, and the chain on a small cohort."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_box.bundle import load_bundle
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.execution import fold as fold_module
from nnunet_box.execution import prepare
from nnunet_box.execution.chain import train_all
from nnunet_box.execution.choose import select_dataset
from nnunet_box.execution.fold import train_fold
from nnunet_box.execution.graph import task_graph
from nnunet_box.execution.prepare import check_configurations, plan_dataset, preprocess_dataset
from nnunet_box.execution.records import states
from nnunet_box.execution.request import Request
from nnunet_box.execution.stage import is_done, key_of, stage
from nnunet_box.files import write_json
from nnunet_box.planning.plan import load_plan
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace
from tests.execution.acdc_samples import planned_cohort

QUICK = TrainingSettings("2d", 0, epochs=1, batches_per_epoch=1, device="cpu", workers=0)


@pytest.fixture(scope="module")
def cohort(acdc_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Dataset]:
    """A planned workspace with the synthetic cohort; nothing preprocessed or trained."""
    return planned_cohort(acdc_cohort, tmp_path_factory.mktemp("workspace"))


def test_a_stage_is_done_only_when_it_ended_with_the_same_key(tmp_path: Path) -> None:
    key = key_of({"a": 1, "b": 2})
    assert key == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})
    assert not is_done(tmp_path, key)
    with stage(tmp_path, key, {"a": 1}):
        pass
    assert is_done(tmp_path, key) and not is_done(tmp_path, "other")
    with pytest.raises(RuntimeError), stage(tmp_path, key, {"a": 1}):
        raise RuntimeError
    assert not is_done(tmp_path, key), "a stage that is being redone is no longer done"
    with stage(tmp_path, key, {"a": 1}):
        pass
    written = json.loads((tmp_path / "stage.json").read_text())
    assert written["peak_memory_bytes"] > 10**7 and written["seconds"] >= 0


def test_the_fingerprint_is_kept_until_the_data_changes(
    cohort: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = cohort
    monkeypatch.setattr(prepare, "extract_fingerprint", lambda *_: pytest.fail("measured again"))
    plan_dataset(workspace, dataset, memory_gb=1.0)
    fewer = replace(dataset, cases=dataset.cases[:-1])
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        plan_dataset(workspace, fewer, memory_gb=1.0)
    monkeypatch.undo()
    plan_dataset(workspace, dataset, memory_gb=1.0, processes=1)


def test_preprocessing_continues_and_notices_another_plan(
    cohort: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = cohort[1]
    workspace = Workspace(tmp_path, "acdc")
    plan = load_plan(cohort[0].plan)
    stored: list[str] = []
    store = prepare._store_case

    def count(job: object, **keywords: object) -> str:
        if len(stored) == 5:
            raise KeyboardInterrupt
        stored.append(job[0].id)  # type: ignore[index]
        return store(job, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "_store_case", count)
    with pytest.raises(KeyboardInterrupt):
        preprocess_dataset(workspace, dataset, plan, "2d", processes=1)
    first = list(stored)
    stored.clear()
    stored.extend(["", "", "", "", "", ""])
    preprocess_dataset(workspace, dataset, plan, "2d", processes=1)
    assert sorted(first + stored[6:]) == sorted(case.id for case in dataset.cases)
    stored[:] = [""] * 6
    preprocess_dataset(workspace, dataset, plan, "2d", processes=1)
    assert len(stored) == 6, "nothing to do"
    wider = plan.configurations["2d"].model_copy(update={"spacing": (10.0, 2.0, 2.0)})
    other = plan.model_copy(update={"configurations": {**plan.configurations, "2d": wider}})
    preprocess_dataset(workspace, dataset, other, "2d", processes=1)
    assert len(stored) == 6 + len(dataset.cases), "all cases again"


def test_only_what_the_plan_has_can_be_asked_for(cohort: tuple[Workspace, Dataset]) -> None:
    plan = load_plan(cohort[0].plan)
    assert check_configurations(plan, None) == ["2d", "3d_fullres"]
    with pytest.raises(UsageError, match="2d, 3d_fullres"):
        check_configurations(plan, ["3d_lowres"])
    with pytest.raises(UsageError, match="folds 0 to 4"):
        train_fold(*cohort, replace(QUICK, fold=5))
    with pytest.raises(UsageError, match="No fold of acdc"):
        select_dataset(*cohort)


def trainings(workspace: Workspace, dataset: Dataset, **changes: object) -> dict[str, str]:
    """States of the trainings of QUICK, changed."""
    request = Request.of(replace(QUICK, **changes), ["2d", "3d_fullres"], [0, 1])  # type: ignore[arg-type]
    tasks = task_graph(workspace, dataset, request)
    return {name: state for name, state in states(workspace, tasks).items() if name.startswith("train-")}


def test_the_chain_ends_in_a_bundle_and_does_nothing_twice(
    cohort: tuple[Workspace, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = cohort
    plan = load_plan(workspace.plan)
    load_or_make_folds(workspace.splits, dataset)
    assert set(trainings(workspace, dataset).values()) == {"waiting"}
    selection, _ = train_all(workspace, dataset, QUICK, ["2d", "3d_fullres"], [0, 1])
    assert set(trainings(workspace, dataset).values()) == {"done"}
    assert set(trainings(workspace, dataset, variants=("relu",)).values()) == {"waiting"}
    names = [candidate.name for candidate in selection.candidates]
    assert names == ["2d", "3d_fullres", "2d+3d_fullres"]
    bundle = load_bundle(workspace.bundle, check_weights=True)
    assert bundle.challenge == "acdc"
    assert tuple(member.configuration for member in bundle.members) == selection.chosen
    assert all([entry.fold for entry in member.weights] == [0, 1] for member in bundle.members)
    folds = load_or_make_folds(workspace.splits, dataset)
    validated = {path.name.split(".")[0] for path in (workspace.fold("2d", 0) / "validation").glob("*.nii.gz")}
    assert validated == set(folds[0].val)
    assert not {case.split("_")[0] for case in folds[0].val} & {case.split("_")[0] for case in folds[0].train}
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: pytest.fail("trained again"))
    train_all(workspace, dataset, QUICK, ["2d", "3d_fullres"], [0, 1])
    with pytest.raises(InvalidData):
        select_dataset(workspace, dataset, ["2d"], [0, 1, 2])
    other = replace(QUICK, seed=2, epochs=7)
    with pytest.raises(UsageError, match=rf"is finished, with other settings \(seed {QUICK.seed}, epochs 1\)"):
        train_fold(workspace, dataset, other)
    assert (workspace.fold(QUICK.configuration, 0) / "stage.json").is_file(), "a finished fold is not lost by a slip"
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train_fold(workspace, dataset, other, restart=True)
    changed = plan.configurations["2d"].model_copy(update={"batch_size": plan.configurations["2d"].batch_size + 1})
    entries = {**plan.configurations, "2d": changed}
    write_json(workspace.plan, plan.model_copy(update={"configurations": entries}).model_dump(exclude_none=True))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train_fold(workspace, dataset, replace(other, fold=1))
