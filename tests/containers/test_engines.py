"""What every ContainerEngine does, checked on the one in memory, on Docker and on Podman."""

from __future__ import annotations

import gzip
import json
import os
import signal
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nnbox_containers import docker_engine
from nnbox_containers.context import BuildContext, ContextFile
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.docker_run import memory_group
from nnbox_containers.engine import BuildFailed, ContainerEngine, ImageMissing, Mount, RunLimits, RunResult, StartFailed
from nnbox_containers.fake_engine import FakeEngine
from nnunet_box.errors import InvalidData, NnboxError, UsageError

DOCKERFILE = """FROM {base} AS first
LABEL "first"="stage"
FROM {base}
# the context's file is here
COPY notes.txt /notes.txt
USER 1000:1000
WORKDIR /tmp
ENV A=b
EXPOSE 4743
ENTRYPOINT ["python3", "-c"]
CMD ["print(42)"]
LABEL "plain"="a \\"b\\" \\$HOME" \\
      "org.opencontainers.image.title"="x=y"
"""
# Everything a limit does, as a program inside sees it.
PROBE = """
import json, os, pathlib, resource, threading, time
def refused(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
        return False
    except OSError:
        return True
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
shm = os.statvfs("/dev/shm")
group = pathlib.Path("/sys/fs/cgroup")
quota = group / "cpu" / "cpu.cfs_quota_us"
cpus = (int(quota.read_text()) / int((group / "cpu" / "cpu.cfs_period_us").read_text()) if quota.exists()
        else int((group / "cpu.max").read_text().split()[0]) / 1e5)
wait, started = threading.Event(), 0
try:
    for started in range(200):
        threading.Thread(target=wait.wait, daemon=True).start()
except RuntimeError:
    pass
wait.set()
print(json.dumps({
    "network": sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line),
    "root_refused": refused("/"), "run_refused": refused("/run"), "tmp_refused": refused("/tmp"),
    "shm": shm.f_frsize * shm.f_blocks, "uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid(),
    "capabilities": int(status["CapBnd"], 16), "no_new_privileges": status["NoNewPrivs"],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "cpus": cpus, "threads": started,
}))
"""
REAL = [pytest.param("docker", marks=pytest.mark.docker), pytest.param("podman", marks=pytest.mark.podman)]


def real_engine(request: pytest.FixtureRequest) -> DockerEngine:
    """The engine of the fixture's parameter, connected."""
    with pytest.MonkeyPatch.context() as environment:
        if request.param == "podman":
            environment.setenv("DOCKER_HOST", request.getfixturevalue("podman_address"))
        engine = DockerEngine()
        assert engine.facts.name == request.param
    return engine


def name_of(request: pytest.FixtureRequest, engine: ContainerEngine) -> str:
    name: str = request.config.getoption("--base-image")
    if isinstance(engine, DockerEngine):
        engine.inspect(name)
    return name


@pytest.fixture(scope="module", params=["fake", *REAL])
def engine(request: pytest.FixtureRequest) -> ContainerEngine:
    return FakeEngine() if request.param == "fake" else real_engine(request)


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest, engine: ContainerEngine) -> str:
    return name_of(request, engine)


@pytest.fixture
def tag(engine: ContainerEngine) -> Iterator[str]:
    name = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    yield name
    with suppress(ImageMissing):
        engine.remove(name)


@pytest.fixture(scope="module", params=REAL)
def real(request: pytest.FixtureRequest) -> DockerEngine:
    return real_engine(request)


@pytest.fixture(scope="module")
def real_base(request: pytest.FixtureRequest, real: DockerEngine) -> str:
    return name_of(request, real)


@pytest.fixture(scope="module")
def image(real: DockerEngine, real_base: str) -> Iterator[str]:
    """A small image whose command is a Python program."""
    name = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    real.build(context(real_base), name, lambda line: None)
    yield name
    real.remove(name)


def context(base: str, dockerfile: str = DOCKERFILE) -> BuildContext:
    return BuildContext((
        ContextFile("Dockerfile", dockerfile.format(base=base).encode()),
        ContextFile("notes.txt", b"notes"),
    ))  # fmt: skip


