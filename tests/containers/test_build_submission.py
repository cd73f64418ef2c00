"""``nnbox build-submission`` and ``nnbox profiles`` as a person and as a script sees them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from container_samples import make_bundle, make_selected_model, no_temporaries, write_wheel
from test_image import THIS_PYTHON
from typer.testing import CliRunner, Result

from nnbox_containers import docker_engine, wheelhouse
from nnbox_containers.engine import BuildFailed, ImageFacts, RunResult
from nnbox_containers.fake_engine import FakeEngine
from nnbox_containers.wheelhouse import Pin
from nnunet_box import __version__
from nnunet_box.bundle import load_bundle
from nnunet_box.cli import build_submission
from nnunet_box.errors import EngineUnavailable, InvalidData, UsageError
from nnunet_box.files import read_json

UNAVAILABLE = 4
BASE = "base:1"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with the bundle of the data set ``heart``, made for acdc."""
    make_bundle(tmp_path / "nnbox" / "bundles" / "heart", dataset="heart")
    return tmp_path / "nnbox"


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    """The engine every command gets; its base image has this Python."""
    base = ImageFacts("sha256:base", (BASE,), 1, "", "amd64", (), {})
    fake = FakeEngine({BASE: base}, lambda image, command, limits: RunResult(0, json.dumps(THIS_PYTHON), ""))
    monkeypatch.setattr(docker_engine, "DockerEngine", lambda: fake)
    return fake


@pytest.fixture(autouse=True)
def one_wheel(monkeypatch) -> list[str]:
    """One wheel is all an image needs; returns what was asked of pip."""
    asked: list[str] = []

    def run(command, **_):
        asked.append(command[-1])
        name, _, version = command[-1].partition("==")
        write_wheel(Path(command[command.index("--dest") + 1]), name, version, {})
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(wheelhouse, "inference_pins", lambda needs: (Pin("alpha", "1.0"),))
    monkeypatch.setattr(wheelhouse, "build_pip", lambda: Pin("pip", "2.0"))
    monkeypatch.setattr(wheelhouse.subprocess, "run", run)
    return asked


def nnbox(*arguments: object) -> Result:
    app = typer.Typer()
    build_submission.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def image(workspace: Path, *arguments: object) -> Result:
    return nnbox("build-submission", "image", "--base-image", BASE, "--workspace", workspace, *arguments)


def test_one_command_builds_and_prints_how_to_run(workspace, engine, one_wheel):
    result = image(workspace)
    assert result.exit_code == 0, result.output
    tag = f"nnbox-heart:{__version__}"
    assert result.stdout == f"docker run --rm --network none -v TEST_FOLDER:/input:ro -v OUT:/output {tag}\n"
    facts = engine.images[tag]
    assert facts.identifier in result.stderr
    assert " MB" in result.stderr
    assert "Step 1/" in result.stderr
    assert facts.labels["org.nnunet-box.challenge"] == "acdc"
    assert facts.labels["org.opencontainers.image.base.digest"] == "sha256:base"
    assert one_wheel == ["alpha==1.0", "pip==2.0"]
    assert (workspace / "wheelhouse" / "alpha-1.0-py3-none-any.whl").is_file()
    assert image(workspace, "--tag", "mine:2", "--json").exit_code == 0
    assert one_wheel == ["alpha==1.0", "pip==2.0"]
    assert no_temporaries(workspace)


def test_json_for_scripts(workspace, engine):
    told = json.loads(image(workspace, "heart", "--tag", "mine:2", "--json").stdout)
    assert told["tag"] == "mine:2"
    assert told["id"] == engine.images["mine:2"].identifier
    assert told["size_bytes"] > 0
    assert told["run"].endswith(" mine:2")
    assert told["challenge"] == told["labels"]["org.nnunet-box.challenge"] == "acdc"


@pytest.mark.parametrize(("rule", "steps"), [("auto", [[2]]), ("none", []), ("largest-component", [[1, 2, 3]])])
def test_postprocessing_as_asked(workspace, engine, rule, steps):
    assert image(workspace, "--postprocess", rule, "--tag", "mine:2").exit_code == 0
    assert json.loads(engine.images["mine:2"].labels["org.nnunet-box.postprocessing"])["steps"] == steps
    assert read_json(workspace / "bundles" / "heart" / "bundle.json")["postprocessing"]["steps"] == [[2]]


