"""``nnbox`` as a function and as a process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TINY = ["--epochs", "2", "--batches-per-epoch", "2", "--folds", "0,1", "--workers", "0", "--device", "cpu"]
"""Enough to run every step of training; far from enough to learn."""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def nnbox(*arguments: str | Path) -> Ended:
    """Run ``nnbox`` in this process, as its entry point does."""
    from nnunet_box.cli import app as application

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["nnbox", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            application.main()
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0)
    finally:
        sys.argv = before
    return Ended(code, out.getvalue(), err.getvalue())


def start_nnbox(*arguments: str | Path, folder: Path, prepare: Callable[[], None] | None = None) -> subprocess.Popen:
    """Start ``nnbox`` as a process of its own, in its own group, so that it can be killed with its workers."""
    program = "from nnunet_box.cli.app import main; main()"

    def before() -> None:
        # A test run in the background of a shell inherits an ignored SIGINT, and hands it on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if prepare is not None:
            prepare()

    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=before,
        # Where the system refuses writes, as in the full disk's test, coverage's own file would fail, and loudly.
        env={
            **{name: value for name, value in os.environ.items() if prepare is None or "COV" not in name},
            "OMP_NUM_THREADS": "1",
        },
    )
