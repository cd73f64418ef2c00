"""The documentation's lines that need a container engine: build, run as an organiser does, verify."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.docs.conftest import run
from tests.docs.documented import lines

pytestmark = [pytest.mark.docker, pytest.mark.slow]
PAGE, README = "docs/tutorial-acdc.md", "README.md"
DOCUMENTED_TAG = "acdc-entry:1"


def documented(page: str, beginning: str) -> str:
    return next(line for line in lines(page) if line.startswith(beginning))


@pytest.fixture(scope="module")
def tag() -> Iterator[str]:
    name = f"nnbox-docs-{uuid.uuid4().hex[:12]}:1"
    yield name
    client = docker.from_env()
    client.images.remove(name, force=True)
    client.close()


@pytest.fixture(scope="module")
def image(trained: Path, base_image: str, tag: str) -> str:
    """Built by the tutorial's line, on the base that is here."""
    line = documented(PAGE, "nnbox build-submission image").replace(DOCUMENTED_TAG, tag)
    ended = run(trained, f"{line} --base-image {base_image} --runtime cpu")
    assert ended.code == 0, ended.err
    return tag


def test_the_readmes_docker_run_writes_the_leaderboards_files(image, trained):
    line = documented(README, "docker run").replace(DOCUMENTED_TAG, image)
    (trained / "out").mkdir()
    (trained / "out").chmod(0o777)
    done = subprocess.run(["bash", "-c", line], cwd=trained, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = sorted(path.name for path in (trained / "out").iterdir())
    assert written == ["patient101_ED.nii.gz", "patient101_ES.nii.gz", "run.json"]


def test_the_tutorials_verification_accepts_the_image(image, trained):
    line = documented(PAGE, "nnbox verify-submission image").replace(DOCUMENTED_TAG, image)
    ended = run(trained, line)
    assert ended.code == 0, ended.out + ended.err
    saved = re.search(r"--save (\S+)", line)
    assert saved is not None and (trained / saved[1]).is_file()
