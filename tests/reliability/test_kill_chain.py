"""SIGKILL at some points of the first commands; ``kill_chain.py`` has a hundred over all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chain_stages import STAGES
from kill_chain import shares

COMMAND = Path(__file__).with_name("kill_chain.py")
FIRST = "convert,plan,preprocess,train 2d"


@pytest.mark.slow
def test_killed_commands_end_with_the_same_files():
    done = subprocess.run(
        [sys.executable, COMMAND, "--kills", "8", "--seed", "7", "--stages", FIRST], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert (told["kills"], told["survived"]) == (8, 8)
    assert [stage["stage"] for stage in told["stages"]] == FIRST.split(",")
    assert all(stage["kills"] for stage in told["stages"])
    assert all(stage["lost_epochs"] <= 1 for stage in told["stages"])


@pytest.mark.parametrize("kills", [1, 9, 100, 137])
def test_every_kill_is_of_a_stage(kills):
    assert sum(shares(kills).values()) == kills
    assert shares(100) == {stage.name: stage.kills for stage in STAGES}
