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
from nnunet_box.cli import doctor, doctor_machine, doctor_software
from nnunet_box.cli.doctor_finding import Finding


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
        assert finding["state"] in ("ok", "warning", "missing", "optional")
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
    monkeypatch.setattr(doctor_software, "version_of", lambda name: None if name == "scipy" else "1.0")
    result = invoke()
    assert result.exit_code == 1
    assert "not installed" in result.stdout
    assert "pip install scipy" in " ".join(result.stdout.split())


def test_little_room_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1024**3))
    monkeypatch.setattr(doctor_machine, "free_memory_gib", lambda: 1.5)
    found = [*doctor_machine.examine_workspace(tmp_path / "new" / "workspace"), *doctor_machine.examine_memory()]
    findings = {finding.what: finding for finding in found}
    assert str(tmp_path) in findings["disk"].found
    assert findings["disk"].state == findings["memory"].state == "warning"
    assert "--workspace" in findings["disk"].advice
    assert "--memory-gb" in findings["memory"].advice


def test_square_brackets_are_text(invoke, monkeypatch):
    strange = Finding("disk", "ok", "1 GiB free at /data/[old]")
    monkeypatch.setattr(doctor, "examine", lambda _: [strange])
    assert "/data/[old]" in invoke().stdout


def extra(name):
    return next(finding for finding in doctor_software.examine_extras() if finding.what == name)


def test_an_extra_that_is_not_there_is_told_with_its_use_and_no_failure(invoke, monkeypatch):
    monkeypatch.setattr(docker, "from_env", no_engine)
    monkeypatch.setattr(doctor_software.metadata, "requires", lambda _: ['ray>=2.40; extra == "ray"', "numpy>=2"])
    version = doctor_software.version_of
    monkeypatch.setattr(doctor_software, "version_of", lambda name: None if name == "ray" else version(name))
    finding = extra("ray")
    assert (finding.state, finding.needed_for) == ("optional", "train-all --executor ray")
    assert finding.advice.endswith("-m pip install 'ray>=2.40'")
    assert invoke().exit_code == 0
    monkeypatch.setattr(doctor_software, "version_of", lambda _: "2.50")
    assert (extra("ray").state, extra("ray").found, extra("ray").advice) == ("ok", "2.50", "")


def test_a_new_extra_of_the_package_is_looked_at(monkeypatch):
    asked = ["one>=1 ; extra == 'tracking'", "two; extra == 'tracking'", 'pytest; extra == "dev"']
    monkeypatch.setattr(doctor_software.metadata, "requires", lambda _: asked)
    monkeypatch.setattr(doctor_software, "version_of", lambda name: "1.2" if name == "one" else None)
    assert doctor_software.extras() == {"tracking": ["one>=1", "two"]}
    assert extra("tracking").advice.endswith("install 'two'")


def test_slurm_is_there_where_jobs_can_be_submitted(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/sbatch" if name == "sbatch" else None)
    assert doctor_software.examine_slurm()[0].state == "ok"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    (finding,) = doctor_software.examine_slurm()
    assert finding.state == "optional" and finding.advice


def no_gpu(monkeypatch, tmp_path, driver=None, cuda="12.4", error=None, hidden=None):
    """What is told where torch sees no card."""
    version = tmp_path / "version"
    if driver is not None:
        version.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Wed Sep 13 2023\nGCC 12\n")
    monkeypatch.setattr(doctor_software, "NVIDIA_DRIVER", version)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)

    def init():
        if error is not None:
            raise error

    torch = SimpleNamespace(__version__="2.9", version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(init=init))
    finding = doctor_software._no_gpu(torch)
    assert finding.state == "warning" and finding.advice
    return finding


def test_a_machine_without_a_card_trains_on_the_cpu(monkeypatch, tmp_path):
    assert "--budget" in no_gpu(monkeypatch, tmp_path).advice


def test_a_torch_without_cuda_beside_a_driver_is_found(monkeypatch, tmp_path):
    finding = no_gpu(monkeypatch, tmp_path, driver="535.104.05", cuda=None)
    assert "535.104.05" in finding.found and "torch 2.9 has no CUDA" in finding.found
    assert "Install a torch for CUDA" in finding.advice


def test_a_driver_too_old_for_torch_is_told_in_torchs_words(monkeypatch, tmp_path):
    words = "The NVIDIA driver on your system is too old (found version 11040)."
    finding = no_gpu(monkeypatch, tmp_path, driver="470.57.02", error=RuntimeError(f"{words}\nmore"))
    assert finding.found.endswith(f"; {words}")
    assert "CUDA 12.4" in finding.advice


