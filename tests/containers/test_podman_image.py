"""A submission image built by the command line, run under every limit and saved, all through Podman."""

from __future__ import annotations

import json
import tarfile
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from container_samples import make_bundle, pip_wheel, probe_wheel, write_wheel
from typer.testing import CliRunner

from nnbox_containers import wheelhouse
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.engine import Mount
from nnbox_containers.profiles import FOLDER
from nnbox_containers.wheelhouse import Pin
from nnunet_box.cli import build_submission
from nnunet_box.errors import NnboxError


@pytest.mark.podman
@pytest.mark.slow
def test_the_whole_way_through_podman(podman_address, request, tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", podman_address)
    make_bundle(tmp_path / "nnbox" / "bundles" / "heart", dataset="heart")
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "alpha", "1.0", {"alpha.py": "answer = 42\n"})
    pip_wheel(wheels)
    program = probe_wheel(tmp_path / "program")
    monkeypatch.setattr(wheelhouse, "inference_pins", lambda needs: (Pin("alpha", "1.0"),))
    monkeypatch.setattr(wheelhouse, "own_wheel", lambda: (program.name, program.read_bytes()))
    app = typer.Typer()
    build_submission.register(app)
    engine, tag = DockerEngine(), f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    base = request.config.getoption("--base-image")
    command = ["build-submission", "image", "--workspace", tmp_path / "nnbox", "--wheelhouse", wheels]
    before = {image["Id"] for image in engine._api.images(all=True)}
    try:
        built = CliRunner().invoke(app, [str(word) for word in [*command, "--base-image", base, "--tag", tag]])
        assert built.exit_code == 0, built.output
        assert "Step " in built.stderr
        assert built.stdout.startswith("docker run --rm --network none")
        facts = engine.inspect(tag)
        assert facts.user == "1000:1000"
        assert facts.labels["org.nnunet-box.challenge"] == "acdc"

        for folder in ("in", "out"):
            (tmp_path / folder).mkdir()
        (tmp_path / "out").chmod(0o777)
        mounts = [Mount(tmp_path / "in", "/input", read_only=True), Mount(tmp_path / "out", "/output")]
        result = engine.run(tag, mounts=mounts, limits=FOLDER.strictest)
        assert result.exit_code == 0, result.stderr
        seen = json.loads((tmp_path / "out" / "probe.json").read_text())
        assert (seen["uid"], seen["gid"]) == (12345, 12345)
        assert seen["root_refused"]
        assert not seen["tmp_refused"]
        assert seen["shm"] == 64 << 20

        archive = tmp_path / "image.tar"
        engine.save(tag, archive)
        with tarfile.open(archive) as file:
            (entry,) = json.load(file.extractfile("manifest.json"))
        assert [name.removeprefix("docker.io/library/") for name in entry["RepoTags"]] == [tag]
    finally:
        with suppress(NnboxError):
            engine.remove(tag)
        for image in engine._api.images(all=True):
            # The first stage stays behind untagged, as the cache of the next build.
            if image["Id"] not in before and not image["RepoTags"]:
                with suppress(NnboxError):
                    engine.remove(image["Id"])


@pytest.mark.podman
@pytest.mark.docker
def test_what_podman_saved_docker_loads_under_the_same_name(podman_address, base_image, tmp_path, monkeypatch):
    from nnbox_containers.context import BuildContext, ContextFile

    docker, podman = DockerEngine(), DockerEngine()
    assert docker.facts.name == "docker"
    monkeypatch.setenv("DOCKER_HOST", podman_address)
    assert podman.facts.name == "podman"
    tag = f"nnbox-test-{uuid.uuid4().hex[:12]}:1"
    context = BuildContext((ContextFile("Dockerfile", b'FROM scratch\nCOPY Dockerfile /\nCMD ["x"]\n'),))
    for first, second in ((podman, docker), (docker, podman)):
        archive: Path = tmp_path / f"{first.facts.name}.tar.gz"
        identifier = first.build(context, tag, lambda line: None)
        try:
            first.save(tag, archive)
        finally:
            first.remove(tag)
        assert second.load(archive) == tag
        assert second.inspect(tag).identifier == identifier
        second.remove(tag)
