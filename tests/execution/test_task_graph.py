"""The graph of tasks: what needs what, commands that make what the functions make, and one process for each."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from nnunet_box.cli import train as train_command
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.errors import UsageError
from nnunet_box.execution import fold as fold_module
from nnunet_box.execution import local
from nnunet_box.execution.display import task_table
from nnunet_box.execution.graph import Task, prepared_graph, task_graph
from nnunet_box.execution.local import LocalExecutor, Slot, machine_slots
from nnunet_box.execution.records import last_lines, log_file, read_record, states, task_lock
from nnunet_box.execution.request import Request, read_request, training_arguments
from nnunet_box.execution.run_task import command_line, run_task
from nnunet_box.execution.schedule import Walk
from nnunet_box.execution.timeleft import how_far, seconds_left
from nnunet_box.locks import held, holder
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace
from tests.execution.acdc_samples import planned_cohort

QUICK = TrainingSettings("2d", 0, epochs=1, batches_per_epoch=1, device="cpu", workers=0)


@pytest.fixture(scope="module")
def planned(acdc_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Dataset]:
    return planned_cohort(acdc_cohort, tmp_path_factory.mktemp("graph"))


def graph(planned: tuple[Workspace, Dataset], **changes: object) -> dict[str, Task]:
    settings = replace(QUICK, **changes)  # type: ignore[arg-type]
    return {task.name: task for task in task_graph(*planned, Request.of(settings, ["2d", "3d_fullres"], [0, 1]))}


def test_each_task_comes_after_what_it_needs(planned: tuple[Workspace, Dataset]) -> None:
    tasks = graph(planned)
    names = list(tasks)
    trainings = ["train-2d-0", "train-3d_fullres-0", "train-2d-1", "train-3d_fullres-1"]
    assert names == ["plan", "preprocess", *trainings, "select"]
    assert all(names.index(need) < names.index(name) for name, task in tasks.items() for need in task.needs)
    assert set(tasks["select"].needs) == set(trainings)
    assert [name for name, task in tasks.items() if task.gpu] == trainings
    assert tasks["select"].argv[:6] == ("select", "acdc", "--configurations", "2d,3d_fullres", "--folds", "0,1")
    with pytest.raises(UsageError, match="folds 0 to 4"):
        task_graph(*planned, Request(folds=(5,)))


def test_a_key_changes_with_what_the_result_follows_from(planned: tuple[Workspace, Dataset]) -> None:
    before, seed, device = graph(planned), graph(planned, seed=3), graph(planned, device="cuda", workers=4)
    assert before["preprocess"].key == seed["preprocess"].key
    assert before["train-2d-0"].key != seed["train-2d-0"].key != seed["train-2d-1"].key
    assert before["select"].key != seed["select"].key
    assert {name: task.key for name, task in before.items()} == {name: task.key for name, task in device.items()}


@pytest.mark.parametrize(
    "settings",
    [
        QUICK,
        replace(
            QUICK,
            variants=("relu", "no-mirroring"),
            seed=7,
            epochs=None,
            batches_per_epoch=9,
            budget_seconds=90.125,
            device="auto",
            workers=3,
            checkpoint_seconds=5.0,
            full_precision=True,
            compiled=False,
            trackers=("tensorboard", "mlflow"),
        ),
    ],
)
def test_the_command_makes_the_same_settings(settings: TrainingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TrainingSettings] = []

    def note(workspace: object, dataset: object, found: TrainingSettings, **keywords: object) -> float:
        assert keywords == {"resume": True, "restart": False}
        made.append(found)
        return 0.5

    monkeypatch.setattr(fold_module, "train_fold", note)
    monkeypatch.setattr("nnunet_box.training.trackers.PACKAGES", {"tensorboard": (), "mlflow": ()})
    monkeypatch.setattr("nnunet_box.cli.common.open_dataset", lambda *_: (None, type("D", (), {"name": "x"})))
    alone = typer.Typer()
    train_command.register(alone)
    result = CliRunner().invoke(alone, ["x", *training_arguments(settings)])
    assert result.exit_code == 0, result.output
    assert made == [settings]


def test_a_budget_is_shared_once_and_for_all(planned: tuple[Workspace, Dataset]) -> None:
    request = Request.of(replace(QUICK, budget_seconds=100.0), ["2d"], [0, 1, 2])
    tasks = prepared_graph(*planned, request, at_once=2)
    assert tasks[2].settings is not None and tasks[2].settings.budget_seconds == 66.667
    again = prepared_graph(*planned, request, at_once=1)
    assert again[2].settings == tasks[2].settings, "on another machine it is still the same run"
    otherwise = Request.of(replace(QUICK, budget_seconds=100.0, workers=1, trackers=("mlflow",)), ["2d"], [0, 1, 2])
    again = prepared_graph(*planned, otherwise, at_once=1)
    assert again[2].settings == replace(tasks[2].settings, workers=1, trackers=("mlflow",)), "however it runs"
    assert again[2].key == tasks[2].key and "--tracker" in again[2].argv
    kept = read_request(planned[0].request)
    assert kept is not None and kept.training("2d", 0).trackers == ("mlflow",)
    assert kept.shared_seconds == 100.0
    other = prepared_graph(*planned, Request.of(replace(QUICK, budget_seconds=50.0), ["2d"], [0, 1]), keep=False)
    assert other[2].settings is not None and other[2].settings.budget_seconds == 25.0
    assert read_request(planned[0].request) == kept
    planned[0].request.unlink()


def test_a_task_runs_as_a_process_with_a_log_and_a_record(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "toy")
    assert run_task(workspace, "doctor", "k1", ["doctor", "--json"]) == 0
    record = read_record(workspace, "doctor")
    assert record is not None and (record.state, record.exit_code, record.attempts) == ("done", 0, 1)
    assert "torch" in log_file(workspace, "doctor").read_text()
    assert run_task(workspace, "doctor", "k1", ["plan", "nowhere"]) == 2
    record = read_record(workspace, "doctor")
    assert record is not None and (record.state, record.exit_code, record.attempts) == ("failed", 2, 2)
    assert "nowhere" in last_lines(workspace, "doctor")[-1]
    assert run_task(workspace, "doctor", "k2", ["--help"]) == 0
    record = read_record(workspace, "doctor")
    assert record is not None and record.attempts == 1, "of another key"
    assert holder(task_lock(workspace, "doctor")) is None


@pytest.mark.parametrize(
    ("number", "code", "state"), [(signal.SIGTERM, 143, "unfinished"), (signal.SIGUSR1, 75, "unfinished")]
)
def test_a_signal_reaches_the_command(tmp_path: Path, number: signal.Signals, code: int, state: str) -> None:
    workspace, lock = Workspace(tmp_path, "toy"), Workspace(tmp_path, "toy").lock("plan")
    (tmp_path / "datasets" / "toy").mkdir(parents=True)
    with held(lock, "nothing"), waiting_task(workspace, lock) as process:
        process.send_signal(number)
        assert process.wait(60) == code
    record = read_record(workspace, "waits")
    assert record is not None and (record.state, record.exit_code) == (state, code)


def test_a_killed_task_takes_its_command_along(tmp_path: Path) -> None:
    workspace, lock = Workspace(tmp_path, "toy"), Workspace(tmp_path, "toy").lock("plan")
    with held(lock, "nothing"), waiting_task(workspace, lock) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 1
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{children[0]}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{children[0]}").exists()
    record = read_record(workspace, "waits")
    assert record is not None and record.state == "running", "nobody was left to note it"
    assert holder(task_lock(workspace, "waits")) is None


PROGRAM = """
import sys
from nnunet_box.interrupts import Interrupted, ended_by_signals, exit_code
try:
    with ended_by_signals():
        exec(sys.argv[1])
