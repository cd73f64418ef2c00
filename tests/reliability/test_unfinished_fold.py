"""A fold whose validation was killed predicts what is left, and only what is of its own network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnbox_challenges.acdc import Acdc
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.execution import fold as fold_module
from nnunet_box.execution.fold import train_fold
from nnunet_box.execution.prepare import plan_dataset, preprocess_configurations
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace

QUICK = TrainingSettings("2d", 0, epochs=1, batches_per_epoch=1, device="cpu", workers=0)


@pytest.fixture
def planned(acdc_cohort, tmp_path):
    adapter = Acdc()
    adapter.convert(adapter.recognise(acdc_cohort), tmp_path / "datasets" / "acdc")
    dataset, workspace = load_dataset(tmp_path / "datasets" / "acdc"), Workspace(tmp_path, "acdc")
    plan_dataset(workspace, dataset, memory_gb=1.0, processes=1)
    return workspace, dataset


def test_validation_goes_on_with_the_case_it_was_killed_in(planned, monkeypatch):
    workspace, dataset = planned
    held_out = load_or_make_folds(workspace.splits, dataset)[0].val
    predict, predicted = fold_module.predict_case, []

    def predict_until(case: str | None):
        def run(image, spacing, plan, members, load, options, probabilities, before):
            if probabilities.name.startswith(f"{case}."):
                raise KeyboardInterrupt
            predicted.append(probabilities.name.partition(".")[0])
            return predict(image, spacing, plan, members, load, options, probabilities, before)

        return run

    monkeypatch.setattr(fold_module, "predict_case", predict_until(held_out[2]))
    with pytest.raises(KeyboardInterrupt):
        train_fold(workspace, dataset, QUICK)
    assert predicted == held_out[:2]
    # Killed between its two files: the label map is missing.
    (workspace.fold("2d", 0) / "validation" / f"{held_out[1]}.nii.gz").unlink()
    predicted.clear()
    monkeypatch.setattr(fold_module, "predict_case", predict_until(None))
    monkeypatch.setattr(fold_module, "Trainer", lambda *_: pytest.fail("trained again"))
    train_fold(workspace, dataset, QUICK)
    assert predicted == held_out[1:]


def test_predictions_of_another_network_are_made_again(planned, monkeypatch):
    workspace, dataset = planned
    held_out = load_or_make_folds(workspace.splits, dataset)[0].val
    train_fold(workspace, dataset, QUICK)
    folder = workspace.fold("2d", 0)
    first = {path.name: path.read_bytes() for path in (folder / "validation").iterdir()}
    (folder / "stage.json").unlink()
    (folder / "trained").unlink()
    train_fold(workspace, dataset, replace(QUICK, seed=QUICK.seed + 1))
    second = {path.name: path.read_bytes() for path in (folder / "validation").iterdir()}
    assert sorted(first) == sorted(second)
    assert all(first[f"{case}.probabilities.b2nd"] != second[f"{case}.probabilities.b2nd"] for case in held_out)


def test_the_log_of_a_run_that_never_saved_is_begun_anew(planned):
    workspace, dataset = planned
    log: Path = workspace.fold("2d", 0) / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"epoch": 1}\n{"epoch": 2}\n{"ep')
    train_fold(workspace, dataset, QUICK)
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1]


def test_a_store_whose_key_was_being_written_keeps_its_cases(planned):
    """The key is whole or of before: an empty one would cost every case."""
    workspace, dataset = planned
    plan = plan_dataset(workspace, dataset, memory_gb=1.0, processes=1)
    (store,) = preprocess_configurations(workspace, dataset, plan, ["2d"], processes=1)
    key, made = store / "key", {path.name: path.stat().st_ino for path in store.iterdir() if path.is_dir()}
    (store / "stage.json").unlink()
    before = key.stat().st_ino
    preprocess_configurations(workspace, dataset, plan, ["2d"], processes=1)
    assert key.stat().st_ino == before, "it is not written again"
    assert {path.name: path.stat().st_ino for path in store.iterdir() if path.is_dir()} == made