def containers(engine: DockerEngine) -> set[str]:
    return {container["Id"] for container in engine._api.containers(all=True)}


def ours(engine: DockerEngine, image: str) -> list[str]:
    """Containers of an image; nobody else makes any of it."""
    identifier = engine.inspect(image).identifier
    return [entry["Id"] for entry in engine._api.containers(all=True) if entry["ImageID"].endswith(identifier[-64:])]


def test_build_inspect_save_load_remove(engine, tag, tmp_path):
    lines: list[str] = []
    identifier = engine.build(context("scratch"), tag, lines.append)
    assert any(line.startswith("Step ") and line.endswith(" : COPY notes.txt /notes.txt") for line in lines)
    facts = engine.inspect(tag)
    assert facts.identifier == identifier
    assert identifier.startswith("sha256:")
    assert tag in facts.tags
    assert facts.user == "1000:1000"
    assert facts.entrypoint == ("python3", "-c")
    assert facts.command == ("print(42)",)
    assert facts.working_directory == "/tmp"
    assert facts.exposed_ports == ("4743/tcp",)
    assert facts.environment["A"] == "b"
    assert facts.labels["plain"] == 'a "b" $HOME'
    assert facts.labels["org.opencontainers.image.title"] == "x=y"
    assert "first" not in facts.labels
    assert facts.size_bytes > 0
    assert all(layer.startswith("sha256:") for layer in facts.layers)
    assert facts.layers

    archive = tmp_path / "image.tar"
    told: list[tuple[int, int]] = []
    engine.save(tag, archive, lambda received, expected: told.append((received, expected)))
    assert told == sorted(told)
    assert told[-1][0] <= archive.stat().st_size
    with tarfile.open(archive) as file:
        assert "manifest.json" in file.getnames()
    engine.remove(tag)
    with pytest.raises(ImageMissing, match=tag):
        engine.inspect(tag)
    assert engine.load(archive) == tag
    assert engine.inspect(tag).identifier == identifier


def test_a_compressed_archive_is_the_same_each_time_and_loads(engine, tag, tmp_path):
    dockerfile = 'FROM {base}\nCOPY notes.txt /notes.txt\nCMD ["x"]\n'
    identifier = engine.build(context("scratch", dockerfile), tag, lambda line: None)
    for name in ("a.tar.gz", "b.tar.gz"):
        engine.save(tag, tmp_path / name)
    first = (tmp_path / "a.tar.gz").read_bytes()
    assert first[:4] == b"\x1f\x8b\x08\x00"  # gzip, without a name
    assert first[4:8] == bytes(4)  # and without a time
    assert first == (tmp_path / "b.tar.gz").read_bytes()
    with gzip.open(tmp_path / "a.tar.gz") as plain, tarfile.open(fileobj=plain) as file:
        assert "manifest.json" in file.getnames()
    engine.remove(tag)
    assert engine.load(tmp_path / "a.tar.gz") == tag
    assert engine.inspect(tag).identifier == identifier


