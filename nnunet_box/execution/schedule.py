"""Walking a graph: what is ready is started where there is room, a failure stops what depends on it and no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nnunet_box.errors import NnboxError
from nnunet_box.execution.graph import Task
from nnunet_box.execution.records import State, describe_failure
from nnunet_box.interrupts import COME_BACK, patient
from nnunet_box.progress import say
from nnunet_box.workspace import Workspace

LOOK_EVERY_SECONDS = 0.2
KNOWN_CODES = {2, 3, 4, 5}
"""Exit codes of errors.py that say more than that something failed."""
MOST_ATTEMPTS = 3
"""Of a task that was killed or told to come back; one that fails by itself is not run again."""


class Executor(Protocol):
    """Where tasks run."""

    def room_for(self, task: Task) -> bool:
        """Whether the task may be started now."""
        ...

    def start(self, task: Task) -> None:
        """Begin to run it."""
        ...

    def ended(self) -> list[tuple[str, int]]:
        """Names and exit codes of tasks that have ended since the last call."""
        ...

    def stop(self, at_once: bool) -> None:
        """Ask what runs to end, as it can be continued; ``at_once``: kill it."""
        ...


@dataclass
class Walk:
    """How far a graph has come: the state of each task."""

    tasks: Sequence[Task]
    states: dict[str, State]

    def of(self, state: State) -> list[Task]:
        """Tasks in that state, in the graph's order."""
        return [task for task in self.tasks if self.states[task.name] == state]


class TasksFailed(NnboxError):
    """Tasks of a graph failed; those that do not depend on them are done."""

    def __init__(self, workspace: Workspace, failed: Mapping[str, int], blocked: Sequence[str]) -> None:
        codes = set(failed.values())
        # The code of the one cause, where they all have the same.
        self.exit_code = codes.pop() if len(codes) == 1 and codes < KNOWN_CODES else NnboxError.exit_code
        told = "\n  ".join(describe_failure(workspace, name) for name in failed)
        rest = f" Not begun, as they need them: {', '.join(blocked)}." if blocked else ""
        super().__init__(
            f"{len(failed)} task{'s' * (len(failed) > 1)} failed; everything else is done.{rest} Mend the cause and "
            f"run the same command again: what is done stays.\n  {told}"
        )


def walk(
    workspace: Workspace,
    tasks: Sequence[Task],
    executor: Executor,
    report: Callable[[Walk], None] = lambda _: None,
) -> Walk:
    """Run what is not done yet.

    report: told what has changed, and every now and then. An interrupt asks the tasks that run to end and waits for
    them; a second one kills them.

    Raises
    ------
    TasksFailed: at the end, when nothing else is left to do. Interrupted: by a signal.
    """
    progress = Walk(tasks, dict.fromkeys((task.name for task in tasks), "waiting"))
    attempts, codes = dict.fromkeys(progress.states, 0), dict.fromkeys(progress.states, 0)
    asked: set[str] = set()
    with patient("tasks that run come to their end; once more ends them at once") as check:
        try:
            while True:
                _settle(progress, asked)
                for task in _ready(progress):
                    if executor.room_for(task):
                        attempts[task.name] += 1
                        executor.start(task)
                        progress.states[task.name] = "running"
                report(progress)
                if not progress.of("running"):
                    break
                check()
                time.sleep(LOOK_EVERY_SECONDS)
                for name, code in executor.ended():
                    again = (code == COME_BACK or code > 128) and attempts[name] < MOST_ATTEMPTS
                    codes[name] = code
                    progress.states[name] = "done" if code == 0 else "waiting" if again else "failed"
                    if again:
                        say(f"{name} was ended with {code}; it goes on from where it was.")
                    elif code:
                        say(describe_failure(workspace, name))
        except BaseException:
            _wind_up(progress, executor)
            raise
    failed = {task.name: codes[task.name] for task in progress.of("failed")}
    if failed:
        raise TasksFailed(workspace, failed, [task.name for task in progress.of("blocked")])
    return progress


def _settle(progress: Walk, asked: set[str]) -> None:
    """What waits and is done already, and what waits for something that has failed.

    asked: tasks whose results were looked at, which is once for each, when what it needs is done: to look means to ask
    the disk about every case, and a task may wait for a slot for days.
    """
    for task in progress.of("waiting"):
        needs = [progress.states[need] for need in task.needs]
        if any(state in ("failed", "blocked") for state in needs):
            progress.states[task.name] = "blocked"
        elif task.name not in asked and all(state == "done" for state in needs):
            asked.add(task.name)
            if task.is_done():
                progress.states[task.name] = "done"


def _ready(progress: Walk) -> list[Task]:
    return [task for task in progress.of("waiting") if all(progress.states[need] == "done" for need in task.needs)]


def _wind_up(progress: Walk, executor: Executor) -> None:
    executor.stop(at_once=False)
    try:
        with patient("waiting for the tasks to end; they are killed now") as check:
            while progress.of("running"):
                time.sleep(LOOK_EVERY_SECONDS)
                _note(progress, executor.ended())
                check()
    except BaseException:
        executor.stop(at_once=True)
        raise


def _note(progress: Walk, ended: Sequence[tuple[str, int]]) -> None:
    for name, code in ended:
        progress.states[name] = "done" if code == 0 else "unfinished"


def counts(states: Mapping[str, State]) -> str:
    """``3 done, 2 running, 9 waiting``."""
    order: tuple[State, ...] = ("done", "running", "submitted", "unfinished", "waiting", "failed", "blocked")
    found = [(sum(state == one for state in states.values()), one) for one in order]
    return ", ".join(f"{number} {state}" for number, state in found if number)
