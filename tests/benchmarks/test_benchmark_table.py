"""Figures, verdicts and the table of docs/performance.md from given measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import agreement_of, beyond_its_bound, figures_of, results_differ, verdicts
from row import Agreement, Row, at_least_equal, differs_at_most
from table import BEGIN, END, table_text, write_between_marks


def side(*seconds: float, megabytes: int = 10, **facts: str) -> dict[str, Any]:
    memory = megabytes * 10**6
    return {"seconds": list(seconds), "additional_bytes": memory, "peak_bytes": memory + 10**9, "facts": facts}


def test_medians_and_ratio_of_the_other_side_over_ours() -> None:
    figures = figures_of(Row("work"), {"ours": side(1.0, 9.0, 2.0), "other": side(5.0, 6.0, 100.0, megabytes=70)})
    assert figures["seconds"] == 2 and figures["other_seconds"] == 6 and figures["ratio"] == 3
    assert figures["bytes"] == 10_000_000 and figures["other_bytes"] == 70_000_000


def test_a_bound_counts_so_many_times() -> None:
    row = Row("ten times the cases", 1 / 1.05, against="bound", times=10)
    figures = figures_of(row, {"ours": side(21.0), "other": side(2.0)})
    assert figures["other_seconds"] == 20 and verdicts(row, figures) == {"ratio 0.952": True}
    assert not all(verdicts(row, figures_of(row, {"ours": side(21.1), "other": side(2.0)})).values())


def test_work_that_takes_nothing_was_not_done() -> None:
    row = Row("batches beside the bare step", 0.95, against="bound")
    found = beyond_its_bound(row, figures_of(row, {"ours": side(0.0003), "other": side(8.2)}))
    assert found is not None and "work was left out" in found
    assert beyond_its_bound(row, figures_of(row, {"ours": side(8.0), "other": side(8.2)})) is None
    assert beyond_its_bound(Row("w", 5), figures_of(Row("w", 5), {"ours": side(0.1), "other": side(8.2)})) is None


def test_time_and_memory_targets_are_judged_each() -> None:
    row = Row("w", 5, most_bytes=10_000_000, memory_target=3, most_seconds=1.5)
    found = verdicts(row, figures_of(row, {"ours": side(2.0), "other": side(9.9, megabytes=31)}))
    assert found == {"5 times faster": False, "1.5 s": False, "+10 MB": True, "memory 3 times smaller": True}
    found = verdicts(row, figures_of(row, {"ours": side(1.0, megabytes=11), "other": side(5.0, megabytes=32)}))
    assert found == {"5 times faster": True, "1.5 s": True, "+10 MB": False, "memory 3 times smaller": False}


def test_peak_memory_counts_the_inputs() -> None:
    row = Row("w", against=None, memory="peak", most_bytes=1_009_999_999)
    assert verdicts(row, figures_of(row, {"ours": side(1.0)})) == {"1.01 GB": False}


def test_voxels_that_differ_are_counted_and_judged() -> None:
    ours, other = np.zeros(1000), np.zeros(1000)
    other[0] = 1
    row = Row("w", agreement=at_least_equal(0.999))
    assert agreement_of(row, ours, other) == {"text": "99.9000 % of voxels equal", "met": True, "target": None}
    other[1] = 1
    said = agreement_of(row, ours, other)
    assert said is not None and said["met"] is False and results_differ({"agreement": said})


def test_results_of_two_shapes_never_agree() -> None:
    said = at_least_equal(0.0)(np.zeros((1, 3)), np.zeros((3, 3)))
    assert isinstance(said, Agreement) and said.met is False


def test_differences_are_in_deviations_of_the_other_side() -> None:
    other = np.array([-2.0, 2.0])
    row = Row("w", agreement=differs_at_most(1e-3))
    said = agreement_of(row, other + np.array([0, 0.0019]), other)
    assert said is not None and said["met"] is True and "9.5e-04" in said["text"]
    said = agreement_of(row, other + np.array([0, 0.0021]), other)
    assert said is not None and said["met"] is False


def test_a_missed_score_is_a_missed_target_and_no_difference() -> None:
    row = Row("Dice", agreement=lambda ours, other: Agreement("0.8 and 0.9", bool(ours >= other), "Dice as good"))
    said = agreement_of(row, np.array(0.8), np.array(0.9))
    figures = figures_of(row, {"ours": side(1.0), "other": side(3.0)}) | {"agreement": said}
    assert verdicts(row, figures) == {"Dice as good": False} and not results_differ(figures)


RUN = {"date": "1 May 2026", "machine": "a processor", "ours": {"torch": "2.1"}, "commit": "abc", "turns": 3}
ROWS = {
    "fast": Row("fast work", 5, at_least_equal(0.9), why="not shown: it is met"),
    "slow": Row("slow work", 5, why="the memory's rate allows 3"),
    "silent": Row("silent work", against=None, most_seconds=1, data=True),
    "wrong": Row("wrong work", 1, at_least_equal(0.9)),
    "new": Row("new work", 2),
}


def kept() -> dict[str, Any]:
    fast, slow = {"ours": side(1.0), "other": side(6.0, megabytes=2000, limit="4 GB/s")}, {"ours": side(1.0)}
    equal, unequal = ({"text": f"{word} equal", "met": word == "all", "target": None} for word in ("all", "few"))
    return {
        "runs": {"2026-05-01": RUN, "2026-04-01": RUN | {"date": "1 April 2026"}},
        "rows": {
            "fast": figures_of(ROWS["fast"], fast) | {"run": "2026-05-01", "agreement": equal},
            "slow": figures_of(ROWS["slow"], slow | {"other": side(3.0)}) | {"run": "2026-04-01"},
            "silent": figures_of(ROWS["silent"], {"ours": side(2.0)}) | {"run": "2026-05-01", "failed": "no memory"},
            "wrong": figures_of(ROWS["wrong"], fast) | {"run": "2026-05-01", "agreement": unequal},
            "gone": {"seconds": 1.0, "run": "2026-05-01"},
        },
    }


def cells(text: str, title: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_has_a_line_a_row_with_figures_verdict_command_and_run() -> None:
    text = table_text(ROWS, kept())
    assert cells(text, "fast work") == [
        *("fast work", "1.00 s", "6.00 s", "6.00", "5 times faster", "yes", "+10 MB / +2.00 GB"),
        *("all equal; limit: 4 GB/s", "`make benchmark ROWS=fast`", "2"),
    ]
    assert cells(text, "slow work")[5] == "**no**" and cells(text, "slow work")[-1] == "1"
    assert cells(text, "silent work")[:6] == ["silent work", "2.00 s", "", "", "1 s", "**no**"]
    assert "DATA=" in cells(text, "silent work")[8]
    assert cells(text, "wrong work")[5] == "**no: results differ**"
    assert cells(text, "new work")[5] == "not run yet"
    assert "gone" not in text
    assert "Run 1: 1 April 2026" in text and "Run 2: 1 May 2026; a processor; ours: torch 2.1; commit abc" in text


def test_missed_targets_are_explained_and_failures_named_below() -> None:
    below = table_text(ROWS, kept()).rpartition("|\n")[2]
    assert "slow work (5 times faster): the memory's rate allows 3" in below
    assert "silent work (1 s): not explained yet" in below
    assert "silent work: no memory" in below
    assert "not shown" not in below


def test_writing_twice_is_writing_once_and_spares_the_rest(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    write_between_marks(document, "old")
    write_between_marks(document, "new")
    once = document.read_text()
    assert once.startswith(f"before\n{BEGIN}\n") and once.endswith(f"{END}\nafter\n")
    assert "new" in once and "old" not in once
    write_between_marks(document, "new")
    assert document.read_text() == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}", f"{BEGIN}{END}{END}"])
def test_a_document_without_its_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    document = tmp_path / "performance.md"
    document.write_text(text)
    with pytest.raises(SystemExit, match=r"performance\.md"):
        write_between_marks(document, "table")
    assert document.read_text() == text
