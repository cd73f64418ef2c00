"""docs/fidelity.md names modules and tests that exist, and explains every letter that it uses."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| Rule"))
]


def test_every_rule_has_a_module_and_a_test_that_exist() -> None:
    assert len(ROWS) > 35
    for rule, module, test, _ in ROWS:
        source = REPOSITORY / "nnunet_box" / module.strip("`")
        assert source.is_file(), f"{rule}: {source}"
        held = REPOSITORY / test.strip("`")
        assert test.startswith("`tests/")
        assert held.is_file() or list(held.glob("test_*.py")), f"{rule}: {held}"


def test_every_letter_is_explained_and_every_explanation_used() -> None:
    used = {letter for *_, note in ROWS for letter in re.findall(r"\b[A-Z]\b", note)}
    explained = re.findall(r"^\*\*([A-Z])\. ", TEXT, flags=re.MULTILINE)
    assert explained == sorted(used)