def test_a_card_that_is_hidden_is_told(monkeypatch, tmp_path):
    assert "unset CUDA_VISIBLE_DEVICES" in no_gpu(monkeypatch, tmp_path, driver="550.1", hidden="").advice
    assert "unset" not in no_gpu(monkeypatch, tmp_path, driver="550.1", hidden="0", error=RuntimeError("no")).advice


MOUNTINFO = r"""21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 21 0:40 / /data rw,noatime - nfs4 server:/data rw,vers=4.2,local_lock=none
31 21 0:41 / /old rw,noatime - nfs server:/old rw,nolock,local_lock=all
32 21 0:42 / /with\040space rw - tmpfs tmpfs rw
33 30 8:2 / /data/inner rw - xfs /dev/sdb rw
"""


def test_the_file_system_of_a_folder_is_that_of_the_innermost_mount(tmp_path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTINFO)
    for folder, kind in (
        ("/home", "ext4"),
        ("/data", "nfs4"),
        ("/database", "ext4"),
        ("/data/inner/x", "xfs"),
        ("/with space/x", "tmpfs"),
    ):
        assert doctor_machine.mounted(doctor_machine.Path(folder), mounts)[0] == kind
    assert doctor_machine.mounted(tmp_path, tmp_path / "none") == ("unknown", "")


def file_system(monkeypatch, tmp_path, kind="ext4", options="rw", problem=None):
    monkeypatch.setattr(doctor_machine, "mounted", lambda _: (kind, options))
    if problem is not None:

        def refuse(*_):
            raise problem

        monkeypatch.setattr(doctor_machine.fcntl, "lockf", refuse)
    return {finding.what: finding for finding in doctor_machine.examine_workspace(tmp_path)}["file system"]


def test_locks_are_tried_and_leave_nothing(monkeypatch, tmp_path):
    assert file_system(monkeypatch, tmp_path).state == "ok"
    assert "of a network" in file_system(monkeypatch, tmp_path, "nfs4", "rw,vers=4.2,local_lock=none").found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", ["rw,nolock", "rw,local_lock=all,vers=3", "rw,local_lock=posix", "rw,localflock"])
def test_locks_of_one_machine_on_a_network_are_a_warning(monkeypatch, tmp_path, options):
    finding = file_system(monkeypatch, tmp_path, "nfs", options)
    assert finding.state == "warning" and "this machine alone" in finding.found and finding.advice


def test_no_locks_and_memory_are_warnings(monkeypatch, tmp_path):
    assert "restart" in file_system(monkeypatch, tmp_path, "tmpfs").found
    finding = file_system(monkeypatch, tmp_path, "lustre", problem=OSError(38, "Function not implemented"))
    assert finding.state == "warning" and "Function not implemented" in finding.found and "flock" in finding.advice


def test_a_folder_that_cannot_be_written_is_a_failure(invoke, monkeypatch):
    monkeypatch.setattr(docker, "from_env", no_engine)
    monkeypatch.setattr(doctor_machine.os, "access", lambda *_: False)
    result = invoke()
    assert result.exit_code == 1
    assert "another --workspace" in " ".join(result.stdout.split())


def test_limits_of_the_shell_are_told_with_the_command_that_lifts_them(monkeypatch):
    machine = doctor_machine
    limits = {machine.resource.RLIMIT_NOFILE: 256, machine.resource.RLIMIT_FSIZE: 2**30}
    unlimited = machine.resource.RLIM_INFINITY
    monkeypatch.setattr(machine.resource, "getrlimit", lambda kind: (limits.get(kind, unlimited), unlimited))
    findings = {finding.what: finding for finding in machine.examine_limits()}
    assert set(findings) == {"open files", "file size"}
    assert findings["open files"].advice == "ulimit -n 4096"
    assert findings["file size"].advice == "ulimit -f unlimited"
    limits.clear()
    assert [finding.state for finding in machine.examine_limits()] == ["ok"]


def test_little_shared_memory_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_machine, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64 * 1024**2))
    shared = doctor_machine.examine_memory()[-1]
    assert shared.state == "warning" and "--shm-size" in shared.advice and "--workers 0" in shared.advice


def test_kernels_that_cannot_be_kept_are_a_warning(tmp_path, monkeypatch):
    assert doctor_machine.examine_kernels()[0].state == "ok"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    assert str(tmp_path) in doctor_machine.examine_kernels()[0].found
    monkeypatch.setattr(doctor_machine.os, "access", lambda *_: False)
    (finding,) = doctor_machine.examine_kernels()
    assert finding.state == "warning" and "NUMBA_CACHE_DIR" in finding.advice


def test_each_finding_that_is_not_well_names_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(docker, "from_env", no_engine)
    monkeypatch.setattr(doctor_software, "version_of", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    findings = doctor.examine(tmp_path)
    assert {"missing", "optional"} <= {finding.state for finding in findings}
    for finding in findings:
        assert bool(finding.advice) == (finding.state != "ok"), finding
