"""What a person sees of a long chain: a live list of its steps on a terminal, plain lines elsewhere; on stderr."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nnunet_box.progress import say

REFRESHES_A_SECOND = 4
SIGNS = {"waiting": "·", "running": "▸", "done": "✓", "skipped": "-", "failed": "✗"}
STYLES = {"waiting": "dim", "running": "bold", "done": "green", "skipped": "yellow", "failed": "red"}


@dataclass
class Step:
    """One step: its name, the seconds it is expected to take, and what became of it."""

    name: str
    expected_seconds: float
    state: str = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    detail: str = ""

    def left(self, now: float) -> float:
        """Seconds still to go, by expectation; a step that overruns has none left."""
        if self.state == "waiting":
            return self.expected_seconds
        return max(0.0, self.expected_seconds - (now - self.started)) if self.state == "running" else 0.0


class Listener(io.TextIOBase):
    """Stands in for stderr while the live list is shown: hands each line on; no terminal, so nothing animates."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear, self._rest = hear, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._hear(line.strip())
        return len(text)

    def writable(self) -> bool:
        return True


class ChainDisplay:
    """The steps of a chain as they go. Use it as a context manager, and each step with ``step``.

    On a terminal, what the rooms say meanwhile becomes the line beside the running step, and goes whole into ``log``.
    """

    def __init__(self, steps: Sequence[Step], log: Path) -> None:
        self.steps, self._log = list(steps), log
        self._live: Any = None
        self._file: TextIO | None = None
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> ChainDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._exits.enter_context(self._log.open("a", encoding="utf-8"))
            console = Console(file=sys.stderr)
            self._live = Live(
                console=console,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_A_SECOND,
                redirect_stderr=False,
                redirect_stdout=False,
            )
            self._exits.enter_context(self._live)
            self._exits.enter_context(contextlib.redirect_stderr(Listener(self._hear)))
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Mark a step as running, then as done; as skipped where the block set its state so, failed on an error."""
        number, step = next((index, step) for index, step in enumerate(self.steps, start=1) if step.name == name)
        step.state, step.started = "running", time.monotonic()
        if self._live is None:
            say(f"[{number}/{len(self.steps)}] {name}, {_clock(self.seconds_left())} left in all")
        try:
            yield step
        except BaseException:
            step.state = "failed"
            raise
        finally:
            step.seconds = time.monotonic() - step.started
        if step.state == "running":
            step.state = "done"
        if self._live is None and step.detail:
            say(step.detail)

    def seconds_left(self) -> float:
        """For the whole chain, by expectation."""
        now = time.monotonic()
        return sum(step.left(now) for step in self.steps)

    def _hear(self, line: str) -> None:
        if self._file is not None:
            print(line, file=self._file, flush=True)
        for step in self.steps:
            if step.state == "running":
                step.detail = line

    def _render(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True)
        now = time.monotonic()
        for step in self.steps:
            running = step.state == "running"
            seconds = now - step.started if running else step.seconds
            clock = "" if step.state == "waiting" else _clock(seconds)
            # Text, not markup: what a room or a build says may hold square brackets.
            table.add_row(
                Text(SIGNS[step.state], style=STYLES[step.state]),
                Text(step.name, style=STYLES[step.state]),
                clock,
                Text(step.detail, style="" if running else "dim"),
            )
        left = self.seconds_left()
        table.add_row("", Text("left, about", style="dim"), Text(_clock(left), style="dim"), "")
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
