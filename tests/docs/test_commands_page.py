"""``docs/commands.md`` is what the commands themselves say."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from nnunet_box.cli import manual
from tests.docs.documented import REPOSITORY


@pytest.fixture(scope="module")
def root():
    from nnunet_box.cli.app import app

    return typer.main.get_command(app)


def test_the_page_is_current(root):
    written = (REPOSITORY / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == manual.page(root), "docs/commands.md is older than the commands: run make docs"


def test_a_changed_command_makes_the_page_old(root):
    before = manual.page(root)
    option = next(one for one in root.commands["plan"].params if one.name == "memory_gb")
    for attribute, value in (("help", "Something else."), ("default", 11.0), ("opts", ["--memory"])):
        kept = getattr(option, attribute)
        setattr(option, attribute, value)
        assert manual.page(root) != before, attribute
        setattr(option, attribute, kept)
    assert manual.page(root) == before


def test_make_docs_writes_the_page(root, tmp_path, monkeypatch):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^docs: .*\n\t.*-m nnunet_box\.cli\.manual docs/commands\.md$", makefile, flags=re.M)
    monkeypatch.setattr("sys.argv", ["manual", str(tmp_path / "commands.md")])
    manual.main()
    assert (tmp_path / "commands.md").read_text(encoding="utf-8") == manual.page(root)


def test_every_command_gives_an_example_of_itself_that_parses(root):
    listed = dict(manual.commands(root))
    assert {"convert", "train-all", "challenges", "challenges show", "build-submission image"} <= set(listed)
    assert "run-task" not in listed
    for name, command in listed.items():
        assert manual.examples(command), f"nnbox {name} has no example in its help"
        for example in manual.examples(command):
            words = shlex.split(example)[1:]
            assert words[: len(name.split())] == name.split(), f"{example} is no example of nnbox {name}"
            command.make_context(name, words[len(name.split()) :])


def test_every_option_and_argument_is_on_the_page(root):
    page = manual.page(root)
    for name, command in manual.commands(root):
        section = page.split(f"\n## nnbox {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            for word in (*parameter.opts, *parameter.secondary_opts):
                assert (word if word.startswith("-") else word.upper()) in section or parameter.metavar in section
        assert "Example:" not in section


def test_synopsis_defaults_and_exit_codes(root):
    page = manual.page(root)
    assert "\nnnbox train --configuration CONFIGURATION --fold FOLD [DATASET] [OPTIONS]\n" in page
    assert "| `--memory-gb MEMORY-GB` | `12.0` |" in page
    assert "`auto` of `auto`, `none`, `largest-component`" in page
    assert "| `--image`, `--no-image` | `--image` |" in page
    assert manual.exit_codes("verify-submission image") == (0, 1, 2, 3, 4, 5, 75, 130, 143)
    assert set(manual.FURTHER_CODES) <= dict(manual.commands(root)).keys()
    for codes in map(manual.exit_codes, dict(manual.commands(root))):
        assert set(codes) <= manual.EXIT_CODES.keys()


def test_the_exit_codes_are_those_of_the_errors():
    import signal

    from nnunet_box import errors, interrupts
    from nnunet_box.cli import app, archive

    raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    ended = {128 + signal.SIGINT, 128 + signal.SIGTERM, interrupts.COME_BACK}
    assert {0, *raised, *ended, app.INTERRUPTED, archive.VERIFICATION_FAILED} == set(manual.EXIT_CODES)