def test_a_missing_image_is_named(engine, tmp_path):
    name = f"nnbox-test-absent-{uuid.uuid4().hex[:8]}:1"
    for verb in (engine.inspect, engine.remove, lambda image: engine.save(image, tmp_path / "image.tar")):
        with pytest.raises(ImageMissing, match=name):
            verb(name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_archive_is_refused(engine, tmp_path):
    archive = tmp_path / "image.tar"
    with pytest.raises(InvalidData, match="no such file"):
        engine.load(archive)
    archive.write_bytes(b"not a tar " * 200)
    with pytest.raises(InvalidData) as refusal:
        engine.load(archive)
    assert refusal.value.file == archive
    assert "\n" not in str(refusal.value)


def test_a_file_the_context_lacks_fails_with_the_step(engine, base, tag):
    with pytest.raises(BuildFailed, match=rf"(?s){tag}.*COPY absent\.txt"):
        engine.build(context(base, "FROM {base}\nCOPY absent.txt /x\n"), tag, lambda line: None)
    with pytest.raises(ImageMissing):
        engine.inspect(tag)


def test_the_fake_answers_as_it_is_told():
    def answer(image, command, limits):
        return RunResult(7, " ".join(command), limits.network)

    engine = FakeEngine(answer=answer)
    engine.build(context("any:base"), "a:1", lambda line: None)
    assert engine.run("a:1", ["x"]) == RunResult(7, "python3 -c x", "none")
    assert engine.run("a:1") == RunResult(7, "python3 -c print(42)", "none")
    assert engine.run("a:1", ["x"], entrypoint=["sh"]).stdout == "sh x"


def test_a_fake_without_dockerfile_fails():
    with pytest.raises(BuildFailed, match="no Dockerfile"):
        FakeEngine().build(BuildContext(()), "a:1", lambda line: None)


def test_limits_are_printed_as_docker_run_takes_them():
    limits = RunLimits(
        memory_bytes=512 << 20, cpus=1.5, ulimits={"nproc": 64, "nofile": 1024}, init=True, user="1:1", pids=64
    )
    assert " ".join(limits.arguments()) == (
        "--network none --pids-limit 64 --memory 512m --memory-swap 512m --cpus 1.5 "
        "--ulimit nofile=1024:1024 --ulimit nproc=64:64 --init --user 1:1"
    )


def test_a_failing_step_shows_its_output_and_leaves_no_container(real, real_base):
    before = containers(real)
    name = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    failing = f"FROM {{base}}\nRUN echo {name}; echo the reason is this >&2; exit 3\n"
    with pytest.raises(BuildFailed) as failure:
        real.build(context(real_base, failing), name, lambda line: None)
    text = str(failure.value)
    assert "Step 2/2" in text
    assert "the reason is this" in text
    assert "3" in text.split("RUN echo")[-1]
    made = [entry for entry in real._api.containers(all=True) if name in str(entry.get("Command"))]
    assert not made
    assert {entry for entry in containers(real) - before if entry in made} == set()


def test_a_build_has_no_network(real, real_base):
    name = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    # Not /sys/class/net, which may be the machine's. The random name keeps an earlier answer out of the cache.
    check = f'FROM {{base}}\nRUN echo {name}; test "$(grep -c : /proc/net/dev)" = 1 && grep -q lo: /proc/net/dev\n'
    real.build(context(real_base, check), name, lambda line: None)
    real.remove(name)


def test_a_syntax_error_in_the_dockerfile_is_a_failed_build(real, real_base):
    with pytest.raises(BuildFailed, match=r"FRUIT|no FROM"):
        real.build(context(real_base, "FRUIT {base}\n"), "nnbox-test-syntax:1", lambda line: None)


def test_a_base_that_cannot_be_fetched_is_named_with_what_to_do(real):
    with pytest.raises(BuildFailed, match="nnbox-test-no-such-base"):
        real.build(context("nnbox-test-no-such-base:0"), "nnbox-test-base:1", lambda line: None)
    with pytest.raises(ImageMissing, match=r"nnbox-test-no-such-base.*(--base-image|docker login)"):
        real.run("nnbox-test-no-such-base:0", ["x"])


def test_run_gives_streams_exit_code_and_mounts(real, image, tmp_path):
    folder = tmp_path / "in: a"
    folder.mkdir()
    (folder / "a").write_text("42")
    program = "import sys; print(open('/in/a').read()); print('oh', file=sys.stderr); sys.exit(3)"
    result = real.run(image, [program], mounts=[Mount(folder, "/in", read_only=True)])
    assert (result.exit_code, result.stdout, result.stderr, result.timed_out) == (3, "42\n", "oh\n", False)
    assert 0 < result.seconds < 60
    assert not result.killed_for_memory
    assert real.run(image).stdout == "42\n"
    assert real.run(image, ["echo $0"], entrypoint=["sh", "-c"]).stdout == "sh\n"
    refused = real.run(image, ["open('/in/b', 'w')"], mounts=[Mount(folder, "/in", read_only=True)])
    assert refused.exit_code == 1
    assert "Read-only file system" in refused.stderr


def test_a_folder_that_is_not_there_is_not_made(real, image, tmp_path, monkeypatch):
    with pytest.raises(InvalidData, match="/in"):
        real.run(image, mounts=[Mount(tmp_path / "absent", "/in")])
    assert not (tmp_path / "absent").exists()
    if real.facts.is_podman:
        return  # as a service on another machine it makes an empty folder there, and nobody here can prevent it
    monkeypatch.setattr(docker_engine, "require_sources", lambda mounts: None)
    with pytest.raises(NnboxError, match="another machine"):
        real.run(image, mounts=[Mount(tmp_path / "absent", "/in")])
    assert not (tmp_path / "absent").exists()
    assert not ours(real, image)


def test_every_limit_holds_inside(real, image):
    limits = RunLimits(
        read_only=True,
        tmpfs=("/tmp",),
        drop_capabilities=True,
        no_new_privileges=True,
        pids=64,
        shm_bytes=64 << 20,
        memory_bytes=512 << 20,
        user="12345:12345",
        ulimits={"nofile": 512},
        cpus=0.5,
        seconds=60,
    )
    result = real.run(image, [PROBE], limits=limits)
    assert result.exit_code == 0, result.stderr
    seen = json.loads(result.stdout)
    assert seen["network"] == ["lo"]
    assert (seen["root_refused"], seen["run_refused"], seen["tmp_refused"]) == (True, True, False)
    assert (seen["uid"], seen["gid"], seen["pid"]) == (12345, 12345, 1)
    assert (seen["capabilities"], seen["no_new_privileges"]) == (0, "1")
    assert seen["shm"] == 64 << 20
    assert seen["files"] == [512, 512]
    assert seen["cpus"] == pytest.approx(0.5)
    assert 32 <= seen["threads"] < 64


def test_without_limits_none_is_set(real, image):
    seen = json.loads(real.run(image, [PROBE]).stdout)
    assert seen["capabilities"] != 0
    assert seen["no_new_privileges"] == "0"
    assert seen["network"] == ["lo"]  # a submission never gets one
    assert seen["cpus"] < 0 or seen["cpus"] > 0.5
    assert (seen["uid"], seen["gid"]) == (1000, 1000)


def test_init_is_the_first_process(real, image):
    assert real.run(image, ["import os; print(os.getpid() > 1)"], limits=RunLimits(init=True)).stdout == "True\n"


def test_the_peak_of_memory_is_measured(request, real, image, monkeypatch):
    program = "import time; a = bytearray(200 << 20); del a; time.sleep(1.5)"
    result = real.run(image, [program])
    assert 200 << 20 <= result.peak_memory_bytes < 400 << 20
    assert result.seconds >= 1.5

    # As for an engine on another machine: it is asked, and sees what is held when it is asked.
    monkeypatch.setattr(real, "_group", lambda container: None)
    if real.facts.is_podman:
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("podman_address"))
    held = "import time; a = bytearray(200 << 20); time.sleep(3)"
    assert 200 << 20 <= real.run(image, [held]).peak_memory_bytes < 400 << 20


