"""A graph while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nnunet_box.execution.graph import Task
from nnunet_box.execution.records import State
from nnunet_box.execution.schedule import Walk, counts
from nnunet_box.execution.timeleft import how_far, seconds_left
from nnunet_box.progress import duration_text, say
from nnunet_box.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

LINE_EVERY_SECONDS = 60.0
DRAW_EVERY_SECONDS = 1.0
STYLES: dict[State, str] = {
    "done": "green",
    "running": "bold cyan",
    "submitted": "cyan",
    "unfinished": "yellow",
    "failed": "bold red",
    "blocked": "red",
    "waiting": "dim",
}


@contextmanager
def shown(workspace: Workspace, at_once: int) -> Iterator[Callable[[Walk], None]]:
    """Yield what ``schedule.walk`` reports to. at_once: trainings beside each other, for the time left."""
    if sys.stderr.isatty():
        yield from _live(workspace, at_once)
    else:
        yield _lines(workspace, at_once)


def _live(workspace: Workspace, at_once: int) -> Iterator[Callable[[Walk], None]]:
    from rich.console import Console
    from rich.live import Live

    drawn = 0.0
    with Live(console=Console(stderr=True), auto_refresh=False, transient=False) as live:

        def report(progress: Walk) -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= DRAW_EVERY_SECONDS:
                drawn = time.monotonic()
                live.update(task_table(workspace, progress, at_once), refresh=True)

        yield report


def _lines(workspace: Workspace, at_once: int) -> Callable[[Walk], None]:
    known: dict[str, State] = {}
    spoken = time.monotonic()

    def report(progress: Walk) -> None:
        nonlocal spoken
        for task in progress.tasks:
            state = progress.states[task.name]
            if state != known.get(task.name) and (state != "waiting" or task.name in known):
                say(f"{task.name}: {state}")
            known[task.name] = state
        if time.monotonic() - spoken >= LINE_EVERY_SECONDS:
            spoken = time.monotonic()
            say(f"{counts(progress.states)}{_together(workspace, progress, at_once)}")

    return report


def _together(workspace: Workspace, progress: Walk, at_once: int) -> str:
    _, left = seconds_left(workspace, progress.tasks, progress.states, at_once)
    return "" if left is None else f"; trainings take at most {duration_text(left)} more"


def task_table(workspace: Workspace, progress: Walk, at_once: int = 1) -> Table:
    """Every task with its state, how far it is and the time left."""
    from rich.table import Table

    each, _ = seconds_left(workspace, progress.tasks, progress.states, at_once)
    table = Table(
        "task", "state", "epoch", "loss", "Dice", "time left", title=counts(progress.states), caption_justify="left"
    )
    together = _together(workspace, progress, at_once)
    table.caption = together.removeprefix("; ") or None
    for task in progress.tasks:
        state = progress.states[task.name]
        left = each.get(task.name)
        told = "" if left is None or state in ("failed", "blocked") else duration_text(left)
        table.add_row(task.name, f"[{STYLES[state]}]{state}[/]", *_training(workspace, task), told)
    return table


def _training(workspace: Workspace, task: Task) -> tuple[str, str, str]:
    """Epochs, and loss and Dice of the last one, as far as they are known."""
    if task.settings is None:
        return "", "", ""
    far = how_far(workspace.fold(task.settings.model, task.settings.fold), task.settings)
    if not far.epochs:
        return "", "", ""
    epochs = f"{far.epochs} of {far.most}" if far.most is not None else f"{far.epochs}"
    loss, dice = ("" if value is None else f"{value:.3f}" for value in (far.loss, far.dice))
    return epochs, loss, dice
