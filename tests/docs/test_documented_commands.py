"""Every command of the documentation is run, in the order of its page, in a folder such as its reader has."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.conftest import run
from tests.docs.documented import (
    ELSEWHERE,
    NOT_RUN,
    OTHER_PAGES,
    REPOSITORY,
    RUN_PAGES,
    SUBSTITUTIONS,
    as_run,
    elsewhere,
    lines,
)


def test_every_page_is_run_or_has_a_reason():
    pages = {str(page.relative_to(REPOSITORY)) for page in (REPOSITORY / "docs").rglob("*.md")}
    pages |= {str(page.relative_to(REPOSITORY)) for page in REPOSITORY.glob("*/README.md")}
    with_commands = {page for page in (*pages, "README.md", "CONTRIBUTING.md") if lines(page)}
    assert with_commands <= {*RUN_PAGES, *OTHER_PAGES}
    assert not set(RUN_PAGES) & set(OTHER_PAGES)
    assert all(OTHER_PAGES.values())


@pytest.mark.parametrize("page", RUN_PAGES)
def test_every_command_of_the_page_works(page, trained, kidneys):
    for left in ("predictions", "acdc.zip", "my-bundle", "acdc-bundle"):
        target = trained / left
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    # A page that is about archives alone takes it that its reader has predicted.
    shutil.copytree(trained / "predicted", trained / "predictions")
    typed = [line for line in lines(page) if elsewhere(line) is None]
    assert typed, f"{page} has no commands"
    for line in typed:
        assert line.startswith("nnbox "), f"{page}: nobody runs: {line}"
        ended = run(trained, as_run(line))
        assert ended.code == 0, f"{page}: {line}\nrun as: {as_run(line)}\n{ended.err}"


def test_substitutions_and_exceptions_are_still_needed():
    """A row of the tables that matches nothing hides what it was for."""
    typed = [line for page in RUN_PAGES for line in lines(page)]
    for pattern, where in (*ELSEWHERE, *NOT_RUN):
        assert any(re.search(pattern, line) for line in typed), f"no line is like {pattern}"
        assert where
    for pattern, replacement, why in SUBSTITUTIONS:
        changed = [line for line in typed if re.sub(pattern, replacement, line) != line]
        assert changed and why, f"nothing is changed by {pattern}"


def test_what_is_run_elsewhere_is_run_there():
    for _, where in ELSEWHERE:
        assert (REPOSITORY / where).is_file(), where


def test_a_command_that_fails_is_noticed(trained):
    for line in ("nnbox plan not-there", "nnbox train acdc --fold 9 --configuration 2d", "nnbox no-such-command"):
        assert run(trained, line).code == 2


def test_lines_are_read_from_shell_blocks_alone():
    typed = lines("docs/scale.md")
    assert any("--slurm-option --account=lab --slurm-option train:--partition=gpu" in line for line in typed)
    assert not any("passed" in line or "apiVersion" in line for line in typed)
    assert all(Path(page).suffix == ".md" for page in RUN_PAGES)
