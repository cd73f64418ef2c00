"""The graph on real images, through each executor: a training is killed and a node is lost on the way, and all end in
the files of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nnbox_challenges.decathlon import Decathlon
from nnunet_box.bundle import load_bundle
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.execution.prepare import plan_dataset
from nnunet_box.execution.records import log_file, read_record
from nnunet_box.workspace import Workspace
from tests.conftest import SLURM_CONFIGURATION
from tests.execution.process_trees import below, send
from tests.execution.ray_samples import node_of, raylet
from tests.execution.running import kill_a_training, kill_around_a_training
from tests.execution.slurm_samples import ONE_CORE, bring_node_back, node_around, node_state, queue, records

pytestmark = [pytest.mark.cluster, pytest.mark.real_data, pytest.mark.slow]

CASES, TEST_CASES = 20, 2
DATASET = "hippocampus"
GRAPH = ["--configurations", "2d,3d_fullres", "--folds", "0,1", "--epochs", "1", "--batches-per-epoch", "16"]
GRAPH += ["--variant", "no-mirroring"]  # An eighth of the predictions that validation makes.
HOW = ["--workers", "0", "--checkpoint-every", "0.1s"]
PATIENCE_SECONDS = 3600
WITH_TIMES = ("stage.json", "log.jsonl")
Found = TypeVar("Found")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads make them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def planned(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the first cases of the Decathlon's hippocampi, planned for little memory."""
    source, root = real_data / "MSD" / "Task04_Hippocampus", tmp_path_factory.mktemp("real")
    download = root / "Task04_Hippocampus"
    declared = json.loads((source / "dataset.json").read_text())
    declared["training"], declared["test"] = declared["training"][:CASES], declared["test"][:TEST_CASES]
    declared["numTraining"], declared["numTest"] = CASES, TEST_CASES
    files = [name for entry in declared["training"] for name in (entry["image"], entry["label"])] + declared["test"]
    for name in files:
        (download / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, download / name)
    (download / "dataset.json").write_text(json.dumps(declared))

    adapter = Decathlon()
    workspace = Workspace(root / "nnbox", DATASET)
    adapter.convert(adapter.recognise(download), workspace.root / "datasets" / DATASET)
    opened = load_dataset(workspace.root / "datasets" / DATASET)
    assert (len(opened.cases), len(opened.test_cases)) == (CASES, TEST_CASES)
    plan_dataset(workspace, opened, memory_gb=0.01, processes=1)
    return workspace.root


@pytest.fixture(scope="module")
def undisturbed(planned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], dict[str, str]]]:
    """Digests of what a run on this machine ends in that nothing happens to; it goes on beside the first test."""
    workspace = copy(planned, tmp_path_factory.mktemp("undisturbed"))
    process = start(workspace, "local")

    @functools.cache
    def digests() -> dict[str, str]:
        finish(process)
        found = results(workspace)
        kinds = [Path(name).name for name in found]
        assert kinds.count("weights.safetensors") >= 4
        assert {"selection.json", "bundle.json"} < set(kinds)
        # Each case is held out in one of five folds, of which two are trained, by two configurations.
        labels = [name for name in found if "/fold_" in name and name.endswith(".nii.gz")]
        assert len(labels) == 2 * 2 * CASES // 5
        load_bundle(workspace.bundle, check_weights=True)
        return found

    yield digests
    if process.poll() is None:
        send(below(process.pid), signal.SIGKILL)


def copy(root: Path, parent: Path) -> Workspace:
    shutil.copytree(root, parent / "nnbox")
    return Workspace(parent / "nnbox", DATASET)


def command(workspace: Workspace, executor: str, *more: str) -> list[str]:
    program = [sys.executable, "-m", "nnunet_box.cli.app", "train-all", DATASET, *GRAPH, *HOW]
    return [*program, "--workspace", str(workspace.root), "--executor", executor, *more]


def results(workspace: Workspace) -> dict[str, str]:
    """Digests of the plan, folds, networks, predictions with their scores, selection and all of the bundle. Summaries
    name files by their paths, of which the workspace's own is left out.
    """
    made = [workspace.plan, workspace.splits, *workspace.models.rglob("*"), *workspace.bundle.rglob("*")]
    kept = [file for file in made if file.is_file() and file.name not in WITH_TIMES]
    root = str(workspace.root.resolve()).encode()
    return {
        str(file.relative_to(workspace.root)): hashlib.sha256(file.read_bytes().replace(root, b"")).hexdigest()
        for file in kept
    }


