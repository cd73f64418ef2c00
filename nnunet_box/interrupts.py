"""Signals that ask a command to end, and when it does: at once, or after what it has just begun."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from nnunet_box.progress import say

BEFORE_A_LIMIT = signal.SIGUSR1
"""What a scheduler sends some time before it ends a job."""
COME_BACK = 75
"""Exit code of a command that ended for ``BEFORE_A_LIMIT`` and goes on when it is run again (EX_TEMPFAIL)."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, BEFORE_A_LIMIT)


_last: list[int] = []
"""The signal that came last: command line libraries let no more than "interrupted" through."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to end. number: which."""

    def __init__(self, number: int) -> None:
        self.number = number
        _last[:] = [number]
        super().__init__(f"stopped by {signal.Signals(number).name}")


def exit_code() -> int:
    """Of a command that a signal ended: 75 where it is to be run again, else 128 and the signal's number."""
    number = _last[0] if _last else signal.SIGINT
    return COME_BACK if number == BEFORE_A_LIMIT else 128 + number


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may have handlers.
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGINT, SIGTERM and SIGUSR1 raise ``Interrupted`` in the main thread, so that what is
    half-written goes. The same SIGTERM or SIGUSR1 again changes nothing: see ``patient``.
    """
    noted: list[int] = []
    _last.clear()

    def end(number: int, frame: FrameType | None) -> None:
        if not _is_echo(number, noted):
            noted.append(number)
            raise Interrupted(number)

    with _handled(end):
        yield


def _is_echo(number: int, noted: list[int]) -> bool:
    return number != signal.SIGINT and number in noted


@contextmanager
def _voice() -> Iterator[Callable[[str], None]]:
    """A function that a handler may call to tell a person something; when the block ends all of it is told.

    A handler runs in the middle of whatever the main thread does, the writing of another message included: a stream
    refuses to be written to within its own write, a display writes the first message twice. So a thread speaks.
    """
    messages: SimpleQueue[str | None] = SimpleQueue()  # Its ``put`` may interrupt itself.

    def speak() -> None:
        while (message := messages.get()) is not None:
            say(message)

    speaker = threading.Thread(target=speak, name="nnbox-signals", daemon=True)
    speaker.start()
    try:
        yield messages.put
    finally:
        messages.put(None)
        speaker.join()


@contextmanager
def patient(what: str) -> Iterator[Callable[[], None]]:
    """Within the block the first signal is only noted, and told of as ``what``; the function yielded raises
    ``Interrupted`` if there was one. A second signal raises it at once; but a person alone says the same thing twice
    and means more by it: what a scheduler sends to all processes of a job also arrives by way of their parents.

    ``what``: what is done before the end, such as "the checkpoint is written after this batch".
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if _is_echo(number, noted):
            return
        noted.append(number)
        if len(noted) > 1:
            raise Interrupted(number)
        tell(f"{signal.Signals(number).name}: {what}.")

    def check() -> None:
        if noted:
            raise Interrupted(noted[0])

    with _voice() as tell, _handled(note):
        yield check
