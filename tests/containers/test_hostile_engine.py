"""Engines that are not there, refuse or break; full disks; damaged wheels: one line with what to do."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from container_samples import make_bundle, no_temporaries, write_wheel
from docker.context import ContextAPI
from engine_server import IMAGE, answers, engine_server, events

from nnbox_containers import docker_connection, wheelhouse
from nnbox_containers.build import ImageRecipe, build_image, check_base
from nnbox_containers.context import BuildContext, ContextFile
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.engine import BuildFailed, ImageMissing, Mount, RunLimits
from nnbox_containers.fake_engine import FakeEngine
from nnbox_containers.profiles import FOLDER
from nnbox_containers.wheelhouse import Needs, Pin, fill_wheelhouse
from nnunet_box.errors import EngineUnavailable, InvalidData, NnboxError, UsageError

CONTEXT = BuildContext((ContextFile("Dockerfile", b"FROM base:1\nRUN x\n"),))
NNBOX = Path(sys.executable).with_name("nnbox")
NEEDS = Needs("cpu")
SILENT = lambda line: None  # noqa: E731


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A path short enough for a socket."""
    folder = Path("/tmp") / f"nnbox-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder / "s"
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()


@pytest.fixture
def breaking(path, monkeypatch):
    """An engine with the given routes, which every engine made in the test asks."""

    @contextmanager
    def serve(routes):
        with engine_server(path, routes) as host:
            monkeypatch.setenv("DOCKER_HOST", host)
            yield DockerEngine()

    return serve


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "nnbox-test", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def refusal(engine: DockerEngine | None = None) -> str:
    """The one line of an engine that is not there."""
    with pytest.raises(EngineUnavailable) as error:
        (engine or DockerEngine()).inspect("a:1")
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    return str(error.value)


# No engine


@pytest.mark.parametrize(("installed", "expected"), [(True, "sudo systemctl start docker"), (False, "install Docker")])
def test_no_engine_runs_or_is_installed(tmp_path, monkeypatch, installed, expected):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    usual = ContextAPI.DEFAULT_CONTEXT.endpoints["docker"]
    monkeypatch.setitem(usual, "Host", f"unix://{tmp_path}/absent.sock")
    monkeypatch.setattr(docker_connection.shutil, "which", lambda name: f"/usr/bin/{name}" if installed else None)
    assert expected in refusal()


def test_a_docker_context_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text('{"currentContext": "far"}')
    meta = tmp_path / "contexts" / "meta" / hashlib.sha256(b"far").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    endpoint = {"Host": f"unix://{tmp_path}/absent.sock", "SkipTLSVerify": False}
    meta.write_text(json.dumps({"Name": "far", "Metadata": {}, "Endpoints": {"docker": endpoint}}))
    line = refusal()
    assert "docker context far" in line
    assert "absent.sock" in line


def test_a_context_that_is_gone_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    assert "gone" in refusal()


def _as_nobody(results) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    try:
        DockerEngine().inspect("a:1")
        results.put("it was let in")
    except EngineUnavailable as error:
        results.put(str(error))


def test_a_user_without_rights_to_the_socket_is_told_how_to_get_them(path, monkeypatch):
    path.parent.chmod(0o755)

    with engine_server(path, {}) as host:
        path.chmod(0o000)
        monkeypatch.setenv("DOCKER_HOST", host)
        fork = multiprocessing.get_context("fork")
        results = fork.SimpleQueue()
        process = fork.Process(target=_as_nobody, args=(results,))
        process.start()
        process.join(30)
        line = results.get()
    assert "No permission" in line
    assert str(path) in line
    assert "usermod -aG docker" in line


def test_a_socket_an_engine_left_behind(path, monkeypatch):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.close()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    line = refusal()
    assert "left behind" in line
    assert str(path) in line


