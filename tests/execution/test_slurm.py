"""``nnbox train-all --executor slurm`` on a real Slurm (``.ci/slurm.sh``): what it schedules and interrupts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnunet_box.bundle import load_bundle
from nnunet_box.execution.prepare import preprocess_dataset
from nnunet_box.execution.records import Record, last_lines, read_record
from nnunet_box.locks import held
from nnunet_box.planning.plan import load_plan
from nnunet_box.workspace import Workspace
from tests.execution.acdc_samples import planned_cohort
from tests.execution.running import weights
from tests.execution.slurm_samples import ONE_CORE, PATIENCE_SECONDS, queue, slurm

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("real_slurm")]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads make them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def cancelled(tmp_path: Path) -> Iterator[None]:
    """Whatever happens, no job of the test stays."""
    yield
    for file in tmp_path.glob("*/tasks/*/*/record.json"):
        job = json.loads(file.read_text()).get("job")
        if job:
            subprocess.run(["scancel", job], capture_output=True)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "nnunet_box.cli.app", *map(str, arguments)]


def nnbox(*arguments: str | Path, code: int = 0) -> str:
    ended = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    return ended.stdout


def record(workspace: Workspace, task: str) -> Record:
    found = read_record(workspace, task)
    assert found is not None and found.job is not None and found.scheduler == "slurm", found
    return found


def wait(workspace: Workspace, condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            logs = {file.parent.name: file.read_text()[-800:] for file in workspace.root.glob("tasks/*/*/*.txt")}
            pytest.fail(f"no {what} in {PATIENCE_SECONDS} s: {slurm('squeue')} {json.dumps(logs, indent=1)}")
        time.sleep(0.1)


def states(workspace: Workspace) -> dict[str, str]:
    facts = json.loads(nnbox("status", workspace.dataset, "--workspace", workspace.root, "--json"))
    return {task["task"]: task["state"] for task in facts["tasks"]}


@pytest.fixture(scope="module")
def dataset(acdc_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a small plan and the store of its 2d configuration."""
    workspace, opened = planned_cohort(acdc_cohort, tmp_path_factory.mktemp("prepared"))
    preprocess_dataset(workspace, opened, load_plan(workspace.plan), "2d", processes=1)
    return workspace.root


def copy_of(root: Path, destination: Path, stores: bool = True) -> Workspace:
    """A workspace of its own, planned; what is preprocessed comes along with ``stores``."""
    shutil.copytree(root / "datasets", destination / "datasets")
    left_out = None if stores else shutil.ignore_patterns("2d")
    shutil.copytree(root / "preprocessed", destination / "preprocessed", ignore=left_out)
    return Workspace(destination, "acdc")


