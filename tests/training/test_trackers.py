"""Trackers are told of a run as it is, once, and cost it neither its end nor a weight."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from nnunet_box.cli import train as train_command
from nnunet_box.dataset.splits import Fold
from nnunet_box.errors import UsageError
from nnunet_box.interrupts import Interrupted
from nnunet_box.training import trackers as trackers_module
from nnunet_box.training.run_log import Epoch, read_log
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trackers import PACKAGES, Ending, TrackedRun, Tracker, make_trackers, tracked, tracker_names
from nnunet_box.training.trainer import Trainer
from tests.training.toys import toy_plan, toy_store

SETTINGS = TrainingSettings("2d", 0, epochs=4, batches_per_epoch=3, workers=0, device="cpu", checkpoint_seconds=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fold]:
    folder = tmp_path_factory.mktemp("store")
    names = toy_store(folder, 3)
    return folder, Fold(train=names[:2], val=names[2:])


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr(trackers_module, "LAST_SECONDS", 600.0)


def tracked_run(folder: Path, key: str = "k1") -> TrackedRun:
    plan = toy_plan()
    return TrackedRun(
        plan.dataset,
        "2d",
        0,
        folder,
        folder.parent / "logs",
        key,
        asdict(SETTINGS),
        plan.configuration_of("2d").model_dump(mode="json"),
        {1: "ball", 2: "rod"},
    )


def trainer(
    store: tuple[Path, Fold], folder: Path, trackers: Sequence[Tracker], settings: TrainingSettings = SETTINGS
) -> Trainer:
    return Trainer(toy_plan(), *store, folder, settings, trackers=trackers)


class Noted:
    """A tracker that notes what it is told, and fails when it is told to."""

    name = "noted"

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self.fails, self.begun = list(fails), []  # type: ignore[var-annotated]
        self.epochs: list[int] = []
        self.ended: list[Ending] = []

    def begin(self, lines: Sequence[Epoch]) -> None:
        self.begun.append([line.epoch for line in lines])
        self.epochs = [line.epoch for line in lines]

    def epoch(self, line: Epoch) -> None:
        if line.epoch in self.fails:
            raise ConnectionError("nobody\nthere")
        self.epochs.append(line.epoch)

    def end(self, how: Ending) -> None:
        self.ended.append(how)


def line(epoch: int) -> Epoch:
    return Epoch(epoch, loss=1.0 / epoch, dice={1: 0.5, 2: None})


def test_a_tracker_is_told_of_all_epochs_and_of_the_end() -> None:
    told = Noted()
    with tracked([told], [line(1), line(2)]) as tell:
        tell(line(3))
    assert (told.begun, told.epochs, told.ended) == ([[1, 2]], [1, 2, 3], ["finished"])
    for error, how in ((Interrupted(signal.SIGINT), "interrupted"), (ValueError(), "failed")):
        told = Noted()
        with pytest.raises(type(error)), tracked([told], []):
            raise error
        assert told.ended == [how]


def test_a_failure_is_told_once_and_made_good_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers_module, "AGAIN_SECONDS", 0.0)
    told = Noted(fails=[2, 4])
    with tracked([told], []) as tell:
        for epoch in range(1, 6):
            tell(line(epoch))
    assert told.begun == [[], [1, 2, 3], [1, 2, 3, 4, 5]] and told.epochs == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err.splitlines()
    assert said == ["noted: nobody there. Training goes on and tries again later; log.jsonl has every epoch."]


def test_what_failed_is_left_alone_for_a_while_but_tried_at_the_end() -> None:
    told = Noted(fails=[1])
    with tracked([told], []) as tell:
        for epoch in range(1, 4):
            tell(line(epoch))
    assert told.begun == [[], [1, 2, 3]] and told.ended == ["finished"]


def test_neither_a_failing_nor_a_stuck_tracker_changes_a_run(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free = threading.Event()

    class Stuck(Noted):
        name = "stuck"

        def epoch(self, line: Epoch) -> None:
            free.wait()

    monkeypatch.setattr(trackers_module, "LAST_SECONDS", 0.2)
    plain = load_file(trainer(store, tmp_path / "plain", []).run(resume=False))
    try:
        others = [Noted(fails=[1, 2, 3, 4]), Stuck()]
        found = load_file(trainer(store, tmp_path / "tracked", others).run(resume=False))
        (left,) = [thread for thread in threading.enumerate() if thread.name == "tracker stuck"]
        assert left.daemon, "the process ends without it"
    finally:
        free.set()
    assert all(torch.equal(plain[name], found[name]) for name in plain)
    said = capsys.readouterr().err
    assert said.count("noted: nobody there") == 1 and "stuck has not answered in 0.2 s and is left behind" in said


def test_names_of_trackers() -> None:
    assert tracker_names(None) == () and tracker_names("") == ()
    with pytest.raises(UsageError, match=r"--tracker wandb: tensorboard, mlflow"):
        tracker_names("wandb")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_ends_the_command_before_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers_module.importlib.util, "find_spec", lambda module: None)
    monkeypatch.setattr("nnunet_box.cli.common.open_dataset", lambda *_: (None, None))
    alone = typer.Typer()
    train_command.register(alone)
    result = CliRunner().invoke(alone, ["x", "-c", "2d", "-f", "0", "--tracker", name])
    assert isinstance(result.exception, UsageError)
    assert f"pip install 'nnunet_box[{name}]'" in str(result.exception)


def test_labels_of_one_name_are_told_apart(tmp_path: Path) -> None:
    run = replace(tracked_run(tmp_path), labels={1: "node", 2: "node", 3: "rod"})
    assert run.numbers(Epoch(1, dice={1: 0.5, 2: 0.25, 3: None})) == {"dice/1 node": 0.5, "dice/2 node": 0.25}


def steps_of_events(folder: Path) -> dict[str, list[int]]:
    """Tag to steps of all events there are, those that TensorBoard would leave out too."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, list[int]] = {}
    for file in sorted(folder.iterdir()):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    whole = Trainer._train_epoch

    def stop(self: Trainer, batches: object, count: int) -> float:
        if self.progress.epoch == epoch - 1:
            raise KeyboardInterrupt
        return whole(self, batches, count)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_train_epoch", stop)


