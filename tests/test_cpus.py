"""Threads follow what a container was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_box.cpus import usable_threads

CORES = 16


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(CORES)), raising=False)


def threads(folder: Path, files: dict[str, str], own: str = "0::/\n") -> int:
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(own)
    return usable_threads(folder / "groups", folder / "own")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, CORES),
        ({"cpu.max": "max 100000\n"}, CORES),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, CORES),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 4),
        ({"pids.max": "max\n"}, CORES),
        ({"pids.max": "10\n"}, 5),
        ({"pids/pids.max": "8\n", "cpu.max": "600000 100000\n"}, 4),
        ({"pids.max": "1\n"}, 1),
        ({"cpu.max": "nonsense\n"}, CORES),
    ],
)
def test_quota_and_limit_on_processes_count(tmp_path, files, expected):
    assert threads(tmp_path, files) == expected


def test_the_own_group_is_asked_where_the_root_says_nothing(tmp_path):
    assert threads(tmp_path, {"jobs/one/cpu.max": "100000 100000\n"}, "0::/jobs/one\n") == 1
    quota = {"cpu/docker/a/cpu.cfs_quota_us": "200000\n", "cpu/docker/a/cpu.cfs_period_us": "100000\n"}
    assert threads(tmp_path / "first", quota, "4:cpu:/docker/a\n3:memory:/x\n") == 2


def test_cores_it_may_not_run_on_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3}, raising=False)
    assert threads(tmp_path, {}) == 1
    assert usable_threads(tmp_path / "absent", tmp_path / "absent") == 1
