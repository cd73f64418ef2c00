"""``train-all --executor ray`` on a real Ray cluster: several nodes on this machine, some of which are lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nnunet_box
from nnbox_challenges.acdc import Acdc
from nnbox_challenges.synthetic import write_acdc_cohort
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.execution import ray_cluster
from nnunet_box.execution.prepare import plan_dataset
from nnunet_box.execution.ray_node import run_on_node
from nnunet_box.execution.records import log_file, read_record, task_lock
from nnunet_box.locks import holder
from nnunet_box.workspace import Workspace
from tests.execution.process_trees import below, send
from tests.execution.ray_samples import node_of, raylet
from tests.execution.running import folder_of, in_training, weights

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

PATIENCE_SECONDS = 3600
OPTIONS = ["--epochs", "1", "--batches-per-epoch", "12", "--folds", "0,1", "--workers", "0"]
CHECKPOINTS = ["--checkpoint-every", "0.1s"]
DATASET = "acdc"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a small converted cohort and a plan for little memory."""
    root = tmp_path_factory.mktemp("ray")
    database = write_acdc_cohort(root / "download", patients=5, test_patients=1, seed=5, size=32, slices=(4, 5))
    adapter = Acdc()
    adapter.convert(adapter.recognise(database), root / "nnbox" / "datasets" / DATASET)
    workspace = Workspace(root / "nnbox", DATASET)
    plan_dataset(workspace, load_dataset(workspace.root / "datasets" / DATASET), memory_gb=0.01, processes=1)
    return workspace.root


@pytest.fixture(scope="module")
def local(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """What an undisturbed run on this machine ends in."""
    workspace = copy(planned, tmp_path_factory.mktemp("local"))
    ended = subprocess.run(command(workspace, "local"), capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    return workspace


def copy(root: Path, parent: Path) -> Workspace:
    shutil.copytree(root, parent / "nnbox")
    return Workspace(parent / "nnbox", DATASET)


def command(workspace: Workspace, executor: str, *more: str) -> list[str]:
    program = [sys.executable, "-m", "nnunet_box.cli.app", "train-all", DATASET, *OPTIONS, *CHECKPOINTS]
    return [*program, "--workspace", str(workspace.root), "--executor", executor, *more]


def start(workspace: Workspace, cluster: Any, *more: str) -> subprocess.Popen[str]:
    def listening() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(
        command(workspace, "ray", "--ray-address", cluster.address, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=listening,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, told
    return told


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first true value of ``what`` while the process lives."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        if process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[0]}")
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def test_a_node_is_lost_in_training_and_the_run_ends_as_an_undisturbed_one_on_one_machine(
    local: Workspace, planned: Path, cluster: Any, nodes: list[Any], tmp_path: Path
) -> None:
    workspace = copy(planned, tmp_path)
    process = start(workspace, cluster)
    while True:
        task = wait_for(lambda: in_training(workspace), process)
        lost = node_of(workspace, task, nodes)
        if lost is None:
            continue
        # As a machine without power: nothing of it may do anything more. Stopped first, so that nothing slips away.
        everything = below(raylet(lost))
        send(everything, signal.SIGSTOP)
        everything = sorted({*everything, *below(raylet(lost))})
        if not (folder_of(workspace, task) / "weights.safetensors").exists():
            break
        send(everything, signal.SIGCONT)  # Too late for this one.
    training = next(pid for pid in everything if b"\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert b"CUDA_VISIBLE_DEVICES=0\0" in Path(f"/proc/{training}/environ").read_bytes(), "as Ray has set it"
    send(everything, signal.SIGKILL)
    cluster.remove_node(lost, allow_graceful=False)

    told = finish(process)
    assert "goes on from where it was" in told
    record = read_record(workspace, task)
    assert record is not None and (record.state, record.attempts) == ("done", 2)
    log = log_file(workspace, task).read_text()
    assert "Ray: " in log and "Continuing after epoch" in log
    assert weights(workspace) == weights(local) and len(weights(local)) == 4
    assert json.loads(workspace.selection.read_text()) == json.loads(local.selection.read_text())
    assert (workspace.bundle / "bundle.json").is_file()
    others = {name: read_record(workspace, name) for name in ("preprocess", "select")}
    assert all(other is not None and other.attempts == 1 for other in others.values())
    assert f"{task}: submitted" in told


def test_a_failing_task_blocks_what_needs_it_and_no_more(
    local: Workspace, planned: Path, cluster: Any, nodes: list[Any], tmp_path: Path
) -> None:
    workspace = copy(planned, tmp_path)
    only = ["--configurations", "2d"]
    damaged = workspace.fold("2d", 1) / "checkpoint"
    damaged.mkdir(parents=True)
    (damaged / "state.json").write_text("{")
    told = finish(start(workspace, cluster, *only), 3)  # The failed task's own code.
    assert "1 task failed" in told and "train-2d-1 ended with 3" in told and "need them: select" in told
    assert str(damaged / "state.json") in told, "its own words"
    done = workspace.fold("2d", 0) / "weights.safetensors"
    made = done.stat().st_mtime_ns
    assert not workspace.selection.exists()

    shutil.rmtree(damaged)
    finish(start(workspace, cluster, *only))
    assert done.stat().st_mtime_ns == made
    assert weights(workspace) == {name: hash_ for name, hash_ in weights(local).items() if name.startswith("2d/")}


def test_interrupted_then_killed_then_run_to_the_end(
    local: Workspace, planned: Path, cluster: Any, nodes: list[Any], tmp_path: Path
) -> None:
    workspace = copy(planned, tmp_path)
    only = ["--configurations", "2d"]

    def free(name: str) -> bool:
        return holder(task_lock(workspace, name)) is None and holder(workspace.lock(name)) is None

    process = start(workspace, cluster, *only)
    task = wait_for(lambda: in_training(workspace), process)
    process.send_signal(signal.SIGINT)
    told = finish(process, 130)
    assert "run the same command again" in told and "Traceback" not in told
    record = read_record(workspace, task)
    assert record is not None and record.state in ("unfinished", "done") and free(task), "it was waited for"
    assert "SIGTERM: training ends after this batch" in log_file(workspace, task).read_text()

    process = start(workspace, cluster, *only)
    task = wait_for(lambda: in_training(workspace), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + PATIENCE_SECONDS
    while not all(free(name) for name in ("train-2d-0", "train-2d-1")):
        assert time.monotonic() < until, "a training outlived the run that it was part of"
        time.sleep(0.1)

    finish(start(workspace, cluster, *only))
    assert weights(workspace) == {name: hash_ for name, hash_ in weights(local).items() if name.startswith("2d/")}
    logs = "".join(log_file(workspace, f"train-2d-{fold}").read_text() for fold in (0, 1))
    assert "Continuing after epoch" in logs


def test_a_node_without_the_workspace_says_so(planned: Path, cluster: Any, nodes: list[Any], tmp_path: Path) -> None:
    """A folder of the same name that is not the same one, as a node has it that shares no file system."""
    import ray

    gone = str(tmp_path / "gone")
    with ray_cluster.connected(cluster.address):
        asked = ray.remote(run_on_node).options(num_cpus=1)
        reference = asked.remote(gone, DATASET, "mark", nnunet_box.__version__, "plan", "key", [])
        code, words = ray_cluster._outcome(reference)
    assert code == 1 and f"{gone} on " in words and "all nodes share" in words
    assert not (tmp_path / "gone").exists()
