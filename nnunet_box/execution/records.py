"""What is known of each task's last run, on disk beside its log: whatever runs a graph may die and be replaced."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json, write_json
from nnunet_box.locks import holder
from nnunet_box.training.run_log import LOG
from nnunet_box.workspace import Workspace

if TYPE_CHECKING:
    from nnunet_box.execution.graph import Task

State = Literal["done", "running", "submitted", "failed", "unfinished", "waiting", "blocked"]
"""unfinished: it ran, ended before its end and can go on. blocked: something it needs has failed."""
LOG_LINES = 20


class Record(BaseModel):
    """A task's last run. job: what a scheduler calls it, ``scheduler`` being which. attempts: runs with this key.
    in_vain: runs of this job, one after the other, that were told to come back and had not got further.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    task: str
    key: str
    state: Literal["submitted", "running", "done", "failed", "unfinished"]
    attempts: int = 0
    host: str | None = None
    pid: int | None = None
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    scheduler: str | None = None
    job: str | None = None
    in_vain: int = 0


def record_file(workspace: Workspace, name: str) -> Path:
    """Where a task's record lies."""
    return workspace.task(name) / "record.json"


def log_file(workspace: Workspace, name: str) -> Path:
    """What a task's runs have printed, one after the other."""
    return workspace.task(name) / "log.txt"


def task_lock(workspace: Workspace, name: str) -> Path:
    """Held by the process that runs a task."""
    return workspace.lock(f"task-{name}")


def read_record(workspace: Workspace, name: str) -> Record | None:
    """None where there is none, or one that cannot be read: it says nothing about results."""
    try:
        return Record.model_validate(read_json(record_file(workspace, name), schema_version=1))
    except (InvalidData, ValidationError):
        return None


def write_record(workspace: Workspace, record: Record) -> None:
    """Keep a record."""
    write_json(record_file(workspace, record.task), record.model_dump(mode="json"))


def begun_record(
    task: str, key: str, before: Record | None, scheduler: str | None = None, job: str | None = None
) -> Record:
    """The record of a run that this process begins, as a scheduler's job where one runs it."""
    same = before is not None and before.key == key
    return Record(
        task=task,
        key=key,
        state="running",
        attempts=1 + (before.attempts if same and before is not None else 0),
        host=socket.gethostname(),
        pid=os.getpid(),
        started=now(),
        scheduler=scheduler,
        job=job,
        in_vain=before.in_vain if same and before is not None and job is not None and before.job == job else 0,
    )


def now() -> str:
    """The time, for records."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


Jobs = Callable[[], Mapping[str, str]]
"""Job id to state, ``running`` or ``submitted``, of the jobs that a scheduler still has."""


def states(workspace: Workspace, tasks: list[Task], jobs: Mapping[str, Jobs] | None = None) -> dict[str, State]:
    """The state of each task. Whether it is done is asked of its results, not of its record.

    jobs: scheduler's name to what it says.
    """
    asked: dict[str, Mapping[str, str]] = {}
    found: dict[str, State] = {}
    for task in tasks:
        if any(found.get(need) in ("failed", "blocked") for need in task.needs):
            found[task.name] = "blocked"
        elif all(found.get(need, "done") == "done" for need in task.needs) and task.is_done():
            found[task.name] = "done"
        else:
            found[task.name] = _state(workspace, task, jobs or {}, asked)
    return found


def _state(workspace: Workspace, task: Task, jobs: Mapping[str, Jobs], asked: dict[str, Mapping[str, str]]) -> State:
    record = read_record(workspace, task.name)
    # The command itself has a lock of the task's name: somebody may have typed it.
    if holder(task_lock(workspace, task.name)) is not None or holder(workspace.lock(task.name)) is not None:
        return "running"
    begun = task.settings is not None and (task.outputs[0].parent / LOG).is_file()
    if record is None or record.key != task.key:
        return "unfinished" if begun else "waiting"
    scheduler = record.scheduler or ""
    if record.job is not None and scheduler in jobs and record.state not in ("done", "failed"):
        if scheduler not in asked:
            asked[scheduler] = jobs[scheduler]()
        known = asked[scheduler].get(record.job)
        if known is not None:
            return "running" if known == "running" else "submitted"
    if record.state == "failed":
        return "failed"
    if record.state == "submitted":
        return "unfinished" if begun else "waiting"  # Its job is gone and has not run.
    # Its process or job is gone without a word, or it ended well and its results were changed since.
    return "waiting" if record.state == "done" else "unfinished"


def last_lines(workspace: Workspace, name: str, count: int = LOG_LINES) -> list[str]:
    """The end of a task's log."""
    try:
        with log_file(workspace, name).open(encoding="utf-8", errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, count)]
    except OSError:
        return []


def describe_failure(workspace: Workspace, name: str) -> str:
    """A failed task in one line: its last words, and where the others are."""
    record = read_record(workspace, name)
    words = next((line for line in reversed(last_lines(workspace, name)) if line.strip()), "nothing was printed")
    code = "?" if record is None else record.exit_code
    return f"{name} ended with {code}: {words.strip()} (log: {log_file(workspace, name)})"
