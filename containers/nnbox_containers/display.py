"""What a person sees of a build: a live bar on a terminal, one line a step elsewhere; always on stderr."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from nnunet_box.progress import LINE_EVERY_SECONDS, say

_STEP = re.compile(r"Step (?P<number>\d+)/(?P<total>\d+) : (?P<instruction>.*)")
SHOWN_CHARACTERS = 70


class BuildDisplay:
    """Listener of a build's lines; use it as a context manager."""

    def __init__(self, what: str) -> None:
        self._what, self._spoken = what, time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> BuildDisplay:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            # Output of a build may hold brackets; as markup they would vanish or fail.
            text = TextColumn("{task.description}", markup=False)
            columns = (BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn(), text)
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._what, total=None)
        else:
            say(self._what)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, line: str) -> None:
        step = _STEP.match(line)
        if self._progress is not None:
            shown = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"
            if step:
                self._progress.update(self._task, completed=int(step["number"]) - 1, total=int(step["total"]))
            self._progress.update(self._task, description=shown)
            return
        now = time.monotonic()
        if step or now - self._spoken >= LINE_EVERY_SECONDS:
            self._spoken = now
            say(line if len(line) <= 2 * SHOWN_CHARACTERS else f"{line[: 2 * SHOWN_CHARACTERS]}…")