def test_tensorboard_has_each_epoch_once(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    folder = tmp_path / "fold"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patched, 3)
        trainer(store, folder, make_trackers(["tensorboard"], tracked_run(folder))).run(resume=False)
    events = folder / "tensorboard"
    assert steps_of_events(events)["loss"] == [1, 2]
    # What a process that was killed after its last checkpoint has written.
    from torch.utils.tensorboard import SummaryWriter

    killed = SummaryWriter(str(events))  # type: ignore[no-untyped-call]
    for step in (3, 4):
        killed.add_scalar("loss", 0.1, step)  # type: ignore[no-untyped-call]
    killed.close()  # type: ignore[no-untyped-call]
    trainer(store, folder, make_trackers(["tensorboard"], tracked_run(folder))).run(resume=True)
    found = steps_of_events(events)
    names = {"loss", "loss_average", "validation_dice", "dice_average", "dice/ball", "dice/rod", "rate", "updates"}
    assert names | {"batches_per_second", "seconds", "run/text_summary"} == set(found)
    assert all(found[name] == [1, 2, 3, 4] for name in found if name != "run/text_summary")


@pytest.fixture
def mlflow_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    yield


def runs_of(uri: str) -> list[tuple[str, str, list[int], dict[str, str]]]:
    """Id, status, steps of the loss, and settings of each run of the experiment ``toy``."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    return [
        (
            run.info.run_id,
            run.info.status,
            [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")],
            run.data.params,
        )
        for run in client.search_runs([experiment.experiment_id], order_by=["start_time"])
    ]


@pytest.mark.slow
def test_mlflow_has_one_run_with_each_epoch_once(
    store: tuple[Path, Fold],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_environment: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, store_file = tmp_path / "fold", tmp_path / "logs" / "mlflow.db"
    uri = f"sqlite:///{store_file}"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patched, 3)
        trainer(store, folder, make_trackers(["mlflow"], tracked_run(folder))).run(resume=False)
    (first,) = runs_of(uri)
    assert first[1] == "KILLED" and sorted(first[2]) == [1, 2]
    assert first[3]["plan.patch_size"] == "16,16" and first[3]["epochs"] == "4" and first[3]["model"] == "2d"
    # What a process that was killed after its last checkpoint has logged.
    from mlflow import MlflowClient

    MlflowClient(uri).log_metric(first[0], "loss", 0.1, step=3)
    trainer(store, folder, make_trackers(["mlflow"], tracked_run(folder))).run(resume=True)
    (second,) = runs_of(uri)
    assert second[0] == first[0] and second[1] == "FINISHED" and sorted(second[2]) == [1, 2, 3, 4]
    # Another plan or split: another run, in the place that the environment names.
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with tracked(make_trackers(["mlflow"], tracked_run(folder, "k2")), read_log(folder / "log.jsonl")):
        pass
    assert [len(one[2]) for one in runs_of(uri)] == [4, 4]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    with tracked(make_trackers(["mlflow"], tracked_run(folder, "k2")), read_log(folder / "log.jsonl")):
        pass
    (other,) = runs_of(elsewhere)
    assert "elsewhere" not in (folder / "mlflow.json").read_text(), "an address may hold a password"
    assert sorted(other[2]) == [1, 2, 3, 4] and json.loads((folder / "mlflow.json").read_text())["run"] == other[0]
    # A server that is not there.
    capsys.readouterr()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plain = load_file(folder / "weights.safetensors")
    gone = tmp_path / "gone"
    found = load_file(trainer(store, gone, make_trackers(["mlflow"], tracked_run(gone))).run(resume=False))
    assert all(torch.equal(plain[name], found[name]) for name in plain)
    said = capsys.readouterr().err
    assert said.count("MLflow: ") == 1 and "127.0.0.1" in said and "secret" not in said
    assert not (gone / "mlflow.json").exists(), "no run was made"


KILLED = """
import os, signal, sys
from pathlib import Path
from nnunet_box.training.trainer import Trainer
from nnunet_box.training.trackers import make_trackers
from nnunet_box.dataset.splits import Fold
from tests.training.test_trackers import SETTINGS, tracked_run
from tests.training.toys import toy_plan

