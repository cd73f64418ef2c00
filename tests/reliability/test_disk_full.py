"""The first commands on a disk that fills up, then with room; ``disk_chain.py`` has all of them, more often."""

from __future__ import annotations

import pytest
from disk_chain import starve_all

SHARES = (0.4,)


@pytest.mark.slow
def test_a_full_disk_is_told_and_with_room_the_same_command_ends_well(calm_chain):
    if calm_chain.no_disk is not None:
        pytest.skip(f"no small file system can be mounted here: {calm_chain.no_disk}")
    results = list(starve_all(calm_chain.chain, calm_chain.calm, SHARES))
    assert [result.failed for result in results] == [True] * len(calm_chain.chain.stages), "each fills the disk"
    for result in results:
        assert not result.problems, (result.stage, result.free, result.problems)
