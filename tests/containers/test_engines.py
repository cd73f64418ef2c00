"""What every ContainerEngine does, checked on the one in memory and on the real one."""

from __future__ import annotations

import tarfile
import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest

from nnbox_containers.context import BuildContext, ContextFile
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.engine import BuildFailed, ContainerEngine, ImageMissing, Mount, RunLimits, RunResult, StartFailed
from nnbox_containers.fake_engine import FakeEngine
from nnunet_box.errors import InvalidData

DOCKERFILE = """FROM {base}
# the context's file is here
COPY notes.txt /notes.txt
USER 1000:1000
ENTRYPOINT ["python3", "-c"]
LABEL "plain"="a \\"b\\" \\$HOME" \\
      "org.opencontainers.image.title"="x=y"
"""


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
def engine(request: pytest.FixtureRequest) -> ContainerEngine:
    return FakeEngine() if request.param == "fake" else DockerEngine()


@pytest.fixture
def base(request: pytest.FixtureRequest, engine: ContainerEngine) -> str:
    return "any:base" if isinstance(engine, FakeEngine) else request.getfixturevalue("base_image")


@pytest.fixture
def tag(engine: ContainerEngine) -> Iterator[str]:
    name = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    yield name
    with suppress(ImageMissing):
        engine.remove(name)


@pytest.fixture
def docker_tag(base_image: str) -> Iterator[tuple[DockerEngine, str]]:
    """The real engine and the name of a small image in it, whose command is a Python program."""
    engine, name = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    engine.build(context(base_image), name, lambda line: None)
    yield engine, name
    engine.remove(name)


def context(base: str, dockerfile: str = DOCKERFILE) -> BuildContext:
    return BuildContext((
        ContextFile("Dockerfile", dockerfile.format(base=base).encode()),
        ContextFile("notes.txt", b"notes"),
    ))  # fmt: skip


def test_build_inspect_save_load_remove(engine, base, tag, tmp_path):
    lines: list[str] = []
    identifier = engine.build(context(base), tag, lines.append)
    assert any(line.startswith("Step 2/") and "COPY notes.txt" in line for line in lines)
    facts = engine.inspect(tag)
    assert facts.identifier == identifier
    assert identifier.startswith("sha256:")
    assert tag in facts.tags
    assert facts.user == "1000:1000"
    assert facts.entrypoint == ("python3", "-c")
    assert facts.labels["plain"] == 'a "b" $HOME'
    assert facts.labels["org.opencontainers.image.title"] == "x=y"
    assert facts.size_bytes > 0

    archive = tmp_path / "image.tar"
    engine.save(tag, archive)
    with tarfile.open(archive) as file:
        assert "manifest.json" in file.getnames()
    engine.remove(tag)
    with pytest.raises(ImageMissing, match=tag):
        engine.inspect(tag)
    assert engine.load(archive) == tag
    assert engine.inspect(tag).identifier == identifier


def test_a_missing_image_is_named(engine, tmp_path):
    name = f"nnbox-test-absent-{uuid.uuid4().hex[:8]}:1"
    for verb in (engine.inspect, engine.remove, lambda image: engine.save(image, tmp_path / "image.tar")):
        with pytest.raises(ImageMissing, match=name):
            verb(name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_archive_is_refused(engine, tmp_path):
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"not a tar " * 200)
    with pytest.raises(InvalidData) as refusal:
        engine.load(archive)
    assert refusal.value.file == archive


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
    assert engine.run("a:1", ["x"], entrypoint=["sh"]).stdout == "sh x"


@pytest.mark.docker
def test_a_failing_step_shows_its_output_and_leaves_no_container(base_image):
    import docker

    engine, name = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    client = docker.from_env()
    before = {container.id for container in client.containers.list(all=True)}
    failing = "FROM {base}\nRUN echo the reason is this >&2; exit 3\n"
    with pytest.raises(BuildFailed) as failure:
        engine.build(context(base_image, failing), name, lambda line: None)
    text = str(failure.value)
    assert "Step 2/2" in text
    assert "the reason is this" in text
    assert "code: 3" in text
    assert {container.id for container in client.containers.list(all=True)} <= before
    client.close()


@pytest.mark.docker
def test_a_build_has_no_network(base_image):
    engine, name = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    only_loopback = 'FROM {base}\nRUN test "$(ls /sys/class/net)" = lo\n'
    engine.build(context(base_image, only_loopback), name, lambda line: None)
    engine.remove(name)


@pytest.mark.docker
def test_a_syntax_error_in_the_dockerfile_is_a_failed_build(base_image):
    with pytest.raises(BuildFailed, match="FRUIT"):
        DockerEngine().build(context(base_image, "FRUIT {base}\n"), "nnbox-test-syntax:1", lambda line: None)


@pytest.mark.docker
def test_a_base_that_cannot_be_fetched_is_named():
    with pytest.raises(BuildFailed, match="nnbox-test-no-such-base"):
        DockerEngine().build(context("nnbox-test-no-such-base:0"), "nnbox-test-base:1", lambda line: None)
    with pytest.raises(ImageMissing, match="nnbox-test-no-such-base"):
        DockerEngine().run("nnbox-test-no-such-base:0", ["x"])


@pytest.mark.docker
def test_run_gives_streams_exit_code_and_mounts(docker_tag, tmp_path):
    engine, name = docker_tag
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("42")
    program = "import sys; print(open('/in/a').read()); print('oh', file=sys.stderr); sys.exit(3)"
    result = engine.run(name, [program], mounts=[Mount(tmp_path / "in", "/in", read_only=True)])
    assert (result.exit_code, result.stdout, result.stderr, result.timed_out) == (3, "42\n", "oh\n", False)
    assert engine.run(name, ["echo $0"], entrypoint=["sh", "-c"]).stdout == "sh\n"
    refused = engine.run(name, ["open('/in/b', 'w')"], mounts=[Mount(tmp_path / "in", "/in", read_only=True)])
    assert refused.exit_code == 1
    assert "Read-only file system" in refused.stderr


@pytest.mark.docker
def test_a_container_that_takes_too_long_is_stopped_and_removed(docker_tag):
    import docker

    engine, name = docker_tag
    client = docker.from_env()
    # The engine answers "ancestor" by content: what an earlier, killed run left of the same image is in it too.
    before = {container.id for container in client.containers.list(all=True)}
    result = engine.run(name, ["import time; print('here', flush=True); time.sleep(600)"], limits=RunLimits(seconds=3))
    assert result.timed_out
    assert result.exit_code != 0
    assert result.stdout == "here\n"
    assert {container.id for container in client.containers.list(all=True)} <= before
    client.close()


@pytest.mark.docker
def test_a_command_that_does_not_exist_cannot_start(docker_tag):
    engine, name = docker_tag
    with pytest.raises(StartFailed, match="no-such-command"):
        engine.run(name, entrypoint=["no-such-command"])


@pytest.mark.docker
def test_a_saved_archive_is_whole_or_absent(docker_tag, tmp_path, monkeypatch):
    engine, name = docker_tag

    def breaks(*_, **__):
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine._api, "get_image", breaks)
    with pytest.raises(Exception, match="No space left"):
        engine.save(name, tmp_path / "image.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_fake_without_dockerfile_fails():
    with pytest.raises(BuildFailed, match="no Dockerfile"):
        FakeEngine().build(BuildContext(()), "a:1", lambda line: None)
