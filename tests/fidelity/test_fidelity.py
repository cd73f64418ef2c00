"""docs/fidelity.md names modules and tests that exist and explains every letter; each of its rules can be broken to try
its test (``make break-rules`` does).
"""

import re

from break_rules import REPOSITORY, breaks, rules

TEXT = (REPOSITORY / "docs" / "fidelity.md").read_text(encoding="utf-8")


def test_every_rule_has_a_module_and_a_test_that_exist() -> None:
    assert len(rules()) > 35
    for rule in rules():
        assert (REPOSITORY / rule.module).is_file(), rule
        assert (REPOSITORY / rule.test).is_file(), rule
        assert rule.test.parts[0] == "tests"


def test_every_rule_can_be_broken() -> None:
    """In the module that the table names, at one place: a break that no longer applies would prove nothing."""
    assert {broken.rule for broken in breaks()} == set(rules())
    for broken in breaks():
        source = (REPOSITORY / broken.rule.module).read_text(encoding="utf-8")
        assert source.count(broken.old) == 1, f"{broken.rule.module}: {broken.old!r}"
        assert broken.old != broken.new


def test_every_letter_is_explained_and_every_explanation_used() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    notes = [row.strip("|").split("|")[-1] for row in rows]
    used = {letter for note in notes for letter in re.findall(r"\b[A-Z]\b", note)}
    explained = re.findall(r"^\*\*([A-Z])\. ", TEXT, flags=re.MULTILINE)
    assert explained == sorted(used)
