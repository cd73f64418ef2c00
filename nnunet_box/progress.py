"""Progress with time left, on stderr, for everything that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
LINE_EVERY_SECONDS = 15.0
LEAST_TOLD = 0.01
"""Before that share is done, the time left is anybody's guess."""


def duration_text(seconds: float) -> str:
    """``12:05`` for minutes and seconds, ``3:12:05`` from an hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield ``items``, showing ``what``, how many are done and the time left.

    A live bar on a terminal; elsewhere a plain line now and then, so that logs stay readable.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield from progress.track(items, total=total, description=what)
        return
    started = spoken = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - spoken >= LINE_EVERY_SECONDS:
            spoken = now
            left = f", {duration_text((now - started) / done * (total - done))} left" if total else ""
            say(f"{what}: {done}{f' of {total}' if total else ''}{left}")


@contextmanager
def bytes_done(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told (bytes done, bytes in all, about) and shows them with the time left, now and then.

    A live bar on a terminal, plain lines elsewhere.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=max(done, total))
        return
    started = spoken = time.monotonic()

    def listen(done: int, total: int) -> None:
        nonlocal spoken
        now = time.monotonic()
        if now - spoken >= LINE_EVERY_SECONDS and done > total * LEAST_TOLD:
            spoken = now
            left = (now - started) / done * max(0, total - done)
            say(f"{what}: {done / 1e6:.0f} of {total / 1e6:.0f} MB, {duration_text(left)} left")

    yield listen


def say(message: str) -> None:
    """One message to stderr."""
    print(message, file=sys.stderr, flush=True)
