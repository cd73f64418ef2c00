"""Ours beside nnunetv2, row by row, each side a process of its own, in turns.

    python benchmarks/compare.py --peer-python peer/bin/python [--rows export warp] [--turns 3] [--write] [--data DIR]

A row's figures: median seconds of both, their ratio (other / ours), memory, and how far the results agree. ``--write``
keeps them in benchmarks/results.json and in the table of docs/performance.md; rows not run keep their last figures.
``make benchmark`` makes both environments and runs this. A row that fails is reported and the others go on; the exit
code is 1 where one failed or where results agree less than their row demands. A missed speed is only named.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, agreement_of, beyond_its_bound, figures_of, results_differ, verdicts
from machine import OURS, PEER, commit, gpu_name, machine_text, versions
from measuring import AGAIN_VARIABLE, DATA_VARIABLE, PYTHON_VARIABLE, SHORTEN_VARIABLE, WORK_VARIABLE
from row import Row
from side import Side, SideFailed
from table import table_text, write_between_marks

HERE = Path(__file__).parent
ORDER = ("preparation", "resampling", "augmentation", "training", "prediction")
"""Of the themes in the table, as data walk; others come behind them."""
RESULTS = HERE / "results.json"
WORK = HERE.parent / "benchmark-work"
DOCUMENT = HERE.parent / "docs" / "performance.md"


def all_rows() -> dict[str, tuple[str, Row]]:
    """Theme and row of every row's name. A theme is a folder beside this file with a ``rows.py``."""
    themes = {file.parent.name for file in HERE.glob("*/rows.py")}
    found: dict[str, tuple[str, Row]] = {}
    for theme in [*(name for name in ORDER if name in themes), *sorted(themes - {*ORDER})]:
        found.update({name: (theme, row) for name, row in import_module(f"{theme}.rows").ROWS.items()})
    return found


ROWS = all_rows()


def compare(
    name: str, pythons: dict[str, str], turns: int, variables: dict[str, str], only: str | None = None
) -> Figures:
    """Both sides of a row, in turns. variables: added to the environment of both. only: one side, ``ours`` or
    ``other``; what it measured is returned as it is.

    Raises SideFailed where one ends with an error or takes longer than the row's limit.
    """
    theme, row = ROWS[name]
    turns = row.turns or turns
    modules = {"ours": "ours", "other": row.against} if row.against else {"ours": "ours"}
    modules = modules if only is None else {only: modules[only]}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides: dict[str, Side] = {}
        try:
            for side, module in modules.items():
                arguments = [name, str(folder / f"{side}.npy"), str(turns), *([] if row.warm_up else ["cold"])]
                command = [pythons["peer" if module == "peer" else "ours"], "-m", f"{theme}.{module}", *arguments]
                sides[side] = Side(command, HERE, folder / f"{side}.log", row.threads, row.limit_seconds, variables)
                sides[side].until_ready()
            for _ in range(turns):
                for each in sides.values():
                    each.turn()
            taken = {side: each.figures() for side, each in sides.items()}
        finally:
            for each in sides.values():
                each.close()
        if only is not None:
            return taken[only]
        figures = figures_of(row, taken)
        if problem := beyond_its_bound(row, figures):
            raise SideFailed(problem)
        results = [folder / "ours.npy", folder / "other.npy"]
        if row.agreement is not None:
            figures["agreement"] = agreement_of(row, *(np.load(result) for result in results))
    return figures


def keep(file: Path, run: str, about: dict[str, Any], name: str, figures: Figures) -> None:
    """Add a row's figures to the JSON file, which keeps the other rows' and the runs they are of.

    A failure stands beside the figures of the run before it.
    """
    kept = kept_figures(file)
    kept["rows"][name] = kept["rows"].get(name, {}) | figures if "failed" in figures else figures | {"run": run}
    kept["runs"][run] = about
    used = {found.get("run") for found in kept["rows"].values()}
    kept["runs"] = {key: value for key, value in kept["runs"].items() if key in used}
    file.write_text(json.dumps(kept, indent=1) + "\n")


