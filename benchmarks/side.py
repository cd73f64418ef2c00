"""One side of a row: a process that takes its turn when told to (``measuring.run_row``)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring import READY

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
LAST_CHARACTERS = 2000
SECONDS_TO_END = 60


class SideFailed(Exception):
    """A side ended with an error, or was stopped because it took too long."""


class Side:
    """A started side. ``close`` stops it and what it started, whatever state it is in.

    limit_seconds: for its preparation and all of its turns together, without the time it waits for the other side.
    """

    def __init__(
        self,
        command: list[str],
        modules: Path,
        log: Path,
        threads: int | None,
        limit_seconds: float,
        variables: Mapping[str, str],
    ) -> None:
        environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(modules), os.getenv("PYTHONPATH", "")])}
        if threads is not None:
            environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment |= variables
        self.name, self.log, self.left = f"{command[2]} {command[3]}", log, limit_seconds
        self.answer = ""
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def until_ready(self) -> None:
        """Wait until its inputs are made and a first turn, which does not count, is taken."""
        self._listen()
        if self.answer != READY:
            raise SideFailed(f"{self.name} expected to say {READY}, said {self.answer[:100]!r}")

    def turn(self) -> None:
        """Let it take one turn."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._listen()

    def figures(self) -> dict[str, Any]:
        """What it measured, after its last turn."""
        try:
            found: dict[str, Any] = json.loads(self.answer)
        except ValueError:
            raise SideFailed(f"{self.name} ended with {self.answer[:100]!r} instead of its figures") from None
        try:
            code = self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            raise SideFailed(f"{self.name} did not end after its last turn") from None
        if code:
            raise SideFailed(self._last_words())
        return found

    def close(self) -> None:
        """Stop the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def _listen(self) -> None:
        """Its next line; a side says one and waits, so nothing lies behind it in the buffer."""
        started = time.monotonic()
        output = self.process.stdout
        assert output is not None
        if not select.select([output], [], [], max(0.0, self.left))[0]:
            raise SideFailed(f"{self.name} took too long and was stopped")
        self.left -= time.monotonic() - started
        self.answer = output.readline().strip()
        if not self.answer:
            self.process.wait(SECONDS_TO_END)
            raise SideFailed(self._last_words())

    def _last_words(self) -> str:
        said = self.log.read_text(errors="replace")[-LAST_CHARACTERS:]
        return f"{self.name} ended with {self.process.returncode}: {said}"
