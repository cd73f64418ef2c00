"""Locks: the second waits and is told who has it; a dead holder is no obstacle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nnunet_box import locks
from nnunet_box.locks import held, holder

HOLD = """
import os, sys, time
from pathlib import Path
from nnunet_box.locks import held
if len(sys.argv) > 2:
    # A child that outlives its parent, as a worker process may.
    read, write = os.pipe()
with held(Path(sys.argv[1]), "the store"):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(file: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file), *more], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_holder_is_known_by_name(tmp_path: Path) -> None:
    file = tmp_path / "locks" / "x.lock"
    assert holder(file) is None
    with another_process(file) as process:
        found = holder(file)
        assert found is not None and found["pid"] == process.pid and found["what"] == "the store"
    assert holder(file) is None, "it died"
    with held(file, "mine"):
        assert holder(file) is None, "nobody else"


def test_the_second_waits_and_says_for_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOOK_EVERY_SECONDS", 0.02)
    file = tmp_path / "x.lock"
    with another_process(file) as process:
        killer = threading.Timer(0.5, lambda: os.kill(process.pid, signal.SIGKILL))
        killer.start()
        with held(file, "mine"):
            assert process.wait(10) == -signal.SIGKILL, "the lock came before the holder's end"
    err = capsys.readouterr().err
    assert f"Waiting for process {process.pid} on " in err and "it has the store" in err
    assert err.count("Waiting") == 1


def test_children_of_a_dead_holder_do_not_keep_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with another_process(file, "with a child") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        with held(file, "mine"):
            assert time.monotonic() - began < 30


def test_a_process_may_hold_a_lock_twice(tmp_path: Path) -> None:
    file = tmp_path / "x.lock"
    with held(file, "outer"):
        with held(file, "inner"):
            pass
        assert locks._held == {file.resolve(): 1}
        check = f"from pathlib import Path; from nnunet_box.locks import holder; print(holder(Path({str(file)!r})))"
        seen = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert "outer" in seen.stdout, "leaving the inner block gave the lock away"
    assert not locks._held


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", none)
    with held(tmp_path / "x.lock", "mine"):
        assert not locks._held
    assert "no locks" in capsys.readouterr().err
