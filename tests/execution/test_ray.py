"""``train-all --executor ray`` on a real Ray cluster: several nodes on this machine, some of which are lost."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nnunet_box
from nnbox_challenges.acdc import Acdc
from nnbox_challenges.synthetic import write_acdc_cohort
from nnunet_box.bundle import sha256
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.execution import ray_cluster
from nnunet_box.execution.prepare import plan_dataset
from nnunet_box.execution.ray_node import run_on_node
from nnunet_box.execution.records import log_file, read_record, task_lock
from nnunet_box.locks import holder
from nnunet_box.workspace import Workspace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PATIENCE_SECONDS = 600
NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}
"""The GPU is Ray's word alone: ``--device auto`` asks for it, finds no driver and trains on the CPU."""
OPTIONS = ["--epochs", "1", "--batches-per-epoch", "12", "--folds", "0,1", "--workers", "0"]
CHECKPOINTS = ["--checkpoint-every", "0.1s"]
DATASET = "acdc"


@pytest.fixture(scope="module", autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Equal results need equally many threads: nodes hand this on to their tasks."""
    if importlib.util.find_spec("ray") is None:
        message = "Ray is not installed: pip install 'nnunet_box[ray]'"
        if request.config.getoption("--require-ray"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("RAY_worker_niceness", "0")  # 15 otherwise: on a busy machine its turn would hardly ever come.
        patched.setenv("RAY_raylet_start_wait_time_s", str(PATIENCE_SECONDS))
        yield


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores, as KubeRay has it, and nodes that the tests add. A node that does not answer at all is
    given up after some seconds, one that is slow is not.
    """
    from ray.cluster_utils import Cluster

    soon = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 30_000,
        "health_check_failure_threshold": 6,
    }
    head = {**NODE, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def nodes(cluster: Any) -> Iterator[list[Any]]:
    """Two nodes with a GPU each, as Ray believes."""
    added = [cluster.add_node(**NODE) for _ in range(2)]
    cluster.wait_for_nodes()
    yield added
    for node in added:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)


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


def weights(workspace: Workspace) -> dict[str, str]:
    files = sorted(workspace.models.glob("*/fold_*/weights.safetensors"))
    return {str(file.relative_to(workspace.models)): sha256(file) for file in files}


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """The first true value of ``what`` while the process lives."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        if process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[0]}")
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def in_training(workspace: Workspace) -> str | None:
    """A training's task that has a checkpoint and no weights yet."""
    for folder in workspace.models.glob("*/fold_*"):
        if (folder / "checkpoint" / "state.json").is_file() and not (folder / "weights.safetensors").is_file():
            return f"train-{folder.parent.name}-{folder.name.removeprefix('fold_')}"
    return None


def folder_of(workspace: Workspace, task: str) -> Path:
    _, model, fold = task.split("-")
    return workspace.fold(model, int(fold))


def parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    return found


def below(top: int) -> list[int]:
    """A process and all that it and its children have started."""
    parent = parents()
    found = [top]
    for one in found:
        found += [pid for pid, above in parent.items() if above == one]
    return found


def raylet(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def node_of(workspace: Workspace, task: str, nodes: list[Any]) -> Any | None:
    """The node that runs a task."""
    record = read_record(workspace, task)
    if record is None or record.pid is None or record.state != "running":
        return None
    return next((node for node in nodes if record.pid in below(raylet(node))), None)


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


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