@pytest.mark.parametrize("host", ["nonsense", "unix:/run/x.sock", "ftp://a:1", "tcp://"])
def test_docker_host_that_is_no_address(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    line = refusal()
    assert f"DOCKER_HOST={host} is not the address of an engine" in line
    assert "unset DOCKER_HOST" in line


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:1", "tcp://127.0.0.1:99999", "tcp://no-such-host.invalid:2375"])
def test_docker_host_where_nobody_answers(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    line = refusal()
    assert f"No container engine answers at DOCKER_HOST={host}" in line


@pytest.mark.parametrize("answer", [answers(b"<html>hello</html>"), answers({"name": "a web service"})])
def test_what_answers_is_something_else(breaking, answer):
    with breaking({"GET /version": answer}) as engine:
        assert "is no container engine" in refusal(engine)


def test_an_engine_of_long_ago(breaking):
    with breaking({"GET /version": answers({"Version": "1.6", "ApiVersion": "1.18"})}) as engine:
        line = refusal(engine)
    assert "too old" in line
    assert "install a newer" in line


def test_an_engine_that_hangs(path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(EngineUnavailable, match="timed out"):
            docker_connection.connect(seconds=0.5)


# Engines that break in the middle


def test_an_engine_that_dies_in_mid_build(breaking):
    said = ({"stream": "Step 1/2 : FROM base:1"}, {"stream": "Step 2/2 : RUN x"}, {"stream": "working"})
    with breaking({"POST /build": events(*said, whole=False)}) as engine, pytest.raises(BuildFailed) as failure:
        engine.build(CONTEXT, "old:1", SILENT)
    text = str(failure.value)
    assert "Step 2/2 : RUN x" in text
    assert "docker info" in text
    assert "working" in text


def test_a_build_that_ends_without_an_image_is_not_taken_for_the_older_one(breaking):
    with (
        breaking({"POST /build": events({"stream": "Step 1/2 : FROM base:1"})}) as engine,
        pytest.raises(BuildFailed, match="before the image was there"),
    ):
        assert engine.inspect("old:1").identifier == IMAGE["Id"]
        engine.build(CONTEXT, "old:1", SILENT)


def test_a_full_disk_of_the_engine_during_the_build(breaking):
    error = "failed to copy files: write /var/lib/docker/x: no space left on device"
    with (
        breaking({"POST /build": events({"stream": "Step 1/2 : COPY a /"}, {"error": error})}) as engine,
        pytest.raises(BuildFailed, match="docker system df"),
    ):
        engine.build(CONTEXT, "a:1", SILENT)


@pytest.mark.parametrize(
    "answer",
    [events({"error": "write /x: no space left on device"}), answers({"message": "no space left on device"}, 500)],
)
def test_a_full_disk_of_the_engine_during_a_load_is_no_bad_archive(breaking, tmp_path, answer):
    (tmp_path / "image.tar").write_bytes(bytes(2048))
    with (
        breaking({"POST /images/load": answer}) as engine,
        pytest.raises(NnboxError, match="docker system df") as error,
    ):
        engine.load(tmp_path / "image.tar")
    assert not isinstance(error.value, InvalidData)


def test_an_engine_that_dies_in_mid_save_leaves_no_archive(breaking, tmp_path):
    older = tmp_path / "image.tar.gz"
    older.write_bytes(b"older")
    route = lambda request: request.stream(b"half an archive", whole=False)  # noqa: E731
    with breaking({"GET /images/old:1/get": route}) as engine, pytest.raises(EngineUnavailable, match="old:1"):
        engine.save("old:1", older)
    assert older.read_bytes() == b"older"
    assert no_temporaries(tmp_path)


def test_an_engine_that_ends_an_archive_early_leaves_none(breaking, tmp_path):
    route = lambda request: request.stream(b"half an archive")  # noqa: E731
    with breaking({"GET /images/old:1/get": route}) as engine, pytest.raises(NnboxError, match="ended the archive"):
        engine.save("old:1", tmp_path / "image.tar")
    assert list(tmp_path.iterdir()) == []


RUN = {
    "POST /containers/create": answers({"Id": "c" * 64}, 201),
    "POST /containers/c+/start": answers(b"", 204),
    f"GET /containers/{'c' * 64}/json": answers({"State": {"Pid": 0}}),
}


def test_an_engine_that_dies_in_mid_run(breaking):
    removed: list[str] = []

    def remove(request):
        removed.append(request.path)
        request.answer(b"", 204)

    def dies(request):
        request.close_connection = True

    routes = {**RUN, r"POST /containers/c+/wait": dies, r"DELETE /containers/nnbox-[0-9a-f]+": remove}
    with breaking(routes) as engine, pytest.raises(EngineUnavailable, match="broke"):
        engine.run("old:1")
    assert len(removed) == 1  # it came back: nothing is left running on it


def test_an_engine_that_cannot_start_for_want_of_init(breaking):
    error = {"message": "container create: container-init binary not found on the host: stat catatonit"}
    with (
        breaking({"POST /containers/create": answers(error, 500)}) as engine,
        pytest.raises(NnboxError, match="apt-get"),
    ):
        engine.run("old:1")


def test_limits_an_engine_would_ignore_are_refused(breaking):
    # Podman without root on control groups of the first version says that it can, and does not.
    info = {"CgroupVersion": "1", "MemoryLimit": True, "PidsLimit": True, "SecurityOptions": ["name=rootless"]}
    with breaking({"GET /info": answers(info)}) as engine:
        for limits in (RunLimits(memory_bytes=1 << 30), RunLimits(pids=64), RunLimits(cpus=1.0)):
            with pytest.raises(NnboxError, match=r"cannot limit (memory|pids|cpus) here"):
                engine.run("old:1", limits=limits)
    routes = {
        "GET /info": answers(info | {"CgroupVersion": "2"}),
        "POST /containers/create": answers({"message": "enough"}, 500),
    }
    with breaking(routes) as engine, pytest.raises(NnboxError, match="enough"):
        engine.run("old:1", limits=RunLimits(memory_bytes=1 << 30))


def test_selinux_is_not_in_the_way_of_mounts(breaking, tmp_path):
    asked: list[dict] = []

    def create(request):
        asked.append(json.loads(request.body)["HostConfig"])
        request.answer({"message": "enough"}, 500)

    info = answers({"DockerRootDir": "/", "SecurityOptions": ["name=seccomp", "name=selinux"]})
    with breaking({"GET /info": info, "POST /containers/create": create}) as engine:
        for mounts in ([Mount(tmp_path, "/in")], []):
            with pytest.raises(NnboxError, match="enough"):
                engine.run("old:1", mounts=mounts)
    assert "label=disable" in asked[0]["SecurityOpt"]
    assert not asked[1].get("SecurityOpt")


# Full disks on our side


@pytest.mark.docker
@pytest.mark.parametrize("name", ["image.tar", "image.tar.gz"])
def test_a_full_disk_during_save_leaves_nothing(base_image, disk, name):
    with pytest.raises(NnboxError, match="No space left") as error:
        DockerEngine().save(base_image, disk / name)
    assert str(disk / name) in str(error.value)
    assert list(disk.iterdir()) == []


def test_a_full_disk_while_the_wheelhouse_fills(disk, tmp_path, monkeypatch):
    # A real pip, which finds a wheel of two megabytes in a folder of this machine.
    write_wheel(tmp_path / "index", "alpha", "1.0", {"alpha.py": f"x = {os.urandom(1 << 20).hex()!r}\n"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(wheelhouse, "inference_pins", lambda needs: (Pin("alpha", "1.0"),))
    with pytest.raises(NnboxError, match="No space left"):
        fill_wheelhouse(disk / "wheels", NEEDS)
    assert not [path for path in disk.rglob("*") if path.is_file()]
    monkeypatch.setattr(wheelhouse, "inference_pins", lambda needs: ())
    monkeypatch.setattr(wheelhouse, "build_pip", lambda: Pin("beta", "1.0"))
    write_wheel(disk / "wheels", "beta", "1.0", {})
    monkeypatch.setattr(wheelhouse, "own_wheel", lambda: ("nnunet_box-1-py3-none-any.whl", bytes(2 << 20)))
    with pytest.raises(NnboxError, match="No space left"):
        fill_wheelhouse(disk / "wheels", NEEDS)
    assert [path.name for path in disk.rglob("*") if path.is_file()] == ["beta-1.0-py3-none-any.whl"]


# Wheels


def test_a_wheel_is_missing_and_there_is_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(wheelhouse, "inference_pins", lambda needs: (Pin("alpha", "1.0"),))
    with pytest.raises(NnboxError, match=r"alpha==1\.0") as error:
        fill_wheelhouse(tmp_path / "wheels", NEEDS)
    assert str(tmp_path / "wheels") in str(error.value)
    assert "pip download" in str(error.value)


def test_a_damaged_wheel_is_refused_before_the_build(tmp_path, monkeypatch):
    wheel = write_wheel(tmp_path, "alpha", "1.0", {"alpha.py": "x = 1\n"})
    monkeypatch.setattr(wheelhouse, "build_pip", lambda: Pin("alpha", "1.0"))
    monkeypatch.setattr(wheelhouse, "inference_pins", lambda needs: (Pin("alpha", "1.0"),))
    assert wheel in fill_wheelhouse(tmp_path, NEEDS)
    wheel.write_bytes(wheel.read_bytes()[:-40])
    with pytest.raises(InvalidData, match="Delete it") as error:
        fill_wheelhouse(tmp_path, NEEDS)
    assert error.value.file == wheel


# Bases


@pytest.mark.docker
def test_a_base_that_is_nowhere(base_image, tmp_path):
    make_bundle(tmp_path / "nnbox" / "bundles" / "heart", dataset="heart")
    command = [
        NNBOX,
        "build-submission",
        "image",
        "--workspace",
        tmp_path / "nnbox",
        "--base-image",
        "nnbox-test-nowhere:1",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == ImageMissing.exit_code
    (line,) = done.stderr.strip().splitlines()
    assert "nnbox-test-nowhere:1" in line
    assert not (tmp_path / "nnbox" / "wheelhouse").exists()


@contextmanager
def built(dockerfile: str) -> Iterator[tuple[DockerEngine, str]]:
    engine, tag = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    engine.build(BuildContext((ContextFile("Dockerfile", dockerfile.encode()),)), tag, SILENT)
    try:
        yield engine, tag
    finally:
        engine.remove(tag)


@pytest.mark.docker
def test_a_base_without_python(base_image):
    with (
        built('FROM scratch\nCOPY Dockerfile /\nCMD ["x"]\n') as (engine, tag),
        pytest.raises(UsageError, match="no python3"),
    ):
        check_base(engine, tag)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("said", "expected"),
    [({"python": "3.8"}, r"python 3\.8 instead of"), ({"machine": "aarch64"}, "machine aarch64 instead of")],
)
def test_a_base_of_another_python_or_processor(base_image, said, expected):
    from test_image import THIS_PYTHON

    told = json.dumps(THIS_PYTHON | said).replace('"', '\\"')
    # A stand-in for that base's interpreter: what it would answer.
    script = "/usr/local/bin/python3"
    write = f"printf '#!/bin/sh\\necho \"%s\"\\n' '{told}' > {script} && chmod +x {script}"
    dockerfile = f"FROM {base_image}\nRUN {write}\n"
    with built(dockerfile) as (engine, tag), pytest.raises(UsageError, match=expected) as error:
        check_base(engine, tag)
    assert "--base-image" in str(error.value)


# Builds


SLOW_BUILD = """
import sys
from nnbox_containers.context import BuildContext, ContextFile
from nnbox_containers.docker_engine import DockerEngine
dockerfile = f"FROM {sys.argv[1]}\\nRUN echo {sys.argv[2]} && sleep {sys.argv[3]}\\nRUN touch /after\\n"
DockerEngine().build(BuildContext((ContextFile("Dockerfile", dockerfile.encode()),)), sys.argv[2], print)
"""


@pytest.mark.parametrize(
    "kind", [pytest.param("docker", marks=pytest.mark.docker), pytest.param("podman", marks=pytest.mark.podman)]
)
def test_a_cancelled_build_leaves_no_container(request, kind, monkeypatch):
    if kind == "podman":
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("podman_address"))
    engine, tag = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}"
    # Podman 4.3 notices a caller that is gone between two steps only; the one that runs is let end.
    seconds = "5" if kind == "podman" else "300"
    command = [sys.executable, "-u", "-c", SLOW_BUILD, request.config.getoption("--base-image"), tag, seconds]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.strip() == tag:  # the step's own output: it runs
            break
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert process.returncode != 0
    deadline = time.monotonic() + 30
    step = ["pgrep", "-f", f"echo {tag} && sleep"]
    while subprocess.run(step, capture_output=True, text=True).stdout:
        assert time.monotonic() < deadline, "the step goes on"
        time.sleep(0.2)
    time.sleep(1)
    assert not [c for c in engine._api.containers(all=True) if tag in str(c["Command"])]
    with pytest.raises(ImageMissing):
        engine.inspect(tag)


SLOW_RUN = """
import sys
from nnbox_containers.docker_engine import DockerEngine
DockerEngine().run(sys.argv[1], ["-c", "import time; time.sleep(300)", sys.argv[2]], entrypoint=["python3"])
"""


@pytest.mark.docker
def test_a_scheduler_that_ends_nnbox_ends_its_container(base_image):
    engine, word = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}"
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, base_image, word])

    def states() -> list[str]:
        return [entry["State"] for entry in engine._api.containers(all=True) if word in str(entry["Command"])]

    deadline = time.monotonic() + 60
    while "running" not in states():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not states()


