"""The shell completes commands, options and the names that a value may have; through the program, as shells call it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnbox_containers.profiles import PROFILES
from nnunet_box.dataset.challenge import challenge_names
from nnunet_box.planning.variant import VARIANTS

PROGRAM = str(Path(sys.executable).with_name("nnbox"))
HEAVY = {"torch", "scipy", "nibabel", "SimpleITK", "docker", "blosc2", "batchgenerators", "numba"}


@pytest.fixture
def place(tmp_path):
    """A folder with a workspace of two data sets, one of them planned, and something hidden that is none."""
    for name in ("acdc", "other"):
        (tmp_path / "nnbox" / "datasets" / name).mkdir(parents=True)
        (tmp_path / "nnbox" / "datasets" / name / "dataset.json").write_text("{}")
    (tmp_path / "nnbox" / "datasets" / ".nnbox-tmp-1").mkdir()
    (tmp_path / "nnbox" / "datasets" / ".nnbox-tmp-1" / "dataset.json").write_text("{}")
    (tmp_path / "nnbox" / "datasets" / "unfinished").mkdir()
    (tmp_path / "nnbox" / "datasets" / "acdc" / "imagesTr").mkdir()
    for image in ("patient001_ED_0000", "patient001_ED_0001", "patient001_ES_0000"):
        (tmp_path / "nnbox" / "datasets" / "acdc" / "imagesTr" / f"{image}.nii.gz").touch()
    (tmp_path / "nnbox" / "bundles" / "acdc").mkdir(parents=True)
    (tmp_path / "nnbox" / "bundles" / "acdc" / "bundle.json").write_text("{}")
    (tmp_path / "second" / "datasets" / "liver").mkdir(parents=True)
    (tmp_path / "second" / "datasets" / "liver" / "dataset.json").write_text("{}")
    return tmp_path


def environment(shell: str, line: str) -> dict[str, str]:
    words = line.split(" ")
    told = {"_NNBOX_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    told |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return {**os.environ, **told}


def complete(place: Path, line: str, shell: str = "bash") -> list[str]:
    """What the shell is offered at the end of the line."""
    done = subprocess.run([PROGRAM], env=environment(shell, line), cwd=place, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("nnbox trai", ["train", "train-all"]),
        ("nnbox build-submission ima", ["image"]),
        ("nnbox plan ", ["acdc", "other"]),
        ("nnbox train o", ["other"]),
        ("nnbox status --workspace second ", ["liver"]),
        ("nnbox convert --challenge ", challenge_names()),
        ("nnbox challenges show ms", ["ms_lesions"]),
        ("nnbox profiles show ", sorted(PROFILES)),
        ("nnbox build-submission image --profile gr", ["grand-challenge", "grand-challenge-invoke"]),
        ("nnbox train acdc --variant re", ["relu"]),
        ("nnbox train-all acdc --variant relu,sg", ["relu,sgd-poly"]),
        ("nnbox ablate acdc --variants relu,sgd-poly+deep", ["relu,sgd-poly+deep-supervision"]),
        ("nnbox train other -c 3d_f", ["3d_fullres"]),
        ("nnbox train-all other --configurations 2d,3d_c", ["2d,3d_cascade_fullres"]),
        ("nnbox train-all acdc --executor s", ["slurm"]),
        ("nnbox predict nnbox/b", [str(Path("nnbox", "bundles", "acdc"))]),
        ("nnbox view pat", ["patient001_ED", "patient001_ES"]),
        ("nnbox view --dataset other pat", []),
        ("nnbox plan no-such", []),
    ],
)
def test_bash_is_offered_what_fits(place, line, offered):
    assert complete(place, line) == offered


def test_an_option_is_offered_by_its_beginning(place):
    assert complete(place, "nnbox plan --mem") == ["--memory-gb"]


def test_a_value_that_was_given_is_not_offered_again(place):
    offered = complete(place, "nnbox train acdc --variant relu,")
    assert set(offered) == {f"relu,{name}" for name in VARIANTS if name != "relu"}


def test_configurations_are_those_of_the_plan(place):
    from nnunet_box.planning.fingerprint import Fingerprint
    from nnunet_box.planning.planner import make_plan

    facts = {"spacings": [[3.6, 0.6, 0.6]], "sizes": [[20, 320, 320]], "cases": 32, "modalities": ["T2"]}
    fingerprint = Fingerprint.model_validate(facts | {"foreground_classes": 1, "size_after_crop_ratio": 1.0})
    plan = make_plan(fingerprint, "acdc", {0: "background", 1: "organ"}, 12.0)
    folder = place / "nnbox" / "preprocessed" / "acdc"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.model_dump_json())
    assert complete(place, "nnbox train acdc -c ") == list(plan.models) == ["2d", "3d_fullres"]
    (folder / "plan.json").write_text('{"schema_version": 1, "configurations": 3}')
    assert "3d_lowres" in complete(place, "nnbox train acdc -c ")


def test_zsh_and_fish_are_answered_in_their_own_form(place):
    done = subprocess.run(
        [PROGRAM], env=environment("zsh", "nnbox plan "), cwd=place, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == """_arguments '*: :(("acdc"\n"other"))'"""
    assert complete(place, "nnbox plan ", "fish") == ["acdc", "other"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_is_installed_calls_the_program(shell, tmp_path, monkeypatch):
    """``--install-completion`` in a home of its own, without looking for the shell it was started from."""
    told = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([PROGRAM, "--install-completion", shell], env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and f"complete_{shell}" in path.read_text()]
    assert len(written) == 1 and "_NNBOX_COMPLETE" in written[0].read_text()


PRESSED = {
    "bash": 'COMP_WORDS=(nnbox plan a); COMP_CWORD=2; _nnbox_completion nnbox; echo "${COMPREPLY[*]}"',
    # What the line editor offers is what the function hands to _arguments.
    "zsh": 'words=(nnbox plan a); CURRENT=3; _arguments() { print -r -- "$@" }; _nnbox_completion',
    "fish": 'complete -C "nnbox plan a"',
}
"""In each shell, what the tabulator key does after ``nnbox plan a``."""
WITHOUT_SETTINGS = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.mark.parametrize("shell", PRESSED)
def test_the_shell_itself_completes(shell, place):
    """bash is everywhere; the others are tried where they are installed."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    told = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = subprocess.run([PROGRAM, "--show-completion", shell], env=told, capture_output=True, text=True, check=True)
    (place / "script").write_text(shown.stdout)
    before = "compdef() { :; }\n" if shell == "zsh" else ""
    done = subprocess.run(
        [program, *WITHOUT_SETTINGS[shell], "-c", f"{before}source ./script\n{PRESSED[shell]}"],
        env={**os.environ, "PATH": f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"},
        cwd=place,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall("[a-z]+", done.stdout) == ["acdc"]


def test_nothing_heavy_is_loaded_to_complete(place):
    program = (
        "import sys, json, nnunet_box.cli.app as app\n"
        "sys.argv = ['nnbox']\n"
        "try:\n"
        "    app.app(prog_name='nnbox')\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)\n"
    )
    for line in ("nnbox plan ", "nnbox convert --challenge ", "nnbox train acdc -c ", "nnbox profiles show "):
        told = environment("bash", line)
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=told,
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split(), line
        assert not set(json.loads(done.stderr.splitlines()[-1])) & HEAVY, line
