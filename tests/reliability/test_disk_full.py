"""The first commands on a disk that fills up, then with room; ``disk_chain.py`` has all of them, more often."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from disk_chain import NoMount, small_disk

COMMAND = Path(__file__).with_name("disk_chain.py")
FIRST = "convert,plan,preprocess,train 2d"


@pytest.mark.slow
def test_a_full_disk_is_told_and_with_room_the_same_command_ends_well(tmp_path):
    try:
        with small_disk(tmp_path / "disk"):
            pass
    except NoMount as problem:
        pytest.skip(f"no small file system can be mounted here: {problem}")
    done = subprocess.run(
        [sys.executable, COMMAND, "--shares", "0.4", "--stages", FIRST], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert [stage["stage"] for stage in told] == FIRST.split(",")
    assert all((stage["tried"], stage["full"], stage["wrong"]) == (1, 1, 0) for stage in told), told
