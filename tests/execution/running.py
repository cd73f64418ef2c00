"""What a run of the graph is at, and what it ends in."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path

from nnunet_box.bundle import sha256
from nnunet_box.execution.records import read_record
from nnunet_box.workspace import Workspace
from tests.execution.process_trees import below, command_of, send

Wait = Callable[[Callable[[], str | None]], str]


def weights(workspace: Workspace) -> dict[str, str]:
    """Digests of the networks that are trained, by their place below the models."""
    files = sorted(workspace.models.glob("*/fold_*/weights.safetensors"))
    return {str(file.relative_to(workspace.models)): sha256(file) for file in files}


def in_training(workspace: Workspace) -> str | None:
    """A training's task that has a checkpoint and no weights yet; one that has a process, where one has."""
    folders = [
        folder
        for folder in workspace.models.glob("*/fold_*")
        if (folder / "checkpoint" / "state.json").is_file() and not (folder / "weights.safetensors").is_file()
    ]
    tasks = [f"train-{folder.parent.name}-{folder.name.removeprefix('fold_')}" for folder in folders]
    at_work = (task for task in tasks if training_process(workspace, task) is not None)
    return next(at_work, tasks[0] if tasks else None)


def folder_of(workspace: Workspace, task: str) -> Path:
    """A training's fold."""
    model, _, fold = task.removeprefix("train-").rpartition("-")
    return workspace.fold(model, int(fold))


def training_process(workspace: Workspace, task: str) -> int | None:
    """The process that trains, below the one that the task's record names."""
    record = read_record(workspace, task)
    if record is None or record.pid is None or record.state != "running":
        return None
    words = {pid: command_of(pid) for pid in below(record.pid)}
    return next((pid for pid, argv in words.items() if "train" in argv and "run-task" not in argv), None)


def kill_a_training(workspace: Workspace, wait_for: Wait) -> str:
    """SIGKILL a training in the middle; returns its task."""
    return kill_around_a_training(workspace, wait_for, lambda _, pid: [pid])


def kill_around_a_training(workspace: Workspace, wait_for: Wait, around: Callable[[str, int], Collection[int]]) -> str:
    """SIGKILL all that ``around`` finds of a training's task and process, in the middle of it, as if a machine lost its
    power; returns the task.

    wait_for: waits for a value that is not None, as long as there is hope. around: nothing where it is too late.
    """
    while True:
        task = wait_for(lambda: in_training(workspace))
        pid = training_process(workspace, task)
        # Stopped first: nothing may slip away, nor end well between the look and the shot.
        found = set() if pid is None else set(around(task, pid))
        send(found, signal.SIGSTOP)
        over = not found or (folder_of(workspace, task) / "weights.safetensors").exists()
        if pid is not None and not over:
            found |= set(around(task, pid))
        send(found, signal.SIGCONT if over else signal.SIGKILL)
        if not over:
            return task
        time.sleep(0.01)
