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
    (finding,) = doctor.examine_engine()
    assert finding.state == "missing"
    assert "\n" not in finding.found
    assert "docker" in finding.found
    assert invoke().exit_code == 0


INFO = {
    "DockerRootDir": "/",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "PidsLimit": True,
    "SecurityOptions": ["name=rootless"],
}
PODMAN = {
    "Version": "99.1",
    "ApiVersion": "1.41",
    "Os": "linux",
    "Arch": "amd64",
    "Components": [{"Name": "Podman Engine"}],
}


def engine_says(monkeypatch, version, info, base_url="http+docker://localhost"):
    api = SimpleNamespace(version=lambda: version, info=lambda: info, base_url=base_url)
    monkeypatch.setattr(docker, "from_env", lambda **_: SimpleNamespace(api=api))
    return {finding.what: finding for finding in doctor.examine_engine()}


def test_an_engine_is_told_with_its_kind_limits_and_room(monkeypatch):
    findings = engine_says(monkeypatch, PODMAN, INFO)
    assert findings["container engine"].found == "podman 99.1, linux/amd64, API 1.41, rootless"
    assert findings["container limits"].found.startswith("control groups version 2;")
    assert findings["image storage"].found.endswith("GiB free at /")
    assert {finding.state for finding in findings.values()} <= {"ok", "warning"}
    docker_says = PODMAN | {"Components": [{"Name": "Engine"}]}
    assert engine_says(monkeypatch, docker_says, INFO)["container engine"].found.startswith("docker 99.1")


def test_limits_an_engine_lacks_are_a_warning(monkeypatch):
    findings = engine_says(monkeypatch, PODMAN, INFO | {"MemoryLimit": False, "SwapLimit": False})
    assert findings["container limits"].state == "warning"
    assert "without limits on memory, swap" in findings["container limits"].found


def test_the_room_of_an_engine_elsewhere_is_not_this_machines(monkeypatch):
    assert "image storage" not in engine_says(monkeypatch, PODMAN, INFO, base_url="http://far:2375")


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
