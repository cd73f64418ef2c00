"""What the documentation tells people to type exists: ``nnbox`` lines parse, make targets and links are there."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from tests.docs.documented import OTHER_PAGES, REPOSITORY, RUN_PAGES, lines

PAGES = (*RUN_PAGES, *OTHER_PAGES)


def commands() -> list[tuple[str, str]]:
    return [(page, line) for page in PAGES for line in lines(page) if line.startswith("nnbox ")]


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_parses(page, line):
    from nnunet_box.cli.app import app

    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    path = ["nnbox"]
    while hasattr(command, "commands"):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break
        assert words, f"{page}: {line}: {' '.join(path)} needs a command"
        path.append(words.pop(0))
        assert path[-1] in command.commands, f"{page}: {line}: no command {' '.join(path)}"
        command = command.commands[path[-1]]
    # Parsing converts and checks every option and argument, without running the command.
    command.make_context(" ".join(path), words)


def test_the_worked_example_is_there():
    verbs = [line.split()[1] for page, line in commands() if page == "README.md"]
    for verb in (
        "convert",
        "plan",
        "train-all",
        "train",
        "select",
        "build-submission",
        "predict",
        "evaluate",
        "doctor",
    ):
        assert verb in verbs


def test_make_targets_exist():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = {line.split(":")[0] for line in makefile.splitlines() if re.match(r"^[a-z-]+:", line)}
    for page in ("README.md", "CONTRIBUTING.md"):
        for line in lines(page):
            if line.startswith("make "):
                assert line.split()[1] in targets, line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith(("http:", "https:")):
            assert (REPOSITORY / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_docker_run_of_the_readme_has_every_hardening_flag():
    line = next(line for line in lines("README.md") if line.startswith("docker run"))
    for flag in (
        "--network none",
        "--read-only",
        "--tmpfs /tmp",
        "--cap-drop ALL",
        "no-new-privileges",
        "--pids-limit",
    ):
        assert flag in line