folder, names = Path(sys.argv[2]), sys.argv[3:]
trackers = make_trackers(names, tracked_run(folder))
fold = Fold(train=["case_0", "case_1"], val=["case_2"])
trainer = Trainer(toy_plan(), Path(sys.argv[1]), fold, folder, SETTINGS, trackers=trackers)
end = trainer._end_epoch
def killed(*values):
    end(*values)
    if trainer.progress.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
trainer._end_epoch = killed
trainer.run(resume=False)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_run(
    store: tuple[Path, Fold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parents[2]), *filter(None, sys.path)]))
    with_mlflow = all(importlib.util.find_spec(module) for module in PACKAGES["mlflow"])
    folder, names = tmp_path / "fold", ["tensorboard", *(["mlflow"] if with_mlflow else [])]
    argv = [sys.executable, "-c", KILLED, str(store[0]), str(folder), *names]
    killed = subprocess.run(argv, capture_output=True, text=True, timeout=900)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    trainer(store, folder, make_trackers(names, tracked_run(folder))).run(resume=True)
    assert steps_of_events(folder / "tensorboard")["loss"] == [1, 2, 3, 4]
    if with_mlflow:
        (run,) = runs_of(f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}")
        assert run[1] == "FINISHED" and sorted(run[2]) == [1, 2, 3, 4]
