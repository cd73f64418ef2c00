"""The table of docs/performance.md: rows and their last figures as markdown, between two marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures import Figures, memory_text, results_differ, verdicts
from row import Row

BEGIN = "<!-- benchmark table: written by benchmarks/compare.py, do not edit -->"
END = "<!-- end of the benchmark table -->"
HEADS = ("Work", "Ours", "Other side", "Ratio", "Target", "Met", "Memory, ours / other", "Results", "Command", "Run")


def table_text(rows: Mapping[str, Row], kept: Mapping[str, Any]) -> str:
    """Every row with its last figures, why targets are missed, and the runs that the figures are of.

    kept: what ``compare.py`` writes as JSON: ``rows`` (name to figures) and ``runs`` (their date, machine, versions).
    """
    runs = sorted(kept["runs"])
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    for name, row in rows.items():
        lines.append("| " + " | ".join(_cells(name, row, kept["rows"].get(name, {}), runs)) + " |")
    missed = [
        f"- {rows[name].title} ({', '.join(targets)}): {rows[name].why or 'not explained yet'}"
        for name, found in _in_order(rows, kept)
        if (targets := _missed(rows[name], found))
    ]
    failed = [f"- {rows[name].title}: {found['failed']}" for name, found in _in_order(rows, kept) if "failed" in found]
    if missed:
        lines += ["", "Why a target is missed, and the limit measured:", "", *missed]
    if failed:
        lines += ["", "Failed in their last run, with the figures of the one before:", "", *failed]
    lines += ["", "Seconds are medians of turns that both sides took one after the other.", ""]
    return "\n".join(lines + [f"- Run {number}: {_run_text(kept['runs'][run])}" for number, run in enumerate(runs, 1)])


def write_between_marks(document: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Put the text between the document's two marks; what stands around them stays.

    Raises SystemExit where the marks are not there once each, in order.
    """
    before, found_begin, rest = document.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in before + after:
        raise SystemExit(f"{document}: expected the lines\n{begin}\n{end}\nonce each, in this order")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _in_order(rows: Mapping[str, Row], kept: Mapping[str, Any]) -> list[tuple[str, Figures]]:
    return [(name, kept["rows"][name]) for name in rows if name in kept["rows"]]


def _missed(row: Row, figures: Figures) -> list[str]:
    return [target for target, met in verdicts(row, figures).items() if not met] if "seconds" in figures else []


def _cells(name: str, row: Row, figures: Figures, runs: list[str]) -> list[str]:
    command = f"`make benchmark ROWS={name}{' DATA=...' if row.data else ''}`"
    if "seconds" not in figures:
        return [row.title, *[""] * 3, "", "failed" if "failed" in figures else "not run yet", "", "", command, ""]
    found = verdicts(row, figures)
    agreement = figures.get("agreement")
    words = "**no: results differ**" if results_differ(figures) else "yes" if all(found.values()) else "**no**"
    other = "other_seconds" in figures
    facts = [f"{fact}: {text}" for fact, text in figures["facts"].items()]
    memory = [memory_text(figures["bytes"], row)] + ([memory_text(figures["other_bytes"], row)] if other else [])
    return [
        row.title,
        _seconds(figures["seconds"]),
        _seconds(figures["other_seconds"]) if other else "",
        f"{figures['ratio']:.2f}" if other else "",
        ", ".join(found),
        words if found or agreement else "",
        " / ".join(memory),
        "; ".join(([agreement["text"]] if agreement else []) + facts),
        command,
        str(runs.index(figures["run"]) + 1),
    ]


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 100 else f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _run_text(run: Mapping[str, Any]) -> str:
    versions = [
        f"{side}: " + ", ".join(f"{name} {version}" for name, version in run[side].items())
        for side in ("ours", "peer")
        if run.get(side)
    ]
    return "; ".join([run["date"], run["machine"], *versions, f"commit {run['commit']}", f"{run['turns']} turns"])