def test_a_graph_ends_as_it_does_on_one_machine(dataset: Path, tmp_path: Path, cancelled: None) -> None:
    """And a failing task stops what needs it and nothing else, both GPUs are used, nothing is submitted twice."""
    here, there = (copy_of(dataset, tmp_path / name, stores=False) for name in ("local", "slurm"))
    arguments = ["train-all", "acdc", "--configurations", "2d", "--folds", "0,1", "--workers", "0"]
    arguments += ["--epochs", "1", "--batches-per-epoch", "1"]
    alone = subprocess.Popen(
        command(*arguments, "--workspace", here.root), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    spoilt = there.fold("2d", 0)
    spoilt.parent.mkdir(parents=True)
    spoilt.write_text("a file where a folder should be")
    chain = [*arguments, "--executor", "slurm", *ONE_CORE, "--workspace", there.root]
    assert [line.split()[1] for line in nnbox(*chain).splitlines()] == [
        "preprocess",
        "train-2d-0",
        "train-2d-1",
        "select",
    ]
    assert nnbox(*chain) == "", "all of it waits or runs"
    beside: list[str] = []

    def at_an_end() -> bool:
        running = [name for name, state in queue(there).items() if state == "RUNNING"]
        if not beside and {"train-2d-0", "train-2d-1"} <= set(running):
            shown = [slurm("scontrol", "show", "job", "--details", record_job(there, name)) for name in running]
            devices = [found[1] for text in shown if (found := re.search(r"GRES=gpu\(?.*IDX:(\d)", text))]
            beside.extend(devices if len(devices) == 2 else [])
        return not queue(there)

    wait(there, at_an_end, "end")
    assert sorted(beside) == ["0", "1"], "two trainings, each with a GPU of its own"
    assert states(there) == {
        "plan": "done",
        "preprocess": "done",
        "train-2d-0": "failed",
        "train-2d-1": "done",
        "select": "blocked",
    }
    told = nnbox("status", "acdc", "--workspace", there.root)
    assert "train-2d-0 ended with 1" in told
    spoilt.unlink()
    assert [line.split()[1] for line in nnbox(*chain).splitlines()] == ["train-2d-0", "select"]
    wait(there, lambda: not queue(there), "end")
    assert set(states(there).values()) == {"done"}
    load_bundle(there.bundle, check_weights=True)
    assert nnbox(*chain).strip() == str(there.bundle), "nothing is left to do"
    assert alone.communicate(timeout=PATIENCE_SECONDS)[1] is not None and alone.returncode == 0
    assert len(weights(there)) == 2 and weights(there) == weights(here)
    assert json.loads(there.selection.read_text()) == json.loads(here.selection.read_text())


def record_job(workspace: Workspace, task: str) -> str:
    return str(record(workspace, task).job)


def test_interrupted_trainings_go_on_and_end_the_same(dataset: Path, tmp_path: Path, cancelled: None) -> None:
    """One is told to end, one is killed, and one comes to its time limit, is put back and is cancelled."""
    names = ("alone", "told", "killed", "endless")
    alone, told, killed, endless = (copy_of(dataset, tmp_path / name) for name in names)
    common = ["--workers", "0", "--device", "cpu", "--batches-per-epoch", "5"]
    chain = ["--configurations", "2d", "--folds", "0", *common, "--executor", "slurm", *ONE_CORE]
    few = ["--epochs", "4"]

    def submit(workspace: Workspace, *more: str) -> None:
        nnbox("train-all", workspace.dataset, *chain, *more, "--workspace", workspace.root)

    def epochs(workspace: Workspace) -> int:
        log = workspace.fold("2d", 0) / "log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def restarts(workspace: Workspace) -> int:
        shown = slurm("scontrol", "show", "job", record_job(workspace, "train-2d-0"))
        found = re.search(r"Restarts=(\d+)", shown)
        assert found is not None
        return int(found[1])

    def ended_with(workspace: Workspace, code: int) -> bool:
        return record(workspace, "train-2d-0").exit_code == code

    # The signal comes up to a minute before it is due: here at once.
    limit = ["--slurm-option", "train:--time=1", "--slurm-option", "train:--signal=B:USR1@60"]
    submit(endless, "--epochs", "1000", *limit, "--checkpoint-every", "1h")
    submit(told, *few, "--checkpoint-every", "1h")
    submit(killed, *few, "--checkpoint-every", "0.1s")
    arguments = ["train", "acdc", "--configuration", "2d", "--fold", "0", *common, *few, "--workspace", alone.root]
    reference = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    wait(told, lambda: epochs(told), "first epoch")
    slurm("scancel", "--batch", "--signal=USR1", record_job(told, "train-2d-0"))
    wait(told, lambda: ended_with(told, 75), "end before a limit")
    assert (told.fold("2d", 0) / "checkpoint" / "state.json").is_file()

    wait(
        killed, lambda: epochs(killed) and (killed.fold("2d", 0) / "checkpoint" / "state.json").is_file(), "checkpoint"
    )
    pid = record(killed, "train-2d-0").pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    wait(killed, lambda: ended_with(killed, 137), "end by a signal")

    wait(endless, lambda: ended_with(endless, 75), "end before the limit")
    assert restarts(endless) >= 0

    for workspace in (told, killed):
        wait(workspace, lambda workspace=workspace: not queue(workspace), "end")
        assert set(states(workspace).values()) == {"done"}
        assert any("Continuing after epoch" in line for line in last_lines(workspace, "train-2d-0", 1000))
        assert record(workspace, "train-2d-0").attempts == 2
    assert reference.communicate(timeout=PATIENCE_SECONDS)[1] is not None and reference.returncode == 0
    expected = (alone.fold("2d", 0) / "weights.safetensors").read_bytes()
    for workspace in (told, killed):
        assert (workspace.fold("2d", 0) / "weights.safetensors").read_bytes() == expected

    attempts = record(endless, "train-2d-0").attempts
    wait(endless, lambda: record(endless, "train-2d-0").attempts > attempts or attempts > 1, "second run")
    wait(endless, lambda: queue(endless).get("train-2d-0") == "RUNNING", "second run")
    assert restarts(endless) >= 1
    slurm("scancel", record_job(endless, "train-2d-0"))
    wait(endless, lambda: not queue(endless), "end of what waited for it")
    assert states(endless)["train-2d-0"] == "unfinished" and states(endless)["select"] == "waiting"


def test_a_limit_that_leaves_no_room_ends_the_task(dataset: Path, tmp_path: Path, cancelled: None) -> None:
    """It is put back as long as that helps. Here nothing does: what it trains is held by somebody else."""
    workspace = copy_of(dataset, tmp_path / "narrow")
    chain = ["train-all", "acdc", "--configurations", "2d", "--folds", "0", "--workers", "0", "--epochs", "1"]
    chain += ["--batches-per-epoch", "1", "--workspace", str(workspace.root), "--executor", "slurm", *ONE_CORE]
    limit = ["--slurm-option", "train:--time=1", "--slurm-option", "train:--signal=B:USR1@60"]
    with held(workspace.lock("train-2d-0"), "the test"):
        nnbox(*chain, *limit)
        wait(workspace, lambda: not queue(workspace), "end")
    found = record(workspace, "train-2d-0")
    assert (found.state, found.exit_code, found.attempts) == ("failed", 1, 3)
    assert states(workspace)["select"] == "blocked"
    told = " ".join(nnbox("status", "acdc", "--workspace", workspace.root).split())
    assert "train-2d-0 ended with 1: Told to end before the time limit 3 times" in told and "--time=" in told
    nnbox(*chain)
    wait(workspace, lambda: not queue(workspace), "end")
    assert set(states(workspace).values()) == {"done"}