def test_more_memory_than_allowed_is_told_apart_from_a_failure(real, image):
    # What the kernel ends is not the container's first process, which lives on.
    child = "subprocess.run([sys.executable, '-c', 'bytearray(300 << 20)'])"
    program = f"import subprocess, sys, time; {child}; time.sleep(1); sys.exit(5)"
    result = real.run(image, [program], limits=RunLimits(memory_bytes=128 << 20, seconds=60))
    assert result.killed_for_memory
    assert result.exit_code == 5
    assert not result.timed_out
    result = real.run(
        image, ["import time; time.sleep(0.5); bytearray(300 << 20)"], limits=RunLimits(memory_bytes=128 << 20)
    )
    assert result.exit_code == 137
    assert result.killed_for_memory
    assert result.peak_memory_bytes <= 129 << 20
    assert not real.run(image, ["import os; os.kill(1, 15); raise SystemExit(137)"]).killed_for_memory


def test_a_container_over_its_time_may_end_by_itself(real, image):
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(4)); "
        "print('here', flush=True); time.sleep(600)"
    )
    began = time.monotonic()
    result = real.run(image, [program], limits=RunLimits(seconds=2))
    assert result.timed_out
    assert (result.exit_code, result.stdout) == (4, "here\n")
    assert 2 <= result.seconds < 2 + docker_engine.GRACE_SECONDS
    assert time.monotonic() - began < 60
    assert not ours(real, image)


