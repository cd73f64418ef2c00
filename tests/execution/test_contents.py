"""A data set is told by what its files hold: what is redone when it changes, and that nothing is when it is copied."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.dataset.volumes import read_volume, write_labels_like
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.execution import contents, prepare
from nnunet_box.execution import fold as fold_module
from nnunet_box.execution.contents import dataset_key
from nnunet_box.execution.fold import train_fold
from nnunet_box.execution.graph import task_graph
from nnunet_box.execution.prepare import are_preprocessed, existing_plan, plan_is_current
from nnunet_box.execution.records import states
from nnunet_box.execution.request import Request
from nnunet_box.files import write_json
from nnunet_box.planning.plan import load_plan
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace
from tests.execution.acdc_samples import planned_cohort

QUICK = TrainingSettings("2d", 0, epochs=1, batches_per_epoch=1, device="cpu", workers=0)


@pytest.fixture(scope="module")
def one_fold(acdc_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one trained fold of 2D."""
    workspace, dataset = planned_cohort(acdc_cohort, tmp_path_factory.mktemp("contents"))
    train_fold(workspace, dataset, QUICK)
    return workspace.root


@pytest.fixture
def root(one_fold: Path, tmp_path: Path) -> Path:
    """A copy of it of its own, with other times of change."""
    shutil.copytree(one_fold, tmp_path / "w", copy_function=shutil.copyfile)
    return tmp_path / "w"


def opened(root: Path) -> tuple[Workspace, Dataset]:
    return Workspace(root, "acdc"), load_dataset(root / "datasets" / "acdc")


def change(dataset: Dataset, case: int = 0) -> None:
    """Write another label into a voxel, keeping the file's size out of it."""
    file = dataset.cases[case].label
    assert file is not None
    labels = read_volume(file).array.astype("uint8")
    labels[0, 0, 0] = 1
    write_labels_like(file, labels, file)


def test_a_copied_and_touched_data_set_is_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, dataset = opened(root)
    for case in dataset.cases:
        os.utime(case.reference_file, (1, 1))
    monkeypatch.setattr(prepare, "extract_fingerprint", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: pytest.fail("trained again"))
    assert plan_is_current(workspace, dataset)
    assert are_preprocessed(workspace, dataset, load_plan(workspace.plan), ["2d"])
    train_fold(workspace, dataset, QUICK)


def test_files_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, dataset = opened(root)
    read: list[Path] = []
    whole = contents._sha256
    monkeypatch.setattr(contents, "_sha256", lambda path: read.append(path) or whole(path))
    key = dataset_key(workspace, dataset)
    assert len(read) == 2 * len(dataset.cases), "a copy has other times: once more"
    read.clear()
    assert dataset_key(workspace, dataset) == key and not read
    change(dataset)
    assert dataset_key(workspace, dataset) != key and read == [dataset.cases[0].label]
    workspace.contents.write_text("{damaged")
    assert len(dataset_key(workspace, dataset)) == len(key)


def test_names_and_labels_count_too(root: Path) -> None:
    workspace, dataset = opened(root)
    key = dataset_key(workspace, dataset)
    for other in (
        replace(dataset, channel_names=("CT",)),
        replace(dataset, labels={**dataset.labels, 1: "other"}),
        replace(dataset, cases=dataset.cases[1:]),
        replace(dataset, cases=(replace(dataset.cases[0], id="other"), *dataset.cases[1:])),
    ):
        assert dataset_key(workspace, other) != key
    lost = dataset.cases[0].label
    assert lost is not None
    lost.unlink()
    with pytest.raises(InvalidData, match=lost.name):
        dataset_key(workspace, dataset)


def test_a_changed_case_is_noticed_by_all_that_was_made_of_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, dataset = opened(root)
    request = Request.of(QUICK, ["2d"], [0])
    assert set(states(workspace, task_graph(workspace, dataset, request)).values()) == {"done", "waiting"}
    change(dataset)
    found = states(workspace, task_graph(workspace, dataset, request))
    assert found["plan"] == found["preprocess"] == found["select"] == "waiting"
    assert found["train-2d-0"] != "done"
    memory = load_plan(workspace.plan).memory_gb
    assert existing_plan(workspace, dataset, processes=1).memory_gb == memory
    assert plan_is_current(workspace, dataset)
    trained: list[str] = []
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: trained.append("") or pytest.fail("trained again"))
    with pytest.raises(pytest.fail.Exception):
        train_fold(workspace, dataset, QUICK)
    assert trained


def test_an_edited_plan_is_not_lost_when_the_data_changes(root: Path) -> None:
    workspace, dataset = opened(root)
    edited = json.loads(workspace.plan.read_text())
    edited["configurations"]["2d"]["batch_size"] += 1
    write_json(workspace.plan, edited)
    assert (
        existing_plan(workspace, dataset).configurations["2d"].batch_size
        == edited["configurations"]["2d"]["batch_size"]
    )
    change(dataset)
    with pytest.raises(UsageError, match=r"was edited.*delete .*fingerprint\.json; to plan anew: nnbox plan acdc"):
        existing_plan(workspace, dataset)
    assert json.loads(workspace.plan.read_text()) == edited
    workspace.fingerprint.unlink()
    assert (
        existing_plan(workspace, dataset).configurations["2d"].batch_size
        == edited["configurations"]["2d"]["batch_size"]
    )


def test_an_unfinished_run_of_other_data_is_set_aside(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, dataset = opened(root)
    unfinished = replace(QUICK, fold=1, epochs=2, checkpoint_seconds=0.0)
    folder = workspace.fold("2d", 1)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fold_module.Trainer, "_end_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        train_fold(workspace, dataset, unfinished)
    assert (folder / "checkpoint").is_dir()
    change(dataset)
    existing_plan(workspace, dataset, processes=1)
    train_fold(workspace, dataset, unfinished)
    assert "training begins anew" in capsys.readouterr().err
    assert (folder / "checkpoint-before" / "state.json").is_file() and (folder / "stage.json").is_file()
