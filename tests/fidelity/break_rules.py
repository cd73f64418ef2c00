"""Break every rule of docs/fidelity.md once, in a copy, and see its test fail: ``make break-rules``.

Prints one line a break; exit code 1 where a test did not notice. ``break_rules.py WORDS`` tries only the rules
that begin with WORDS.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED = ("nnunet_box", "challenges", "containers", "tests", "docs", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Rule:
    """A row of the table: its text, the module that it is kept in and the test that holds it."""

    text: str
    module: Path
    test: Path


@dataclass(frozen=True)
class Break:
    """One way to break a rule: in its module, ``old`` becomes ``new``."""

    rule: Rule
    old: str
    new: str


def rules(repository: Path = REPOSITORY) -> list[Rule]:
    """All rows of docs/fidelity.md."""
    lines = (repository / "docs" / "fidelity.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|") and not line.startswith(("|---", "| Rule"))]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [
        Rule(text, Path("nnunet_box") / module.strip("`"), Path(test.strip("`"))) for text, module, test, _ in cells
    ]


def breaks() -> list[Break]:
    """All entries of broken_rules.toml with the rules they are of."""
    known = rules()
    entries = tomllib.loads((Path(__file__).parent / "broken_rules.toml").read_text(encoding="utf-8"))["broken"]
    found = []
    for entry in entries:
        of = [rule for rule in known if rule.text.startswith(entry["rule"])]
        assert len(of) == 1, f"{entry['rule']!r} begins {len(of)} rules of docs/fidelity.md"
        found.append(Break(of[0], entry["old"], entry["new"]))
    return found


def is_green(copy: Path, test: Path) -> bool:
    """Whether a test file passes in ``copy``; anything but passing and failing is an error."""
    roots = os.pathsep.join(str(copy / root) for root in (".", "challenges", "containers"))
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(copy / test)]
    run = subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": roots}, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.returncode == 0


def notices(copy: Path, broken: Break) -> bool:
    """Whether the rule's test fails in ``copy`` while the rule is broken there."""
    module = copy / broken.rule.module
    whole = module.read_text(encoding="utf-8")
    module.write_text(whole.replace(broken.old, broken.new), encoding="utf-8")
    green = is_green(copy, broken.rule.test)
    module.write_text(whole, encoding="utf-8")
    return not green


def main(words: str = "") -> int:
    wanted = [broken for broken in breaks() if broken.rule.text.startswith(words)]
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        green: set[Path] = set()
        for number, broken in enumerate(wanted, start=1):
            test = broken.rule.test
            assert test in green or is_green(copy, test), f"{test} fails with no rule broken"
            green.add(test)
            seen = notices(copy, broken)
            unnoticed += not seen
            first = broken.old.strip().splitlines()[0]
            print(
                f"{number}/{len(wanted)} {'red ' if seen else 'NOT NOTICED'} {broken.rule.text[:50]}: {first}",
                flush=True,
            )
    print(f"{len(wanted) - unnoticed} of {len(wanted)} breaks are noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:])))
