"""``compare.py`` as ``make benchmark`` runs it, on rows of a made-up theme."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from side import Side, SideFailed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS = """
from row import Row, at_least_equal
ROWS = {
    "turns": Row("turns", 0.001, at_least_equal(1.0)),
    "breaks": Row("breaks", 1),
    "hangs": Row("hangs", against=None, most_seconds=1, limit_seconds=1.5),
    "differs": Row("differs", 1000, at_least_equal(1.0)),
    "alone": Row("alone", against=None, most_seconds=100, warm_up=False, turns=1),
    "idles": Row("idles", 0.5, against="bound"),
    "within": Row("within", 0.5, against="bound", times=3),
    "long": Row("long", against=None, most_seconds=100, long=True),
    "data": Row("data", against=None, most_seconds=100, data=True),
}
"""
SIDE = """
import os, sys, time, subprocess
from pathlib import Path
import measuring
import numpy as np
ME = Path(__file__).stem
def turns():
    calls = []
    def work():
        calls.append(1)
        print("a library prints")
        with Path(os.environ["TOY_LOG"]).open("a") as log:
            log.write(f"{ME}{len(calls)} ")
        return np.arange(4)
    return work
def breaks():
    raise RuntimeError("no such kernel")
def hangs():
    time.sleep(600)
def differs():
    return lambda: np.full(4, ME == "ours")
def alone():
    with Path(os.environ["TOY_LOG"]).with_name("alone").open("a") as log:
        return lambda: Path(os.environ["TOY_LOG"]).with_name("alone").write_text("run")
def within():
    return lambda: measuring.Taken(seconds=6.0 if ME == "ours" else 2.0, facts={"share": "a third"})
def idles():
    return lambda: measuring.Taken(seconds=1e-4 if ME == "ours" else 2.0)
def data():
    return lambda: measuring.Taken(facts={"folder": os.environ[measuring.DATA_VARIABLE]})
ROWS = {f.__name__: f for f in (turns, breaks, hangs, differs, alone, idles, within, data)}
measuring.run_row(ROWS)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The harness with one theme of its own and a document to write into."""
    folder = tmp_path_factory.mktemp("house")
    theme = folder / "benchmarks" / "toy_theme"
    theme.mkdir(parents=True)
    for module in BENCHMARKS.glob("*.py"):
        shutil.copy(module, theme.parent)
    (theme / "rows.py").write_text(ROWS)
    for module in ("ours", "peer", "bound"):
        (theme / f"{module}.py").write_text(SIDE)
    (folder / "docs").mkdir()
    shutil.copy(BENCHMARKS.parent / "docs" / "performance.md", folder / "docs")
    return folder


def run(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(house / "benchmarks" / "compare.py"), "--peer-python", sys.executable, "--write"]
    environment = os.environ | {"TOY_LOG": str(house / "log")}
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def all_rows(house: Path) -> subprocess.CompletedProcess[str]:
    return run(house, "--turns", "2")


def kept(house: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((house / "benchmarks" / "results.json").read_text())["rows"]
    return found


def test_sides_take_turns_after_a_warm_up_each(house: Path, all_rows: subprocess.CompletedProcess[str]) -> None:
    assert (house / "log").read_text().split() == ["ours1", "peer1", "ours2", "peer2", "ours3", "peer3"]
    turns = kept(house)["turns"]
    assert turns["agreement"] == {"text": "100.0000 % of voxels equal", "met": True, "target": None}


def test_a_failing_row_does_not_lose_the_others(house: Path, all_rows: subprocess.CompletedProcess[str]) -> None:
    assert all_rows.returncode == 1
    rows = kept(house)
    assert set(rows) == {"turns", "breaks", "hangs", "differs", "alone", "idles", "within"}
    assert "no such kernel" in str(rows["breaks"]["failed"]) and "seconds" not in rows["breaks"]
    assert "work was left out" in str(rows["idles"]["failed"])
    assert "breaks: FAILED" in all_rows.stderr and "hangs: FAILED" in all_rows.stderr
    assert rows["within"]["ratio"] == 1 and rows["within"]["facts"] == {"share": "a third"}
    assert "data: left out" in all_rows.stderr


def test_a_side_that_hangs_fails_alone(house: Path, all_rows: subprocess.CompletedProcess[str]) -> None:
    assert "took too long" in str(kept(house)["hangs"]["failed"])


PARENT = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1]).with_suffix(".half").write_text(str(child.pid))
Path(sys.argv[1]).with_suffix(".half").rename(sys.argv[1])
time.sleep(600)
"""


