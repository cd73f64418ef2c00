"""Running a graph on a Ray cluster: several machines that share the file system which the workspace lies on."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import nnunet_box
from nnunet_box.errors import UsageError
from nnunet_box.execution.graph import Task
from nnunet_box.execution.ray_node import mark_of, run_on_node
from nnunet_box.execution.records import Record, log_file, now, read_record, task_lock, write_record
from nnunet_box.execution.schedule import Walk
from nnunet_box.interrupts import SIGNALS
from nnunet_box.locks import holder
from nnunet_box.progress import say
from nnunet_box.workspace import Workspace

RAY = "ray"
AUTO = "auto"
"""The cluster that this machine is part of, or that ``RAY_ADDRESS`` names."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Nothing is reported to Ray's makers; no notice about what later versions do for tasks without a GPU."""
ANSWER_SECONDS = 10.0
READ_EVERY_SECONDS = 2.0
"""Records lie on a network's file system: they are not read as often as the walk looks."""
KILLED, ENDED = 128 + signal.SIGKILL, 128 + signal.SIGTERM


@dataclass(frozen=True)
class Share:
    """What Ray sets aside for a task: cpus for each, gpus for a training. at_once: trainings there is room for."""

    cpus: int
    gpus: int
    at_once: int


def share_of(nodes: Sequence[Mapping[str, float]], device: str, cpus: int | None = None) -> Share:
    """Share out a cluster.

    A node with GPUs takes a training for each, and one other task beside them, as one machine does with the local
    executor; a node without takes one task. cpus: of each task, where a person chose it.

    nodes: their resources as Ray names them, ``CPU`` and ``GPU``.

    Raises
    ------
    UsageError: ``device`` names one GPU of a machine.
    """
    if device.startswith("cuda:"):
        raise UsageError(f"--device {device}: on Ray each training sees the one GPU it was given; use --device cuda.")
    on_gpu = device == "cuda" or (device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes))
    room = [node for node in nodes if node.get("CPU", 0) >= 1 and (not on_gpu or node.get("GPU", 0) >= 1)]
    shares = [int(node["CPU"]) // (int(node["GPU"]) + 1 if on_gpu else 1) for node in room]
    each = cpus or max(1, min(shares, default=1))
    counts = [min(int(node["CPU"]) // each, int(node["GPU"]) if on_gpu else 10**6) for node in room]
    return Share(each, int(on_gpu), max(1, sum(counts)))


def share_of_cluster(device: str, cpus: int | None = None) -> Share:
    """``share_of`` of the nodes that are there now; says what they are, and what they lack."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = share_of(nodes, device, cpus)
    all_cpus, gpus = (int(sum(node.get(name, 0) for node in nodes)) for name in ("CPU", "GPU"))
    say(
        f"Ray: {len(nodes)} node{'s' * (len(nodes) > 1)}, {all_cpus} CPUs, {gpus} GPUs; {share.cpus} "
        f"CPUs{' and a GPU' if share.gpus else ''} a training, {share.at_once} at once"
    )
    if share.gpus and not gpus:
        say("No node has a GPU now: trainings wait for one that has.")
    if not gpus and device == "auto":
        say("No node has a GPU: trainings run on CPUs. Where nodes come on demand, ask for them with --device cuda.")
    if all(node.get("CPU", 0) < share.cpus for node in nodes):
        say(f"No node has {share.cpus} CPUs now: tasks wait for one that has. --cpus-per-task asks for fewer.")
    return share


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within the block this process is a driver of the cluster at ``address``: ``auto``, ``HOST:PORT`` or ``ray://``.

    Raises
    ------
    UsageError: Ray is not installed, or no cluster answers.
    """
    os.environ.update(QUIET)
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != RAY:
            raise
        raise UsageError("--executor ray needs Ray: pip install 'nnunet_box[ray]'") from error
    address = os.environ.get("RAY_ADDRESS", AUTO) if address == AUTO else address
    _check_address(address)
    ours = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise UsageError(_no_cluster(address, str(error).strip().split("\n")[0])) from error
    finally:
        if ours:  # Ray has put its own way to end in place of ours, which tells the tasks.
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself waits for a minute where nobody listens, and then ends the process."""
    if address == AUTO:
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        raise UsageError(f"--ray-address {address}: write auto, HOST:PORT or ray://HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise UsageError(_no_cluster(address, str(error))) from error


def _no_cluster(address: str, reason: str) -> str:
    return (
        f"--ray-address {address}: no Ray cluster answers ({reason}). Start one: on the first machine 'ray start "
        "--head', on each other 'ray start --address=FIRST:6379'."
    )


@dataclass
class RayExecutor:
    """Every task as a process on the node that Ray chooses; Ray queues what has no room yet.

    A lost node is an end like any other kill: ``schedule.walk`` submits the task again, and counts, in one place for
    all executors. Ray's own retries are off: they would run a task again without its log, record and table saying so.
    at_once: trainings beside each other at most. Used within ``connected``.
    """

    workspace: Workspace
    share: Share
    at_once: int | None = None
    _running: dict[str, tuple[Task, Any]] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    _read: float = 0.0

    def room_for(self, task: Task) -> bool:
        """See ``schedule.Executor``."""
        trainings = sum(running.gpu for running, _ in self._running.values())
        return not (task.gpu and self.at_once is not None and trainings >= self.at_once)

    def start(self, task: Task) -> None:
        """See ``schedule.Executor``."""
        import ray

        before = read_record(self.workspace, task.name)
        attempts = before.attempts if before is not None and before.key == task.key else 0
        record = Record(
            task=task.name, key=task.key, state="submitted", attempts=attempts, scheduler=RAY, job=task.name
        )
        write_record(self.workspace, record)
        self._begun.discard(task.name)
        asked = ray.remote(run_on_node).options(
            name=f"nnbox {task.name}",
            num_cpus=self.share.cpus,
            num_gpus=self.share.gpus if task.gpu else 0,
            max_retries=0,
        )
        where = str(self.workspace.root.resolve()), self.workspace.dataset, mark_of(self.workspace)
        reference = asked.remote(*where, nnunet_box.__version__, task.name, task.key, list(task.argv))
        self._running[task.name] = task, reference

    def ended(self) -> list[tuple[str, int]]:
        """See ``schedule.Executor``."""
        import ray

        references = [reference for _, reference in self._running.values()]
        if not references:
            return []
        ready = set(ray.wait(references, num_returns=len(references), timeout=0)[0])
        found = []
        for name, (task, reference) in list(self._running.items()):
            if reference in ready:
                del self._running[name]
                code, words = _outcome(reference)
                if words:
                    self._note(task, code, words)
                found.append((name, code))
        return found

    def stop(self, at_once: bool) -> None:
        """See ``schedule.Executor``."""
        import ray

        for _, reference in self._running.values():
            ray.cancel(reference, force=at_once)

    def told_apart(self, progress: Walk) -> Walk:
        """What Ray has, as running and submitted: its record says when a task really begins."""
        if time.monotonic() - self._read >= READ_EVERY_SECONDS:
            self._read = time.monotonic()
            for name in self._running.keys() - self._begun:
                record = read_record(self.workspace, name)
                if record is not None and record.state != "submitted":
                    self._begun.add(name)
        queued = self._running.keys() - self._begun
        return replace(progress, states=progress.states | dict.fromkeys(queued, "submitted"))

    def _note(self, task: Task, code: int, words: str) -> None:
        """Put what Ray knows of an end where a task's own words and fate are."""
        log = log_file(self.workspace, task.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as output:
            output.write(f"--- {now()} {words}\n")
        record = read_record(self.workspace, task.name)
        if record is not None and holder(task_lock(self.workspace, task.name)) is None:
            state = "unfinished" if code > 128 else "failed"
            write_record(self.workspace, record.model_copy(update={"state": state, "exit_code": code, "ended": now()}))


def _outcome(reference: Any) -> tuple[int, str]:
    """Exit code of a task that Ray says has ended, and what there is to say that it did not say itself."""
    import ray
    from ray import exceptions

    try:
        code, words = ray.get(reference)
    except exceptions.TaskCancelledError:
        return ENDED, ""
    except (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError, exceptions.TaskUnschedulableError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return 1, f"Ray: {lines[-1] if lines else type(error).__name__}"
    except exceptions.RayError as error:
        # Ray goes on with advice about its own tools.
        return KILLED, f"Ray: {type(error).__name__}: {str(error).strip().splitlines()[0].split('. ')[0]}"
    return int(code), str(words)


def lock_words(workspace: Workspace) -> str:
    """What a run on Ray has, as its lock says."""
    return f"train-all of {workspace.dataset} on Ray"


def queued(workspace: Workspace, tasks: Sequence[Task]) -> Mapping[str, str]:
    """For ``records.states``: what Ray has of a graph as long as its driver lives, whether it runs or waits."""
    found = holder(workspace.lock("train-all")) or {}
    return {task.name: "submitted" for task in tasks} if found.get("what") == lock_words(workspace) else {}
