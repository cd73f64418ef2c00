"""SIGKILL at some points of the first commands; ``kill_chain.py`` has a hundred over all of them."""

from __future__ import annotations

import pytest
from chain_stages import STAGES
from kill_chain import shares

KILLS = {"convert": 2, "plan": 1, "preprocess": 2, "train 2d": 2}
SEED = 7


@pytest.mark.slow
def test_killed_commands_end_with_the_same_files(calm_chain):
    results = calm_chain.chain.disturbed(calm_chain.calm, KILLS, SEED)
    assert {result.stage: result.kills for result in results} == KILLS
    for result in results:
        assert not result.problems, result.problems
        assert result.survived == result.kills
        assert result.lost_epochs <= 1


@pytest.mark.parametrize("kills", [1, 9, 100, 137])
def test_every_kill_is_of_a_stage(kills):
    assert sum(shares(kills).values()) == kills
    assert shares(100) == {stage.name: stage.kills for stage in STAGES}