def test_an_unknown_rule_is_wrong_usage(workspace, engine):
    assert image(workspace, "--postprocess", "magic").exit_code == UsageError.exit_code


def test_dry_run_prints_everything_and_does_nothing(workspace, monkeypatch, one_wheel):
    def unreachable():
        raise AssertionError("a dry run asks no engine")

    monkeypatch.setattr(docker_engine, "DockerEngine", unreachable)
    result = image(workspace, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"FROM {BASE} AS environment" in result.stdout
    listed = [line.removeprefix("# context: ") for line in result.stdout.splitlines() if line.startswith("# context")]
    assert "bundle/weights/2d/fold_1.safetensors" in listed
    assert "wheels/alpha==1.0 (to be fetched)" in listed
    assert one_wheel == []
    assert not (workspace / "wheelhouse").exists()


def test_a_bundle_for_another_challenge_is_refused(workspace, engine):
    refusal = image(workspace, "--challenge", "decathlon").exception
    assert isinstance(refusal, UsageError)
    assert "--challenge acdc" in str(refusal)
    assert len(engine.images) == 1


def test_a_bundle_without_challenge_takes_the_one_asked_for(tmp_path, engine):
    make_bundle(tmp_path / "bundles" / "own", challenge=None, dataset="own")
    assert image(tmp_path, "--tag", "mine:1").exit_code == 0
    assert engine.images["mine:1"].labels["org.nnunet-box.challenge"] == "none"
    assert image(tmp_path, "--challenge", "acdc", "--tag", "mine:2").exit_code == 0
    assert engine.images["mine:2"].labels["org.nnunet-box.challenge"] == "acdc"
    assert isinstance(image(tmp_path, "--challenge", "no-such").exception, UsageError)


def test_the_data_set_is_found_by_name_path_challenge_or_because_it_is_alone(workspace, engine):
    bundle = workspace / "bundles" / "heart"
    for named in (["heart"], [bundle], []):
        assert image(workspace, *named).exit_code == 0
    make_bundle(workspace / "bundles" / "liver", dataset="liver", challenge="decathlon")
    refusal = image(workspace).exception
    assert isinstance(refusal, UsageError)
    assert "heart, liver" in str(refusal)
    assert image(workspace, "--challenge", "acdc", "--tag", "mine:2").exit_code == 0
    assert engine.images["mine:2"].labels["org.nnunet-box.dataset"] == "heart"


def test_without_a_model_the_command_to_run_is_named(tmp_path, engine):
    assert "nnbox train-all" in str(image(tmp_path).exception)
    refusal = image(tmp_path, "heart").exception
    assert isinstance(refusal, UsageError)
    assert "nnbox train-all heart" in str(refusal)


def test_a_selected_model_is_bundled_on_the_way(tmp_path, engine):
    make_selected_model(tmp_path, "heart")
    result = image(tmp_path, "--challenge", "acdc", "--tag", "mine:2")
    assert result.exit_code == 0, result.output
    assert f"Bundled heart into {tmp_path / 'bundles' / 'heart'}" in result.stderr
    assert json.loads(engine.images["mine:2"].labels["org.nnunet-box.postprocessing"])["steps"] == [[3]]
    assert load_bundle(tmp_path / "bundles" / "heart", check_weights=True).challenge is None


def test_the_bundle_alone(tmp_path):
    make_selected_model(tmp_path, "heart")
    result = nnbox("build-submission", "bundle", "--workspace", tmp_path)
    assert result.stdout == f"{tmp_path / 'bundles' / 'heart'}\n"
    result = nnbox("build-submission", "bundle", "heart", "-o", tmp_path / "out", "--workspace", tmp_path)
    assert result.stdout == f"{tmp_path / 'out'}\n"
    bundle = load_bundle(tmp_path / "out", check_weights=True)
    assert [entry.fold for member in bundle.members for entry in member.weights] == [0, 1]
    assert bundle == load_bundle(tmp_path / "bundles" / "heart")
    assert no_temporaries(tmp_path)
    (tmp_path / "models" / "heart" / "selection.json").unlink()
    assert isinstance(nnbox("build-submission", "bundle", "--workspace", tmp_path).exception, InvalidData)


def test_a_damaged_bundle_is_not_shipped(workspace, engine):
    weights = workspace / "bundles" / "heart" / "weights" / "2d" / "fold_0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refusal = image(workspace).exception
    assert isinstance(refusal, InvalidData)
    assert refusal.file == weights


@pytest.mark.parametrize(
    ("option", "value"), [("--tag", "Not A Tag"), ("--profile", "no-such"), ("--base-image", "A B")]
)
def test_wrong_names_are_refused_before_anything_is_fetched(workspace, engine, one_wheel, option, value):
    refusal = image(workspace, option, value).exception
    assert getattr(refusal, "exit_code", None) in {1, 2}
    assert value in str(refusal)
    assert one_wheel == []


def test_a_base_with_another_python_is_refused_before_anything_is_fetched(workspace, engine, one_wheel):
    engine.answer = lambda image, command, limits: RunResult(0, json.dumps(THIS_PYTHON | {"python": "2.7"}), "")
    assert isinstance(image(workspace).exception, UsageError)
    assert one_wheel == []


@pytest.mark.parametrize("failure", [BuildFailed("step 3"), KeyboardInterrupt()])
def test_a_build_that_breaks_leaves_nothing_behind(workspace, engine, monkeypatch, failure):
    def breaks(context, tag, listen):
        next(context.chunks())
        raise failure

    monkeypatch.setattr(engine, "build", breaks)
    result = image(workspace)
    assert result.exit_code != 0
    assert result.stdout == ""
    assert no_temporaries(workspace.parent)
    assert list(engine.images) == [BASE]


def test_wheelhouse_lists_its_wheels(tmp_path, one_wheel):
    result = nnbox("build-submission", "wheelhouse", "-o", tmp_path / "w")
    assert result.exit_code == 0, result.output
    names = [Path(line).name for line in result.stdout.splitlines()]
    assert names == [
        "alpha-1.0-py3-none-any.whl",
        "pip-2.0-py3-none-any.whl",
        f"nnunet_box-{__version__}-py3-none-any.whl",
    ]
    again = nnbox("build-submission", "wheelhouse", "-o", tmp_path / "w", "--json")
    assert json.loads(again.stdout)["wheels"] == names
    assert one_wheel == ["alpha==1.0", "pip==2.0"]


def test_a_wheelhouse_by_option_is_used(workspace, engine, one_wheel, tmp_path):
    write_wheel(tmp_path / "w", "alpha", "1.0", {})
    write_wheel(tmp_path / "w", "pip", "2.0", {})
    assert image(workspace, "--wheelhouse", tmp_path / "w").exit_code == 0
    assert one_wheel == []
    assert not (workspace / "wheelhouse").exists()


def test_without_an_engine_one_line_says_what_to_start(workspace, tmp_path, monkeypatch):
    monkeypatch.undo()  # a real process below: nothing is stood in for
    host = f"unix://{tmp_path}/missing.sock"
    done = subprocess.run(
        [Path(sys.executable).with_name("nnbox"), "build-submission", "image", "--workspace", workspace],
        env=os.environ | {"DOCKER_HOST": host},
        capture_output=True,
        text=True,
    )
    assert done.returncode == UNAVAILABLE
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert f"DOCKER_HOST={host}" in line
    assert "sudo systemctl start docker" in line
    assert not (workspace / "wheelhouse").exists()


def test_a_socket_nobody_listens_on_is_no_engine(tmp_path, monkeypatch):
    path = tmp_path / "dead.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    for verb in (lambda e: e.inspect("a"), lambda e: e.remove("a"), lambda e: e.run("a")):
        with pytest.raises(EngineUnavailable, match=r"dead\.sock"):
            verb(docker_engine.DockerEngine())
