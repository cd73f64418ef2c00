"""The command line starts fast because nothing heavy is imported before a command's body runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

HEAVY = {"torch", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic", "docker", "blosc2", "batchgenerators", "PIL"}
CONTRACT = {
    "challenges",
    "convert",
    "check",
    "plan",
    "preprocess",
    "train",
    "train-all",
    "status",
    "select",
    "predict",
    "evaluate",
    "build-submission",
    "demo",
    "doctor",
}


def app() -> typer.Typer:
    from nnunet_box.cli.app import app as nnbox

    return nnbox


def command_names() -> list[tuple[str, ...]]:
    def walk(command, path):
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))

    return list(walk(typer.main.get_command(app()), ()))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["build-submission", "image", "--help"]])
def test_no_heavy_import_before_a_command_runs(arguments):
    program = (
        "import sys, json, nnunet_box.cli.app as app\n"
        f"sys.argv = ['nnbox', *{arguments!r}]\n"
        "try:\n"
        "    app.main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "nnunet_box" in loaded
    # typer itself takes pydantic, where it is installed, to convert a command's parameters.
    assert not (loaded & HEAVY) - ({"pydantic"} if len(arguments) > 1 else set())


def test_commands_of_the_contract_exist():
    assert {path[0] for path in command_names() if path} >= CONTRACT


def test_every_command_and_option_is_explained():
    for path in command_names():
        result = CliRunner().invoke(app(), [*path, "--help"])
        assert result.exit_code == 0, path
    for path in command_names():
        command = typer.main.get_command(app())
        for name in path:
            command = command.commands[name]
        assert command.help or command.short_help, f"{path} has no help"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path}: {parameter.name} has no help"