except Interrupted:
    sys.exit(exit_code())
"""
HOLD = """
from pathlib import Path
from nnunet_box.locks import held
with held(Path({!r}), "x"):
    pass
"""
RUN = """
import sys
from pathlib import Path
from nnunet_box.execution import run_task
from nnunet_box.workspace import Workspace
from tests.execution.acdc_samples import planned_cohort
run_task.PROGRAM = {!r}
sys.exit(run_task.run_task(Workspace(Path({!r}), "toy"), "waits", "k", []))
"""


@contextmanager
def waiting_task(workspace: Workspace, lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``run-task`` with a command that waits for ``lock`` until it is told to end."""
    command = [sys.executable, "-c", PROGRAM, HOLD.format(str(lock))]
    process = subprocess.Popen([sys.executable, "-c", RUN.format(command, str(workspace.root))])
    try:
        deadline = time.monotonic() + 60
        while not any("Waiting for" in line for line in last_lines(workspace, "waits")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_slots_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    monkeypatch.setattr(local, "visible_gpus", lambda: [])
    assert machine_slots("auto") == [Slot((0, 1, 2, 3, 4))]
    assert machine_slots("cpu", 2) == [Slot((0, 2, 4)), Slot((1, 3))]
    monkeypatch.setattr(local, "visible_gpus", lambda: ["2", "5"])
    assert machine_slots("auto") == [Slot((0, 2, 4), "2"), Slot((1, 3), "5")]
    assert machine_slots("auto", 1) == [Slot((0, 1, 2, 3, 4), "2")]
    assert machine_slots("cpu") == [Slot((0, 1, 2, 3, 4))]
    assert machine_slots("cuda:1") == [Slot((0, 1, 2, 3, 4), "1")]


def test_gpus_are_those_the_environment_and_the_driver_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f, 3")
    assert local.visible_gpus() == ["GPU-1f", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert local.visible_gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0; echo 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert local.visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert local.visible_gpus() == []


def test_room_is_one_training_a_slot_and_one_other_task(planned: tuple[Workspace, Dataset]) -> None:
    tasks = graph(planned)
    first, second, third, other = (tasks[name] for name in ("train-2d-0", "train-2d-1", "train-3d_fullres-0", "plan"))
    on_gpus = LocalExecutor(planned[0], [Slot((0,), "0"), Slot((1,), "1")])
    on_cores = LocalExecutor(planned[0], [Slot((0,)), Slot((1,))])
    for executor, beside in ((on_gpus, True), (on_cores, False)):
        process = subprocess.Popen([sys.executable, "-c", ""])
        assert all(executor.room_for(task) for task in (first, second, third, other))
        executor._running[first.name] = (process, executor.slots[0])
        assert executor.room_for(second) and executor.room_for(other) is beside
        executor._running[second.name] = (process, executor.slots[1])
        assert not executor.room_for(third) and executor.room_for(other) is beside
        executor._running = {other.name: (process, None)}
        assert executor.room_for(first) is beside and not executor.room_for(other)
        process.wait()


def all_weights(workspace: Workspace) -> dict[str, bytes]:
    return {
        str(file.relative_to(workspace.root)): file.read_bytes() for file in workspace.models.rglob("weights.safe*")
    }


@pytest.mark.slow
def test_a_graph_on_two_slots_ends_as_one_in_this_process(
    planned: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its failure blocks what needs it, and nothing else; a second run does only that."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    root, source = tmp_path / "w", planned[1].folder
    arguments = ["train-all", str(source), "--configurations", "2d", "--folds", "0,1", "--epochs", "1"]
    arguments += ["--batches-per-epoch", "1", "--workers", "0", "--device", "cpu", "--workspace", str(root)]
    alone = subprocess.run([sys.executable, "-m", "nnunet_box.cli.app", *arguments], capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    workspace, dataset = Workspace(root, "acdc"), load_dataset(source)
    selection = json.loads(workspace.selection.read_text())
    weights = all_weights(workspace)
    assert len(weights) == 2
    for folder in ("models", "bundles", "tasks"):
        os.rename(root / folder, tmp_path / folder)
    spoilt = workspace.fold("2d", 1)
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text("a file where a folder should be")
    # A tracker on top, which changes no weight.
    tracker = ["--tracker", "tensorboard"] if importlib.util.find_spec("tensorboard") else []
    beside = [*arguments, "--at-once", "2", *tracker]
    failed = subprocess.run([sys.executable, "-m", "nnunet_box.cli.app", *beside], capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert "1 task failed" in failed.stderr and "train-2d-1 ended with 1" in failed.stderr
    found = states(workspace, task_graph(workspace, dataset, read_request(workspace.request) or Request()))
    assert found.pop("train-2d-1") == "failed" and found.pop("select") == "blocked" and set(found.values()) == {"done"}
    spoilt.unlink()
    again = subprocess.run([sys.executable, "-m", "nnunet_box.cli.app", *beside], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(workspace.selection.read_text()) == selection
    assert all_weights(workspace) == weights
    events = [list((workspace.fold("2d", fold) / "tensorboard").glob("events*")) for fold in (0, 1)]
    assert [len(files) for files in events] == [len(tracker) // 2] * 2
    record = read_record(workspace, "train-2d-0")
    assert record is not None and record.attempts == 1, "it was done"


def table_rows(workspace: Workspace, settings: TrainingSettings) -> dict[str, list[str]]:
    """Cells of ``train-all``'s table of one training, by its name."""
    done = lambda: False  # noqa: E731
    task = Task("train-2d-0", "train", (), (), (), (), "", done, done, settings)
    console = Console(file=io.StringIO(), width=200)
    console.print(task_table(workspace, Walk([task], {task.name: "waiting"})))
    file = console.file
    assert isinstance(file, io.StringIO)
    rows = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in file.getvalue().splitlines()]
    return {row[0]: row[1:] for row in rows if row}


def test_time_left_follows_from_the_logs(planned: tuple[Workspace, Dataset], tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "acdc")
    settings = replace(QUICK, epochs=10)
    folder = workspace.fold("2d", 0)
    assert how_far(folder, settings).left is None
    folder.mkdir(parents=True)
    lines = [{"epoch": number, "seconds": 5.0} for number in (1, 2, 3)]
    (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"epoch": 4, "sec')
    far = how_far(folder, settings)
    assert (far.epochs, far.most, far.seconds, far.left, far.loss, far.dice) == (3, 10, 15.0, 35.0, None, None)
    assert table_rows(workspace, settings)["train-2d-0"] == ["waiting", "3 of 10", "", "", "0:35"]
    lines[1] |= {"loss": 0.5, "validation_dice": 0.81}
    lines[2] |= {"loss": 0.25, "validation_dice": None}
    (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert table_rows(workspace, settings)["train-2d-0"] == ["waiting", "3 of 10", "0.250", "0.810", "0:35"]
    assert how_far(folder, replace(settings, budget_seconds=100.0)).left == 85.0
    tasks = [task for task in graph(planned, epochs=10).values() if task.settings is not None]
    found = dict.fromkeys((task.name for task in tasks), "waiting")
    each, together = seconds_left(workspace, tasks, found)  # type: ignore[arg-type]
    assert each["train-2d-0"] == 35.0 and each["train-2d-1"] == 50.0, "as long as the other fold"
    assert each["train-3d_fullres-0"] is None and together is None, "nothing tells"
    only = tasks[::2]
    assert seconds_left(workspace, only, found, at_once=2)[1] == 50.0  # type: ignore[arg-type]


def test_a_process_line_quotes_nothing_and_hides_nothing(tmp_path: Path) -> None:
    line = command_line(Workspace(tmp_path, "a b"), "train-2d-0", "k", ["train", "a b", "--seed", "1"], [0, 2])
    assert line[line.index("--") + 1 :] == ["train", "a b", "--seed", "1"]
    assert line[line.index("--cores") + 1] == "0,2" and line[line.index("--dataset") + 1] == "a b"
