"""What a line of log.jsonl says, and that logs and checkpoints of version 0.1 are still read."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from nnunet_box.dataset.splits import Fold
from nnunet_box.means import mean_of
from nnunet_box.training import trainer as trainer_module
from nnunet_box.training.run_log import Epoch, epoch_seconds, moving_averages, read_log
from nnunet_box.training.schedule import PlateauSchedule
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.step import TrainingStep
from nnunet_box.training.trainer import Trainer
from nnunet_box.training.validation import patch_dice
from tests.training.toys import toy_plan, toy_store

SETTINGS = TrainingSettings("2d", 0, epochs=3, batches_per_epoch=4, workers=0, device="cpu", checkpoint_seconds=1e6)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fold]:
    folder = tmp_path_factory.mktemp("store")
    names = toy_store(folder, 3)
    return folder, Fold(train=names[:2], val=names[2:])


def strict(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_line_says_what_an_epoch_was(store: tuple[Path, Fold], tmp_path: Path) -> None:
    trainer = Trainer(toy_plan(), *store, tmp_path, SETTINGS)
    trainer.run(resume=False)
    log = tmp_path / "log.jsonl"
    lines = [strict(line) for line in log.read_text().splitlines()]
    assert all(isinstance(line, dict) and list(line) == [one.name for one in fields(Epoch)] for line in lines)
    found = read_log(log)
    assert found == trainer.progress.history
    assert [line.epoch for line in found] == [1, 2, 3] and [line.updates for line in found] == [4, 8, 12]
    assert isinstance(trainer.schedule, PlateauSchedule) and found[-1].loss_average == trainer.schedule.average
    for line in found:
        assert set(line.dice) == {1, 2} and line.validation_dice == mean_of(line.dice.values())
        assert line.seconds and line.batches_per_second and line.ended
        assert 4 / line.batches_per_second < line.seconds, "validation is not counted among the updates"
    assert [line.ended for line in found] == sorted(line.ended or 0 for line in found)
    assert moving_averages([line.validation_dice for line in found])[-1] == found[-1].dice_average


def test_a_budget_that_ends_in_an_epoch_leaves_valid_json(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "fit_to_budget", lambda *given: given[-1])
    trainer = Trainer(toy_plan(), *store, tmp_path, replace(SETTINGS, epochs=None, budget_seconds=3600.0))
    made = 0
    gradients = TrainingStep.gradients

    def last_of_six(self: TrainingStep, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        if made == 6:
            trainer.schedule.spent = 3600.0  # type: ignore[union-attr]
        return gradients(self, image, labels)

    monkeypatch.setattr(TrainingStep, "gradients", last_of_six)
    trainer.run(resume=False)
    first, last = (strict(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert isinstance(first, dict) and isinstance(last, dict)
    assert last["validation_dice"] is None and last["dice"] == {}
    assert last["dice_average"] == first["dice_average"] and (first["updates"], last["updates"]) == (4, 6)


def test_a_class_that_is_neither_there_nor_predicted_has_no_dice() -> None:
    truth = torch.tensor([[[1, 1, 0, 0]]])
    guess = torch.tensor([[[1, 0, 0, 3]]])

    class Step:
        device = torch.device("cpu")
        network = torch.nn.Identity()

        def labels_of(self, image: torch.Tensor) -> torch.Tensor:
            return image

    seen: list[int] = []
    batches = iter([(guess, truth), (truth, truth)])
    dice = patch_dice(Step(), batches, 4, seen.append)  # type: ignore[arg-type]
    assert dice == {1: 2 * 3 / (4 + 3), 2: None, 3: 0.0} and seen == [0, 1]
    assert mean_of(dice.values()) == pytest.approx(3 / 7)
    assert mean_of([None]) is None and mean_of([]) is None


def old_line(epoch: int, dice: float) -> dict[str, float]:
    return {"epoch": epoch, "loss": 1.0 / epoch, "validation_dice": dice, "rate": 3e-4, "seconds": 2.0}


def test_a_log_of_version_0_1_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    whole = "".join(json.dumps(old_line(epoch, dice)) + "\n" for epoch, dice in ((1, 0.5), (2, float("nan"))))
    log.write_text(whole + '{"epoch": 3, "lo')
    first, second = read_log(log)
    assert (first.loss, first.validation_dice, first.dice, first.updates) == (1.0, 0.5, {}, None)
    assert second.validation_dice is None and epoch_seconds([first, second]) == 2.0
    assert read_log(tmp_path / "none") == []


def test_a_run_of_version_0_1_goes_on(store: tuple[Path, Fold], tmp_path: Path) -> None:
    saving = replace(SETTINGS, checkpoint_seconds=0.0, epochs=2)
    first = Trainer(toy_plan(), *store, tmp_path, saving)
    first.run(resume=False)
    file = tmp_path / "checkpoint" / "state.json"
    state = json.loads(file.read_text())
    # The last checkpoint is of the last batch; a second epoch is still to be ended.
    assert [line["epoch"] for line in state["progress"]["history"]] == [1]
    state["progress"]["history"] = [old_line(1, float("nan"))]
    file.write_text(json.dumps(state))
    second = Trainer(toy_plan(), *store, tmp_path, replace(saving, epochs=3))
    second.run(resume=True)
    found = read_log(tmp_path / "log.jsonl")
    assert [line.epoch for line in found] == [1, 2, 3] and [line.updates for line in found] == [None, 8, 12]
    assert found[1].loss_average == pytest.approx(0.93 * 1.0 + 0.07 * (found[1].loss or 0))
    assert found[1].dice_average == found[1].validation_dice, "the first that is known"
