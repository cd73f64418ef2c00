"""Write the tables of docs/scale.md from what is known of the data sets and what was measured.

PYTHONPATH=benchmarks python -m scale [--details]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scale.text import BEGIN, END, Line, details, lines_of, tables
from table import write_between_marks
from training_gpu.ours import PLAN

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "scale.md"


def kept(name: str) -> dict[str, Any]:
    """A JSON file of this folder."""
    facts: dict[str, Any] = json.loads((HERE / name).read_text(encoding="utf-8"))
    return facts


def lines() -> list[Line]:
    """What the files kept here come to."""
    return lines_of(kept("datasets.json"), kept("measured.json"), PLAN)


def main() -> None:
    """Write, or print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--details", action="store_true", help="Print a line a model; nothing is written.")
    given = parser.parse_args()
    found = lines()
    if given.details:
        print(details(found))
    else:
        write_between_marks(DOCUMENT, tables(found), BEGIN, END)


if __name__ == "__main__":
    main()
