"""The doctor reports what is there, and fails only over what is needed."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import docker
import pytest
import typer
from typer.testing import CliRunner

from nnunet_box import __version__
from nnunet_box.cli import doctor


@pytest.fixture
def invoke(tmp_path):
    app = typer.Typer()
    doctor.register(app)

    def call(*arguments: str):
        return CliRunner().invoke(app, ["--workspace", str(tmp_path / "not" / "yet"), *arguments])

    return call


def no_engine(**_):
    raise docker.errors.DockerException("Error while fetching server API version: no such file\nmore")


def test_json_is_the_whole_report(invoke, monkeypatch):
    monkeypatch.setattr(docker, "from_env", no_engine)
    result = invoke("--json")
    findings = {finding["what"]: finding for finding in json.loads(result.stdout)}
    assert {"python", "torch", "cpu", "container engine", "disk", "memory"} <= set(findings)
    assert findings["nnunet_box"]["found"] == __version__
    for finding in findings.values():
        assert finding["state"] in ("ok", "warning", "missing")
        assert finding["found"]
        assert finding["advice"] or finding["state"] == "ok"


def test_no_engine_is_told_with_what_to_start_but_is_no_failure(invoke, monkeypatch):
    monkeypatch.setattr(docker, "from_env", no_engine)
    finding = doctor.examine_engine()
    assert finding.state == "missing"
    assert "\n" not in finding.found
    assert "docker" in finding.advice
    assert invoke().exit_code == 0


def test_an_engine_is_told_with_its_version(monkeypatch):
    client = SimpleNamespace(version=lambda: {"Version": "99.1", "Os": "linux", "Arch": "amd64"}, close=lambda: None)
    monkeypatch.setattr(docker, "from_env", lambda **_: client)
    finding = doctor.examine_engine()
    assert (finding.state, finding.found) == ("ok", "99.1, linux/amd64")


def test_a_missing_package_is_a_failure(invoke, monkeypatch):
    monkeypatch.setattr(docker, "from_env", no_engine)
    monkeypatch.setattr(doctor, "versions", lambda: {"torch": None})
    result = invoke()
    assert result.exit_code == 1
    assert "not installed" in result.stdout


def test_little_room_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1024**3))
    monkeypatch.setattr(doctor, "free_memory_gib", lambda: 1.5)
    findings = {finding.what: finding for finding in doctor.examine_room(tmp_path / "new" / "workspace")}
    assert str(tmp_path) in findings["disk"].found
    assert findings["disk"].state == findings["memory"].state == "warning"
    assert "--workspace" in findings["disk"].advice
    assert "--memory-gb" in findings["memory"].advice


def test_square_brackets_are_text(invoke, monkeypatch):
    strange = doctor.Finding("disk", "ok", "1 GiB free at /data/[old]")
    monkeypatch.setattr(doctor, "examine", lambda _: [strange])
    assert "/data/[old]" in invoke().stdout