def test_a_tag_that_is_none_is_refused_without_an_engine(tmp_path, monkeypatch):
    make_bundle(tmp_path / "nnbox" / "bundles" / "heart", dataset="heart")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    command = [NNBOX, "build-submission", "image", "--workspace", tmp_path / "nnbox", "--tag", "a@sha256:1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == UsageError.exit_code
    (line,) = done.stderr.strip().splitlines()
    assert "not the name of an image" in line


@pytest.mark.docker
def test_two_builds_of_one_tag_at_once_are_told_apart(base_image):
    tag, made = f"nnbox-test-{uuid.uuid4().hex[:12]}:1", dict[int, str]()

    def build(number: int) -> None:
        dockerfile = f'FROM scratch\nCOPY Dockerfile /\nLABEL "number"="{number}"\nCMD ["x"]\n'.encode()
        made[number] = DockerEngine().build(BuildContext((ContextFile("Dockerfile", dockerfile),)), tag, SILENT)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine = DockerEngine()
    try:
        # Each knows its own image, whoever has the tag in the end.
        assert {number: engine.inspect(made[number]).labels["number"] for number in made} == {0: "0", 1: "1"}
        assert engine.inspect(tag).identifier in made.values()
    finally:
        for identifier in made.values():
            with suppress(NnboxError):
                engine.remove(identifier)


def test_a_tag_that_another_build_took_is_not_taken_for_ours(tmp_path):
    class Contested(FakeEngine):
        def build(self, context, tag, listen):
            identifier = super().build(context, tag, listen)
            self.images[tag] = replace(self.images[tag], identifier="sha256:another")
            return identifier

    recipe = ImageRecipe("a:1", FOLDER, "base:1", "", CONTEXT)
    with pytest.raises(BuildFailed, match="another build"):
        build_image(Contested(), recipe, SILENT)
