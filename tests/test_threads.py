"""Ranges of planes in threads."""

from __future__ import annotations

import threading

import pytest

from nnunet_box import cpus
from nnunet_box.cpus import in_threads


def ranges_of(planes: int, voxels: int) -> tuple[list[slice], set[int]]:
    """What ``in_threads`` asks for, and the threads it asks in."""
    ranges: list[slice] = []
    threads: set[int] = set()

    def work(part: slice) -> None:
        ranges.append(part)
        threads.add(threading.get_ident())

    in_threads(work, planes, voxels)
    return sorted(ranges, key=lambda part: int(part.start)), threads


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(("planes", "parts"), [(10, 4), (3, 3), (1, 1)])
def test_every_plane_is_in_one_range(planes: int, parts: int) -> None:
    ranges, _ = ranges_of(planes, 10_000_000)
    assert len(ranges) == parts
    assert [plane for part in ranges for plane in range(part.start, part.stop)] == list(range(planes))


def test_a_range_may_have_to_be_long() -> None:
    ranges: list[slice] = []
    in_threads(ranges.append, 100, 10_000_000, least=40)
    assert sorted(part.stop - part.start for part in ranges) == [50, 50]


def test_little_work_stays_in_the_calling_thread() -> None:
    assert ranges_of(10, 1000) == ([slice(0, 10)], {threading.get_ident()})


@pytest.mark.parametrize(("wanted", "parts"), [("1", 1), ("2", 2), ("64", 4), ("", 4), ("2,1", 4), ("0", 4)])
def test_the_environment_may_ask_for_fewer(wanted: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert len(ranges_of(100, 10_000_000)[0]) == parts


def test_an_error_of_any_range_comes_through() -> None:
    def work(part: slice) -> None:
        if part.start:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        in_threads(work, 100, 10_000_000)
