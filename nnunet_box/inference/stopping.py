"""Ending on SIGTERM and SIGINT within seconds, whatever the program is doing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nnunet_box.temporary import sweep_temporaries

GRACE_SECONDS = 2.0
"""An organiser kills five seconds after SIGTERM (grand-challenge.org's shim); a busy machine needs some of them."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal asked the program to end. Not an ``Exception``: nothing that handles errors may swallow it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}; finished cases are whole")


@contextmanager
def stop_on_signals(outputs: Sequence[Path], grace: float = GRACE_SECONDS) -> Iterator[None]:
    """Within the block SIGTERM and SIGINT raise ``SystemExit`` with 143 and 130 in the main thread, after one line to
    stderr.

    Python runs a handler only between two of its instructions, and a network may compute for longer than an organiser
    waits. So the signal also wakes a thread which, ``grace`` seconds later, deletes what is half-written below
    ``outputs`` and ends the process. Having handlers at all is what makes a container's first process heed signals.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received: int | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    def watch() -> None:
        number = next(iter(os.read(reader, 1)), 0)
        if number in SIGNALS:
            time.sleep(grace)
            os.write(2, f"nnbox: {Stopped(number)}\n".encode())
            for output in outputs:
                sweep_temporaries(output)
            os._exit(128 + number)

    handlers = {number: signal.signal(number, stop) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="nnbox-stop", daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        # A library that is just being imported turns what the handler raised into an error of its own.
        if received is None:
            raise
        stopped = Stopped(received)
        print(f"nnbox: {stopped}", file=sys.stderr, flush=True)
        # The main thread has tidied up behind itself; a server's threads have not.
        for output in outputs:
            sweep_temporaries(output)
        raise SystemExit(stopped.exit_code) from None
    finally:
        # Once a signal came the watcher stays: where Python hangs on its way out, it still ends the process.
        if received is None:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.write(writer, b"\0")
            watcher.join()
            os.close(reader)
            os.close(writer)