def test_a_side_that_took_too_long_is_stopped_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    side = Side([sys.executable, "-c", PARENT, str(mark)], BENCHMARKS, tmp_path / "log", None, 600, {})
    try:
        while not mark.exists():
            assert side.process.poll() is None
            time.sleep(0.05)
        side.left = 0.0
        with pytest.raises(SideFailed, match="took too long"):
            side.until_ready()
    finally:
        side.close()
    child = Path("/proc") / mark.read_text() / "stat"
    # A killed process is gone as soon as the kernel comes to it; a spared one would sleep for ten minutes.
    for _ in range(1200):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the child still runs")


def test_table_is_written_and_written_again_the_same(house: Path, all_rows: subprocess.CompletedProcess[str]) -> None:
    document = house / "docs" / "performance.md"
    written = document.read_text()
    assert "## Submission images" in written and "| alone | " in written and "| long |" in written
    again = run(house, "--rows")
    assert again.returncode == 0, again.stderr
    assert document.read_text() == written


@pytest.mark.parametrize(("row", "code"), [("differs", 1), ("within", 0), ("alone", 0)])
def test_exit_code_is_of_results_not_of_speed(house: Path, row: str, code: int) -> None:
    done = run(house, "--rows", row, "--turns", "1")
    assert done.returncode == code, done.stderr
    assert ("RESULTS DIFFER" in done.stderr) == (row == "differs")
    assert ("target missed: 1000 times faster" in done.stderr) == (row == "differs")


def test_rows_of_real_data_get_their_folder(house: Path, tmp_path: Path) -> None:
    done = run(house, "--rows", "data", "--data", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert kept(house)["data"]["facts"] == {"folder": str(tmp_path)}


def test_every_row_has_both_its_sides() -> None:
    """The rows of the repository: what compare.py would start exists."""
    code = (
        "import compare, importlib.util\n"
        "for name, (theme, row) in compare.ROWS.items():\n"
        "    for module in ['ours'] + ([row.against] if row.against else []):\n"
        "        text = (compare.HERE / theme / f'{module}.py').read_text()\n"
        "        assert f'\"{name}\":' in text and 'run_row(' in text, (name, theme, module)\n"
        "print(len(compare.ROWS))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5


KEPT = """
import os, sys
from training import accuracy
from training.rows import dice_beside
os.environ |= {"NNBOX_BENCHMARK_WORK": sys.argv[1], "NNBOX_BENCHMARK_SHORTEN": "30"}
runs = []
def train():
    runs.append(1)
    return {"dice": 0.5 + len(runs) / 10, "cases": 3, "seconds": 20.0, "peak_bytes": 7, "updates": 2}
first, second = accuracy.once("ours", train), accuracy.once("ours", train)
assert len(runs) == 1 and list(second.result) == list(first.result) == [0.6, 3]
assert (second.seconds, second.peak_bytes, second.facts) == (20.0, 7, {"updates of ours": "2"})
os.environ["NNBOX_BENCHMARK_AGAIN"] = "1"
better = accuracy.once("ours", train)
assert len(runs) == 2 and better.result[0] == 0.7
assert dice_beside(better.result, first.result).met and not dice_beside(first.result, better.result).met
del os.environ["NNBOX_BENCHMARK_SHORTEN"], os.environ["NNBOX_BENCHMARK_AGAIN"]
accuracy.once("ours", train)
assert len(runs) == 3, "a run of 20 s does not stand for one of 10 minutes"
try:
    dice_beside(better.result, better.result + 1)
except ValueError as problem:
    print(problem)
"""


def test_a_finished_training_is_kept_and_not_run_again_unless_asked(tmp_path: Path) -> None:
    """Of the accuracy row; in a process of its own, since the suite has a package ``training`` too."""
    command = [sys.executable, "-c", KEPT, str(tmp_path)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cases" in done.stdout
