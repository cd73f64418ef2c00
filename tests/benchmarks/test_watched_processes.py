"""``preparation/watch.py`` sees the memory of a command's workers."""

from __future__ import annotations

import sys

import pytest
from preparation.watch import watch

MEGABYTES = 150
WORKER = f"import time; block = bytearray({MEGABYTES} * 10**6); time.sleep(1); print('done')"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKER!r}])"


def test_the_largest_process_may_be_a_worker_of_a_worker() -> None:
    grandparent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PARENT!r}])"
    found = watch([sys.executable, "-c", grandparent])
    assert found.output == "done\n"
    assert found.processes == 3
    assert MEGABYTES * 10**6 < found.largest_bytes < 2 * MEGABYTES * 10**6
    assert found.together_bytes > MEGABYTES * 10**6
    assert found.seconds > 1


def test_a_command_that_fails_is_no_figure() -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"])
