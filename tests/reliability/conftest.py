"""The first commands of the chain, run undisturbed, on a disk that can be filled where one may be mounted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from chain_stages import STAGES
from disk_chain import NoMount, small_disk
from kill_chain import Calm, Chain

FIRST = ("convert", "plan", "preprocess", "train 2d")
"""Short enough for every run of the suite; kill_chain.py and disk_chain.py take them all."""


@dataclass(frozen=True)
class CalmChain:
    """no_disk: why its disk cannot be filled; None where it can."""

    chain: Chain
    calm: dict[str, Calm]
    no_disk: str | None


@pytest.fixture(scope="session")
def calm_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CalmChain]:
    folder = tmp_path_factory.mktemp("chain")
    stages = [stage for stage in STAGES if stage.name in FIRST]
    try:
        with small_disk(folder / "disk") as disk:
            chain = Chain(disk, stages, folder / "words.txt")
            yield CalmChain(chain, chain.calm(), None)
    except NoMount as problem:
        chain = Chain(folder, stages)
        yield CalmChain(chain, chain.calm(), str(problem))