def kept_figures(file: Path) -> dict[str, Any]:
    """``rows`` (name to figures) and ``runs`` (date, machine, versions) of the JSON file; empty where there is none."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": {}, "rows": {}}
    return found


def report(name: str, figures: Figures) -> bool:
    """Say on stdout what came out; whether the row ran and its results agree as it demands."""
    print(json.dumps({"row": name, **figures}), flush=True)
    if "failed" in figures:
        print(f"{name}: FAILED", file=sys.stderr)
        return False
    for target, met in verdicts(ROWS[name][1], figures).items():
        if not met:
            print(f"{name}: target missed: {target}", file=sys.stderr)
    if results_differ(figures):
        print(f"{name}: RESULTS DIFFER: {figures['agreement']['text']}", file=sys.stderr)
        return False
    return True


def chosen_rows(given: argparse.Namespace, gpu: str | None) -> list[str]:
    """Names of the rows to run; those that cannot run here are named and left out."""
    names = given.rows if given.rows is not None else [name for name in ROWS if ROWS[name][1].long == given.long]
    runs = []
    for name in names:
        row = ROWS[name][1]
        if row.data and given.data is None:
            print(f"{name}: left out, needs --data, a folder with Task04_Hippocampus", file=sys.stderr)
        elif row.gpu and gpu is None:
            print(f"{name}: left out, needs a GPU", file=sys.stderr)
        elif row.against == "peer" and given.peer_python is None:
            print(f"{name}: left out, needs --peer-python", file=sys.stderr)
        else:
            runs.append(name)
    return runs


def main() -> int:
    """Run the rows; 1 where one failed or its results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with nnunetv2 2.8.1.")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), help="Instead of all that are not long.")
    parser.add_argument("--long", action="store_true", help="The long rows instead of the others.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--data", type=Path, help="Folder with the Decathlon's Task04_Hippocampus, for rows of it.")
    parser.add_argument("--work", type=Path, default=WORK, help="Folder for what long rows keep between runs.")
    parser.add_argument("--again", action="store_true", help="Long rows do again what they have kept.")
    parser.add_argument("--side", choices=("ours", "other"), help="Only this side: a long row keeps what it did.")
    parser.add_argument("--shorten", type=float, default=1.0, help="To try a long row: its time divided by this.")
    parser.add_argument("--write", action="store_true", help="Keep the figures and write the table.")
    given = parser.parse_args()
    if given.write and (given.side or given.shorten != 1):
        parser.error("--side and --shorten give no figures to --write")
    gpu = gpu_name()
    pythons = {"ours": sys.executable} | ({"peer": given.peer_python} if given.peer_python else {})
    started = datetime.now(UTC)
    about = {
        "date": f"{started:%d %B %Y}",
        "machine": machine_text(gpu),
        "ours": versions(sys.executable, OURS),
        "peer": versions(given.peer_python, PEER) if given.peer_python else {},
        "commit": commit(HERE.parent),
        "turns": given.turns,
    }
    variables = {PYTHON_VARIABLE: sys.executable, WORK_VARIABLE: str(given.work.resolve())}
    variables |= {DATA_VARIABLE: str(given.data.resolve())} if given.data else {}
    variables |= {SHORTEN_VARIABLE: str(given.shorten)}
    variables |= {AGAIN_VARIABLE: "1"} if given.again else {}
    good = True
    for name in chosen_rows(given, gpu):
        print(f"{name}: {ROWS[name][1].title}", file=sys.stderr, flush=True)
        try:
            figures = compare(name, pythons, given.turns, variables, given.side)
        except Exception as problem:  # whatever it is, the other rows go on
            print(problem, file=sys.stderr)
            figures = {"failed": f"{type(problem).__name__}: {' '.join(str(problem).split())[-500:]}"}
        if given.side and "failed" not in figures:
            print(json.dumps({"row": name, given.side: figures}), flush=True)
            continue
        good &= report(name, figures)
        if given.write:
            keep(RESULTS, f"{started:%Y-%m-%dT%H:%M:%SZ}", about, name, figures)
    if given.write:
        rows = {name: row for name, (_, row) in ROWS.items()}
        write_between_marks(DOCUMENT, table_text(rows, kept_figures(RESULTS)))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
