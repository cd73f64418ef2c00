"""Training learns, and an interrupted run ends with the weights of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nnunet_box.dataset.splits import Fold
from nnunet_box.errors import InvalidData, NnboxError, UsageError
from nnunet_box.interrupts import Interrupted
from nnunet_box.training import fitting
from nnunet_box.training import step as step_module
from nnunet_box.training import trainer as trainer_module
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.step import TrainingStep
from nnunet_box.training.trainer import Trainer
from tests.training.toys import toy_plan, toy_store

SETTINGS = TrainingSettings("3d_fullres", 0, epochs=4, batches_per_epoch=5, workers=0, checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fold]:
    folder = tmp_path_factory.mktemp("store")
    names = toy_store(folder, 5)
    return folder, Fold(train=names[:4], val=names[4:])


def trainer(store: tuple[Path, Fold], folder: Path, settings: TrainingSettings = SETTINGS) -> Trainer:
    return Trainer(toy_plan(), store[0], store[1], folder, settings)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Interrupt in the middle of the epoch after ``epochs``."""
    whole = Trainer._train_epoch

    def stop(self: Trainer, batches: object, count: int) -> float:
        if self.progress.epoch == epochs:
            whole(self, batches, count // 2)  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return whole(self, batches, count)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_train_epoch", stop)


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_interrupted_equals_uninterrupted(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str
) -> None:
    settings = replace(SETTINGS, configuration=configuration)
    straight = load_file(trainer(store, tmp_path / "straight", settings).run(resume=False))
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            trainer(store, tmp_path / "broken", settings).run(resume=False)
    with pytest.raises(UsageError, match="--resume"):
        trainer(store, tmp_path / "broken", settings).run(resume=False)
    torch.manual_seed(99)
    resumed = load_file(trainer(store, tmp_path / "broken", settings).run(resume=True))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


def test_schedule_and_moments_come_back(store: tuple[Path, Fold], tmp_path: Path) -> None:
    first = trainer(store, tmp_path)
    first.run(resume=False)
    second = trainer(store, tmp_path, replace(SETTINGS, epochs=9))
    second._restore()
    assert (second.progress.epoch, len(second.progress.losses)) == (3, 5), "the last batch; then come the weights"
    assert second.schedule.average is not None and second.schedule.most_epochs == 9  # type: ignore[union-attr]
    moments = second.optimizer.state_dict()["state"]
    assert {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"} <= set(moments[0])
    assert float(moments[0]["step"]) == 20


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_a_signal_in_mid_epoch_loses_no_batch(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str
) -> None:
    settings = replace(SETTINGS, configuration=configuration, checkpoint_seconds=1e6)
    straight_run = trainer(store, tmp_path / "straight", settings)
    straight = load_file(straight_run.run(resume=False))
    made = 0
    gradients = TrainingStep.gradients

    def count(self: TrainingStep, image: Tensor, labels: Tensor) -> Tensor:
        nonlocal made
        made += 1
        if made in (7, 12):
            os.kill(os.getpid(), signal.SIGUSR1)
        return gradients(self, image, labels)

    monkeypatch.setattr(TrainingStep, "gradients", count)
    for batches in (7, 12):
        with pytest.raises(Interrupted):
            trainer(store, tmp_path / "broken", settings).run(resume=True)
        assert made == batches, "it ends after the batch"
    run = trainer(store, tmp_path / "broken", settings)
    resumed = load_file(run.run(resume=True))
    assert made == 20, "no batch is made twice"
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    times = {"seconds": None, "batches_per_second": None, "ended": None}
    assert [replace(line, **times) for line in run.progress.history] == [
        replace(line, **times) for line in straight_run.progress.history
    ]


def test_a_signal_during_validation_does_not_train_the_epoch_again(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, checkpoint_seconds=1e6)
    straight = load_file(trainer(store, tmp_path / "straight", settings).run(resume=False))
    whole = Trainer._validate_epoch

    def signalled(self: Trainer, *arguments: object) -> float:
        if self.progress.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_validate_epoch", signalled)
        with pytest.raises(Interrupted):
            trainer(store, tmp_path / "broken", settings).run(resume=False)
    run = trainer(store, tmp_path / "broken", settings)
    run._restore()
    assert (run.progress.epoch, len(run.progress.losses)) == (1, 5)
    resumed = load_file(trainer(store, tmp_path / "broken", settings).run(resume=True))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_checkpoints_come_within_an_epoch_and_rarely_where_saving_is_slow(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saves = 0.0, []
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: clock)
    save, gradients = trainer_module.save_checkpoint, TrainingStep.gradients

    def slow(*arguments: object) -> None:
        nonlocal clock
        saves.append(clock)
        clock += 0.5
        save(*arguments)  # type: ignore[arg-type]

    def batch(self: TrainingStep, image: Tensor, labels: Tensor) -> Tensor:
        nonlocal clock
        clock += 1.0
        return gradients(self, image, labels)

    monkeypatch.setattr(trainer_module, "save_checkpoint", slow)
    monkeypatch.setattr(TrainingStep, "gradients", batch)
    trainer(store, tmp_path, replace(SETTINGS, checkpoint_seconds=2.0)).run(resume=False)
    # A save of half a second is worth ten: at most a twentieth of the time.
    assert saves == [2.0, 12.5]


@pytest.mark.slow
def test_it_learns(store: tuple[Path, Fold], tmp_path: Path) -> None:
    run = trainer(store, tmp_path, replace(SETTINGS, epochs=6, batches_per_epoch=40))
    run.run(resume=False)
    losses = [line.loss or 0.0 for line in run.progress.history]
    assert losses[-1] < losses[0] - 0.5
    assert (run.progress.history[-1].validation_dice or 0) > 0.6


def test_a_budget_ends_on_time_annealed(store: tuple[Path, Fold], tmp_path: Path) -> None:
    run = trainer(store, tmp_path, replace(SETTINGS, epochs=None, batches_per_epoch=250, budget_seconds=4.0))
    run.run(resume=False)
    assert run.schedule.finished and run.schedule.epochs_done >= 1
    assert run.progress.batch_size == 2
    assert (run.progress.history[-1].rate or 1) < 1e-5


def test_a_budget_of_few_updates_says_how_to_get_more(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for sample_seconds, told in ((0.0001, False), (0.5, True)):
        monkeypatch.setattr(fitting, "seconds_a_sample", lambda step, batch, answer=sample_seconds: answer)
        folder = tmp_path / str(told)
        trainer(store, folder, replace(SETTINGS, epochs=None, budget_seconds=1.0)).run(resume=False)
        assert ("--memory-gb 3 (this plan: 12)" in capsys.readouterr().err) == told


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = load_file(trainer(store, tmp_path / "straight").run(resume=False))
    moves = 0
    rename = Path.rename

    def die(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += self.name == "checkpoint"
        # Of the first checkpoint one, of the second the older one away, then this.
        if moves == 3 and target.name == "checkpoint":
            raise SystemExit
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        patched.setattr("nnunet_box.temporary.remove", lambda path: None)
        with pytest.raises(SystemExit):
            trainer(store, tmp_path / "killed").run(resume=False)
    assert not (tmp_path / "killed" / "checkpoint").exists()
    resumed = load_file(trainer(store, tmp_path / "killed").run(resume=True))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_another_seed_does_not_continue(store: tuple[Path, Fold], tmp_path: Path) -> None:
    trainer(store, tmp_path).run(resume=False)
    with pytest.raises(UsageError, match="other settings"):
        trainer(store, tmp_path, replace(SETTINGS, seed=5)).run(resume=True)
    with pytest.raises(UsageError, match="--budget"):
        trainer(store, tmp_path, replace(SETTINGS, budget_seconds=5.0)).run(resume=True)


def test_a_damaged_checkpoint_is_named(store: tuple[Path, Fold], tmp_path: Path) -> None:
    trainer(store, tmp_path).run(resume=False)
    (tmp_path / "checkpoint" / "optimizer.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(InvalidData, match="--restart"):
        trainer(store, tmp_path).run(resume=True)


def test_a_loss_that_is_no_number_stops_the_run(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = step_module.loss_at_every_resolution
    monkeypatch.setattr(step_module, "loss_at_every_resolution", lambda *values: loss(*values) * float("nan"))
    with pytest.raises(NnboxError, match="not a number"):
        trainer(store, tmp_path).run(resume=False)


def test_a_full_disk_keeps_the_last_checkpoint(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(store, tmp_path)
    run.run(resume=False)
    before = (tmp_path / "checkpoint" / "state.json").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnunet_box.training.checkpoint.save_file", full)
    with pytest.raises(NnboxError, match="No space left"):
        run._save()
    assert (tmp_path / "checkpoint" / "state.json").read_text() == before
    assert not list(tmp_path.glob("*.nnbox-tmp-*")) and not list(tmp_path.glob(".nnbox-tmp-*"))


@pytest.mark.parametrize(
    ("configuration", "low_resolution", "pooled"),
    [
        ("2d", False, True),
        ("2d", True, True),
        ("3d_fullres", False, False),
        ("3d_fullres", True, True),
        ("3d_lowres", True, False),
    ],
)
def test_dice_is_pooled_over_the_batch_in_2d_and_at_full_resolution_beside_a_low_one(
    store: tuple[Path, Fold], tmp_path: Path, configuration: str, low_resolution: bool, pooled: bool
) -> None:
    plan = toy_plan()
    if low_resolution:
        entries = {**plan.configurations, "3d_lowres": plan.configurations["3d_fullres"]}
        plan = plan.model_copy(update={"configurations": entries})
    settings = replace(SETTINGS, configuration=configuration)
    assert Trainer(plan, store[0], store[1], tmp_path, settings).step.batch_dice is pooled