def start(workspace: Workspace, executor: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(workspace, executor, *more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, told
    return told


def while_running(process: subprocess.Popen[str]) -> Callable[[Callable[[], Found | None]], Found]:
    """For waiting as long as a run of the graph lives."""

    def alive() -> None:
        if process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[0]}")

    return lambda what: wait_for(what, alive)


def wait_for(what: Callable[[], Found | None], hope: Callable[[], None] = lambda: None) -> Found:
    """The first value that is not None."""
    until = time.monotonic() + PATIENCE_SECONDS
    while (found := what()) is None:
        hope()
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def assert_as_undisturbed(workspace: Workspace, undisturbed: Callable[[], dict[str, str]]) -> None:
    found, expected = results(workspace), undisturbed()
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def assert_went_on(workspace: Workspace, tasks: Sequence[str], least_runs: int = 2) -> None:
    for task in tasks:
        record = read_record(workspace, task)
        assert record is not None and record.state == "done" and record.attempts >= least_runs, task
        assert "Continuing after epoch" in log_file(workspace, task).read_text(), task


def test_local(planned: Path, undisturbed: Callable[[], dict[str, str]], tmp_path: Path) -> None:
    """The machine that is lost is this one: all of the run ends at once, and the same command is typed again."""
    workspace = copy(planned, tmp_path)
    process = start(workspace, "local")
    killed = kill_a_training(workspace, while_running(process))
    lost = kill_around_a_training(workspace, while_running(process), lambda *_: below(process.pid))
    told = process.communicate()[0]
    assert f"{killed} was ended with 137; it goes on from where it was" in told

    finish(start(workspace, "local"))
    assert_went_on(workspace, [killed, lost])
    assert_as_undisturbed(workspace, undisturbed)


@pytest.fixture
def own_slurm(real_slurm: None, tmp_path: Path) -> Iterator[None]:
    """The Slurm of ``.ci/slurm.sh``, whose node may be lost; afterwards it has its node, and no job of the test."""
    if os.environ.get("SLURM_CONF") != SLURM_CONFIGURATION:
        pytest.skip("a node is lost in this test: it runs on the Slurm of .ci/slurm.sh alone")
    yield
    bring_node_back()
    for file in tmp_path.glob("*/tasks/*/*/record.json"):
        job = json.loads(file.read_text()).get("job")
        if job:
            subprocess.run(["scancel", job], capture_output=True)


def test_slurm(planned: Path, undisturbed: Callable[[], dict[str, str]], tmp_path: Path, own_slurm: None) -> None:
    """What else runs on the node when it is lost is put back as well."""
    workspace = copy(planned, tmp_path)
    finish(start(workspace, "slurm", *ONE_CORE))

    def hope() -> None:
        assert queue(workspace), "nothing is queued any more"
        time.sleep(0.1)

    def node(task: str, pid: int) -> set[int]:
        running = [record.pid for record in records(workspace) if record.state == "running" and record.pid is not None]
        return {found for one in (pid, *running) for found in node_around(one)}

    def wait(what: Callable[[], Found | None]) -> Found:
        return wait_for(what, hope)

    killed = kill_a_training(workspace, wait)
    lost = kill_around_a_training(workspace, wait, node)
    # Slurm itself finds out, and puts back what ran there.
    wait_for(lambda: True if node_state().startswith("down") else None)
    bring_node_back()
    wait_for(lambda: None if queue(workspace) else True)
    logs = {record.task: log_file(workspace, record.task).read_text()[-600:] for record in records(workspace)}
    assert {record.state for record in records(workspace)} == {"done"}, logs
    assert_went_on(workspace, [killed, lost])
    assert_as_undisturbed(workspace, undisturbed)


@pytest.mark.usefixtures("ray_here")
def test_ray(
    planned: Path, undisturbed: Callable[[], dict[str, str]], cluster: Any, nodes: list[Any], tmp_path: Path
) -> None:
    workspace = copy(planned, tmp_path)
    process = start(workspace, "ray", "--ray-address", cluster.address)
    found: list[Any] = []

    def node(task: str, pid: int) -> list[int]:
        found[:] = [one for one in [node_of(workspace, task, nodes)] if one is not None]
        return below(raylet(found[0])) if found else []

    killed = kill_a_training(workspace, while_running(process))
    lost = kill_around_a_training(workspace, while_running(process), node)
    cluster.remove_node(found[0], allow_graceful=False)

    told = finish(process)
    assert told.count("goes on from where it was") >= 2
    assert_went_on(workspace, [killed, lost])
    assert_as_undisturbed(workspace, undisturbed)
