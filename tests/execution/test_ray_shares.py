"""What of ``--executor ray`` needs no cluster, and no Ray."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nnunet_box
from nnunet_box.cli.app import app
from nnunet_box.errors import UsageError
from nnunet_box.execution import ray_cluster, ray_node
from nnunet_box.execution.graph import Task
from nnunet_box.execution.ray_cluster import RayExecutor, Share, connected, queued, share_of
from nnunet_box.execution.ray_node import mark_of, run_on_node
from nnunet_box.execution.records import Record, log_file, read_record, states, write_record
from nnunet_box.execution.schedule import Walk
from nnunet_box.files import write_json
from nnunet_box.locks import held
from nnunet_box.workspace import Workspace

HEAD, CPU_NODE, SMALL_NODE = {"CPU": 0.0}, {"CPU": 16.0}, {"CPU": 4.0}
GPU_NODE, FULL_GPU_NODE = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "device", "cpus", "share"),
    [
        ([HEAD, FULL_GPU_NODE], "auto", None, Share(7, 1, 8)),
        ([HEAD, FULL_GPU_NODE, GPU_NODE], "auto", None, Share(4, 1, 9)),
        ([GPU_NODE, GPU_NODE], "cuda", None, Share(4, 1, 2)),
        ([{"CPU": 1.0, "GPU": 1.0}], "auto", None, Share(1, 1, 1)),
        ([{"CPU": 2.0, "GPU": 4.0}], "auto", None, Share(1, 1, 2)),
        ([GPU_NODE, CPU_NODE], "auto", 8, Share(8, 1, 1)),
        ([CPU_NODE, SMALL_NODE], "auto", None, Share(4, 0, 5)),
        ([CPU_NODE, CPU_NODE], "auto", None, Share(16, 0, 2)),
        ([FULL_GPU_NODE], "cpu", 2, Share(2, 0, 32)),
        ([HEAD], "cuda", None, Share(1, 1, 1)),
        ([HEAD], "cuda", 8, Share(8, 1, 1)),
        ([CPU_NODE], "cuda", None, Share(1, 1, 1)),
    ],
)
def test_a_node_takes_a_training_a_gpu_and_one_other_task_or_one_task(
    nodes: list[dict[str, float]], device: str, cpus: int | None, share: Share
) -> None:
    assert share_of(nodes, device, cpus) == share


def test_a_gpu_cannot_be_chosen_on_ray() -> None:
    with pytest.raises(UsageError, match="--device cuda:1: .* use --device cuda"):
        share_of([GPU_NODE], "cuda:1")


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'nnunet_box\[ray\]'"), connected("auto"):
        pass


def test_an_address_where_nobody_listens_is_refused_soon() -> None:
    with pytest.raises(UsageError, match="write auto, HOST:PORT or ray://HOST:PORT"):
        ray_cluster._check_address("somewhere")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]  # Bound and not listening: nobody else gets it.
        with pytest.raises(UsageError, match=rf"127.0.0.1:{port}: no Ray cluster answers .*ray start --head"):
            ray_cluster._check_address(f"127.0.0.1:{port}")


@pytest.fixture
def asked(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "nnbox", "toy")
    write_json(workspace.request, {"schema_version": 1})
    return workspace


def test_a_node_refuses_another_folder_and_another_version(
    asked: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_node, "SHARED_WITHIN_SECONDS", 0.0)
    mark, task = mark_of(asked), ("plan", "key", ["--help"])
    monkeypatch.setattr(ray_node, "start_process", lambda *_, **__: pytest.fail("run all the same"))
    code, words = run_on_node(str(tmp_path), "toy", mark, nnunet_box.__version__, *task)
    assert code == 1 and f"{tmp_path} on {socket.gethostname()} is not this run's workspace" in words
    code, words = run_on_node(str(asked.root), "toy", "another run's", nnunet_box.__version__, *task)
    assert code == 1 and "not this run's workspace" in words
    code, words = run_on_node(str(asked.root), "toy", mark, "0.0.1", *task)
    assert code == 1 and f"has nnunet_box {nnunet_box.__version__}, not 0.0.1" in words


def test_a_node_waits_for_a_file_system_that_shows_files_late(
    asked: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = mark_of(asked)
    late = asked.request.rename(asked.request.with_suffix(".late"))
    monkeypatch.setattr(ray_node.time, "sleep", lambda _: late.exists() and late.rename(asked.request))
    assert ray_node._problem(asked, mark, nnunet_box.__version__) is None


def test_a_node_runs_a_task_with_its_log_and_record_in_the_workspace(asked: Workspace) -> None:
    end = run_on_node(
        str(asked.root), "toy", mark_of(asked), nnunet_box.__version__, "plan", "key", ["plan", "--no-such-option"]
    )
    assert end == (2, "")
    record = read_record(asked, "plan")
    assert record is not None and (record.state, record.exit_code, record.key) == ("failed", 2, "key")
    assert "No such option" in log_file(asked, "plan").read_text()


def task(name: str, *needs: str) -> Task:
    return Task(name, "train", (name,), needs, (), (), "key", lambda: False, lambda: None)


def test_what_ray_has_not_begun_is_submitted(asked: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "READ_EVERY_SECONDS", 0.0)
    first, second, third = tasks = [task("first"), task("second"), task("third")]
    executor = RayExecutor(asked, Share(1, 1, 2))
    executor._running = {"first": (first, None), "second": (second, None)}
    progress = Walk(tasks, {"first": "running", "second": "running", third.name: "waiting"})
    for name in ("first", "second"):
        write_record(asked, Record(task=name, key="key", state="submitted", scheduler="ray", job=name))
    assert executor.told_apart(progress).states == {"first": "submitted", "second": "submitted", "third": "waiting"}
    write_record(asked, Record(task="first", key="key", state="running", attempts=1))
    assert executor.told_apart(progress).states == {"first": "running", "second": "submitted", "third": "waiting"}
    assert progress.states["second"] == "running", "the walk's own states stay"


def test_no_more_trainings_than_were_asked_for(asked: Workspace) -> None:
    executor = RayExecutor(asked, Share(1, 1, 8), at_once=1)
    assert executor.room_for(task("first"))
    executor._running = {"first": (task("first"), None)}
    other = Task("inputs", "inputs", (), (), (), (), "key", lambda: False, lambda: None)
    assert not executor.room_for(task("second")) and executor.room_for(other)
    assert RayExecutor(asked, Share(1, 1, 8)).room_for(task("second")), "Ray has its own queue"


def test_status_tells_submitted_from_waiting_by_the_drivers_life(asked: Workspace) -> None:
    tasks = [task("first"), task("second")]
    write_record(asked, Record(task="first", key="key", state="submitted", scheduler="ray", job="first"))
    assert states(asked, tasks, {"ray": lambda: queued(asked, tasks)}) == {"first": "waiting", "second": "waiting"}
    assert states(asked, tasks, {"ray": lambda: {"first": "submitted"}}) == {"first": "submitted", "second": "waiting"}


def test_what_a_driver_has_ends_with_it(asked: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [task("first")]
    driver = {"what": ray_cluster.lock_words(asked)}
    monkeypatch.setattr(ray_cluster, "holder", lambda file: driver if file == asked.lock("train-all") else None)
    assert queued(asked, tasks) == {"first": "submitted"}
    driver["what"] = "train-all of toy"
    assert queued(asked, tasks) == {}, "another executor's"
    monkeypatch.undo()
    with held(asked.lock("train-all"), ray_cluster.lock_words(asked)):
        assert queued(asked, tasks) == {}, "our own lock is not another's"


def test_the_command_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("nnunet_box.cli.train_all._converted", lambda *_: "toy")
    opened = Workspace(tmp_path, "toy"), None
    monkeypatch.setattr("nnunet_box.cli.common.open_dataset", lambda *_: opened)
    ended = CliRunner().invoke(app, ["train-all", "toy", "--executor", "ray"])
    assert isinstance(ended.exception, UsageError) and "nnunet_box[ray]" in str(ended.exception)
