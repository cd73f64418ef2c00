"""The command line starts fast because nothing heavy is imported before a command's body runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

HEAVY = {"rich", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic", "docker", "blosc2", "batchgenerators"}
HEAVY |= {"PIL"}
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


NOT_FOR_PLANNING = HEAVY - {"numpy", "pydantic", "rich"} | {"cc3d", "nnunet_box.preprocessing", "nnunet_box.dataset"}


def test_planning_from_a_fingerprint_loads_no_images(tmp_path):
    file = tmp_path / "fingerprint.json"
    case = {"spacings": [[3.0, 0.8, 0.8]], "sizes": [[100, 512, 512]], "cases": 30, "modalities": ["CT"]}
    file.write_text(json.dumps(case | {"foreground_classes": 13, "size_after_crop_ratio": 1.0}))
    program = (
        "import sys, nnunet_box.cli.app as app\n"
        f"sys.argv = ['nnbox', 'plan', '--fingerprint', {str(file)!r}]\n"
        "try:\n"
        "    app.main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "3d_lowres" in done.stdout
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "nnunet_box.planning.planner" in loaded
    assert not NOT_FOR_PLANNING & loaded


def test_help_has_each_commands_first_sentence_as_a_whole():
    lines = CliRunner().invoke(app(), ["--help"]).output
    assert "Turn a challenge's download into an nnU-Net v2 raw data set" in " ".join(lines.split())
    assert "..." not in lines.partition("Commands:")[2]


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