def test_a_container_that_does_not_listen_is_killed_and_removed(real, image, monkeypatch):
    monkeypatch.setattr(docker_engine, "GRACE_SECONDS", 1)
    # The first process of a container ignores a signal it has no handler for.
    result = real.run(image, ["import time; time.sleep(600)"], limits=RunLimits(seconds=1))
    assert result.timed_out
    assert result.exit_code == 137
    assert not result.killed_for_memory
    assert not ours(real, image)


def test_an_interrupt_removes_the_container(real, image):
    timer = threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            real.run(image, ["import time; time.sleep(600)"])
    finally:
        timer.cancel()
    assert not ours(real, image)


def test_a_command_that_does_not_exist_cannot_start(real, image):
    with pytest.raises(StartFailed, match="no-such-command"):
        real.run(image, entrypoint=["no-such-command"])
    assert not ours(real, image)


def test_another_processors_program_is_explained(real, real_base):
    name = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    # A program for another processor, as far as this kernel cares: the right magic number, no known machine.
    mark = "printf '\\377\\377' | dd of=/x bs=1 seek=18 conv=notrunc"
    foreign = f"FROM {{base}}\nRUN head -c 64 /usr/bin/python3 > /x && {mark} && chmod +x /x\n"
    real.build(context(real_base, foreign), name, lambda line: None)
    try:
        with pytest.raises(StartFailed, match="architecture"):
            real.run(name, entrypoint=["/x"])
    finally:
        real.remove(name)


def test_another_platform_is_refused(real, image):
    with pytest.raises(NnboxError, match=r"(?i)arm64|architecture|platform"):
        real.run(image, platform="linux/arm64")


@pytest.mark.parametrize("bad", ["Upper:1", "a b", "x:y:z"])
def test_what_is_no_name_is_a_usage_error(real, bad):
    with pytest.raises(UsageError, match="not the name of an image"):
        real.inspect(bad)


def test_a_saved_archive_is_whole_or_absent(real, image, tmp_path, monkeypatch):
    def breaks(*_, **__):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(real._api, "get_image", breaks)
    with pytest.raises(Exception, match="No space left"):
        real.save(image, tmp_path / "image.tar")
    monkeypatch.setattr(real._api, "get_image", lambda *_, **__: iter([b"half"]))
    with pytest.raises(NnboxError, match="ended the archive"):
        real.save(image, tmp_path / "image.tar")
    assert list(tmp_path.iterdir()) == []


GROUP_FILES = {
    "first version": ("4:memory:/docker/{id}\n0::/docker/{id}\n", "memory/docker/{id}/memory.max_usage_in_bytes"),
    "second version": ("0::/system.slice/docker-{id}.scope\n", "system.slice/docker-{id}.scope/memory.peak"),
    "old kernel": ("0::/libpod_parent/libpod-{id}\n", "libpod_parent/libpod-{id}/memory.current"),
}


@pytest.mark.parametrize("kind", GROUP_FILES)
def test_the_control_group_is_found(tmp_path, kind):
    container = "ab" * 32
    lines, file = (text.format(id=container) for text in GROUP_FILES[kind])
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(lines)
    path = tmp_path / "group" / file
    path.parent.mkdir(parents=True)
    path.write_text("1\n")
    places = {"groups": tmp_path / "group", "processes": tmp_path / "proc"}
    assert memory_group({"Pid": 7}, container, **places) == path.parent
    # The same number of another machine's engine means another process here.
    assert memory_group({"Pid": 7}, "cd" * 32, **places) is None
    assert memory_group({"Pid": 0}, container, **places) is None
    path.unlink()
    assert memory_group({"Pid": 7}, container, **places) is None


def test_facts_of_an_engine(real):
    facts = real.facts
    assert facts.version[0].isdigit()
    assert facts.cgroup_version in {"1", "2"}
    assert isinstance(facts.storage, Path)
    assert replace(facts, name="podman").is_podman
