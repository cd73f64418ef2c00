"""Walking a graph of tasks, with an executor whose tasks end as a script says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from nnunet_box.execution import schedule
from nnunet_box.execution.graph import Task
from nnunet_box.execution.schedule import MOST_ATTEMPTS, TasksFailed, Walk, counts, walk
from nnunet_box.interrupts import COME_BACK, Interrupted
from nnunet_box.workspace import Workspace

KILLED = 128 + signal.SIGKILL


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "LOOK_EVERY_SECONDS", 0.001)


class Scripted:
    """Tasks end, in the order they were started, with the codes that ``codes`` has for them, 0 by default.

    on_look: called whenever the walk asks what has ended, with this; before it is told. lasting: tasks that end when
    they are asked to.
    """

    def __init__(
        self,
        codes: dict[str, list[int]] | None = None,
        slots: int = 10,
        lasting: Sequence[str] = (),
        on_look: Callable[[Scripted], None] = lambda _: None,
    ) -> None:
        self.codes, self.slots, self.lasting, self.on_look = codes or {}, slots, set(lasting), on_look
        self.running: list[str] = []
        self.started: list[str] = []
        self.done: set[str] = set()
        self.stops: list[bool] = []
        self.most = 0

    def room_for(self, task: Task) -> bool:
        return len(self.running) < self.slots

    def start(self, task: Task) -> None:
        assert task.name not in self.running, "twice at once"
        assert set(task.needs) <= self.done, "before what it needs"
        self.started.append(task.name)
        self.running.append(task.name)
        self.most = max(self.most, len(self.running))

    def ended(self) -> list[tuple[str, int]]:
        self.on_look(self)
        if name := next((name for name in self.running if name not in self.lasting), None):
            self.running.remove(name)
            code = self.codes[name].pop(0) if self.codes.get(name) else 0
            if code == 0:
                self.done.add(name)
            return [(name, code)]
        return []

    def stop(self, at_once: bool) -> None:
        self.stops.append(at_once)
        for name in self.lasting & set(self.running):
            self.codes[name] = [128 + signal.SIGTERM]
        self.lasting.clear()


def task(name: str, *needs: str, is_done: Callable[[], bool] = lambda: False) -> Task:
    return Task(name, "train", (name,), needs, (), (), "key", is_done, lambda: None)


def diamond(executor: Scripted) -> list[Task]:
    """plan, then left and right beside each other, each with a task after it, then all."""
    return [
        task("plan"),
        task("left", "plan"),
        task("right", "plan"),
        task("after-left", "left"),
        task("after-right", "right"),
        task("all", "after-left", "after-right"),
    ]


def test_results_are_looked_at_once_however_long_a_task_waits(tmp_path: Path) -> None:
    looks: dict[str, int] = {}

    def looked(name: str) -> bool:
        looks[name] = looks.get(name, 0) + 1
        return False

    names = [f"train-{number}" for number in range(5)]
    tasks = [task(name, is_done=lambda name=name: looked(name)) for name in names]
    executor = Scripted({"train-0": [KILLED]}, slots=1)
    walk(Workspace(tmp_path, "toy"), tasks, executor)
    assert looks == dict.fromkeys(names, 1)
    assert sorted(executor.started) == sorted([*names, "train-0"])


def test_each_task_is_run_once_after_what_it_needs(tmp_path: Path) -> None:
    executor = Scripted()
    progress = walk(Workspace(tmp_path, "toy"), diamond(executor), executor)
    assert sorted(executor.started) == ["after-left", "after-right", "all", "left", "plan", "right"]
    assert set(progress.states.values()) == {"done"} and executor.most == 2 and not executor.stops
    assert counts(progress.states) == "6 done"


def test_no_more_runs_than_there_is_room_for(tmp_path: Path) -> None:
    executor = Scripted(slots=1)
    walk(Workspace(tmp_path, "toy"), diamond(executor), executor)
    assert executor.most == 1 and len(executor.started) == 6


def test_a_failure_stops_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    executor = Scripted({"left": [1]})
    reports: list[dict[str, str]] = []
    with pytest.raises(TasksFailed) as failed:
        walk(
            Workspace(tmp_path, "toy"),
            diamond(executor),
            executor,
            lambda progress: reports.append(dict(progress.states)),
        )
    assert executor.started.count("left") == 1 and "after-right" in executor.done
    assert not {"after-left", "all"} & set(executor.started)
    message = str(failed.value)
    assert message.startswith("1 task failed; everything else is done. Not begun, as they need them: after-left, all.")
    assert "left ended with" in message and failed.value.exit_code == 1
    assert reports[-1] == {
        "plan": "done",
        "left": "failed",
        "right": "done",
        "after-left": "blocked",
        "after-right": "done",
        "all": "blocked",
    }


@pytest.mark.parametrize(
    ("codes", "runs", "succeeds"),
    [
        ([COME_BACK, KILLED, 0], 3, True),
        ([128 + signal.SIGTERM, 0], 2, True),
        ([KILLED] * MOST_ATTEMPTS, MOST_ATTEMPTS, False),
        ([COME_BACK] * MOST_ATTEMPTS, MOST_ATTEMPTS, False),
        ([1, 0], 1, False),
        ([3, 0], 1, False),
        ([128, 0], 1, False),
    ],
)
def test_what_was_killed_or_is_to_come_back_is_run_again_a_few_times(
    tmp_path: Path, codes: list[int], runs: int, succeeds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Scripted({"train": list(codes)})
    tasks = [task("train"), task("other"), task("select", "train", "other")]
    if succeeds:
        walk(Workspace(tmp_path, "toy"), tasks, executor)
        assert "select" in executor.done
    else:
        with pytest.raises(TasksFailed):
            walk(Workspace(tmp_path, "toy"), tasks, executor)
        assert "select" not in executor.started
    assert executor.started.count("train") == runs and executor.started.count("other") == 1
    assert capsys.readouterr().err.count("it goes on from where it was") == runs - 1


def test_what_is_done_already_is_not_run_and_a_changed_need_counts(tmp_path: Path) -> None:
    executor = Scripted()
    executor.done |= {"plan", "kept"}
    tasks = [
        task("plan", is_done=lambda: True),
        task("preprocess", "plan", is_done=lambda: "preprocess" in executor.done),
        # Done as it stands on disk, but of what is made anew: what it needs comes first, then it is asked again.
        task("train", "preprocess", is_done=lambda: "preprocess" not in executor.done),
        task("kept", "preprocess", is_done=lambda: True),
        task("select", "train", "kept"),
    ]
    progress = walk(Workspace(tmp_path, "toy"), tasks, executor)
    assert executor.started == ["preprocess", "train", "select"]
    assert set(progress.states.values()) == {"done"}


def test_nothing_left_to_do_starts_nothing(tmp_path: Path) -> None:
    executor = Scripted()
    progress = walk(Workspace(tmp_path, "toy"), [task("plan", is_done=lambda: True)], executor)
    assert executor.started == [] and progress.states == {"plan": "done"}


def test_a_signal_asks_what_runs_to_end_waits_for_it_and_starts_no_more(tmp_path: Path) -> None:
    def interrupt(executor: Scripted) -> None:
        if executor.running == ["left", "right"] and not executor.stops:
            os.kill(os.getpid(), signal.SIGTERM)

    executor = Scripted(lasting=["left", "right"], on_look=interrupt)
    last: list[Walk] = []
    with pytest.raises(Interrupted) as interrupted:
        walk(Workspace(tmp_path, "toy"), diamond(executor), executor, last.append)
    assert interrupted.value.number == signal.SIGTERM
    assert executor.stops == [False] and executor.running == [], "it has waited for both"
    assert executor.started == ["plan", "left", "right"]
    assert counts(last[-1].states) == "1 done, 2 unfinished, 3 waiting"


def test_a_second_signal_kills_what_runs(tmp_path: Path) -> None:
    def interrupt(executor: Scripted) -> None:
        if executor.running:
            os.kill(os.getpid(), signal.SIGINT)

    class Stubborn(Scripted):
        def stop(self, at_once: bool) -> None:
            self.stops.append(at_once)

    executor = Stubborn(lasting=["plan"], on_look=interrupt)
    with pytest.raises(Interrupted):
        walk(Workspace(tmp_path, "toy"), diamond(executor), executor)
    assert executor.stops == [False, True]


def test_what_runs_is_ended_when_a_task_cannot_be_started(tmp_path: Path) -> None:
    class Broken(Scripted):
        def start(self, task: Task) -> None:
            if task.name == "right":
                raise OSError("no more processes")
            super().start(task)

    executor = Broken(lasting=["left"])
    with pytest.raises(OSError, match="no more processes"):
        walk(Workspace(tmp_path, "toy"), diamond(executor), executor)
    assert executor.stops == [False] and not [name for name in executor.running if name == "left"]


def test_the_report_sees_every_state_a_task_comes_through(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {"train": [], "select": []}

    def note(progress: Walk) -> None:
        for name, states in seen.items():
            if not states or states[-1] != progress.states[name]:
                states.append(progress.states[name])

    executor = Scripted({"train": [COME_BACK, 0]}, slots=1)
    tasks = [task("other"), task("train"), task("select", "train")]
    walk(Workspace(tmp_path, "toy"), tasks, executor, note)
    assert seen["train"] == ["waiting", "running", "done"], "run again at once"
    assert seen["select"] == ["waiting", "running", "done"]
