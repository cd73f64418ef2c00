"""The submission image, built by a real engine and run with everything taken away that it does not need."""

from __future__ import annotations

import json
from collections.abc import Iterator

import docker
import pytest
from e2e_files import same_grid
from e2e_run import nnbox

TAG = "nnbox-e2e:test"
pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def image(finished, base_image) -> Iterator[str]:
    arguments = ["--challenge", "acdc", "--tag", TAG, "--base-image", base_image, "--workspace", finished]
    ended = nnbox("build-submission", "image", "acdc", *arguments)
    assert ended.code == 0, ended.err
    yield TAG
    client = docker.from_env()
    client.images.remove(TAG, force=True)
    client.close()


def test_image_writes_what_was_predicted_here(image, finished, download, tmp_path):
    out, here = tmp_path / "out", tmp_path / "here"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    tests = download / "database" / "testing"
    client = docker.from_env()
    try:
        client.containers.run(
            image,
            network_mode="none",
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=64,
            shm_size="64m",
            user="12345:12345",
            volumes={str(tests): {"bind": "/input", "mode": "ro"}, str(out): {"bind": "/output", "mode": "rw"}},
            remove=True,
        )
    finally:
        client.close()
    assert nnbox("predict", finished / "bundles" / "acdc", tests, here, "--device", "cpu").code == 0
    names = sorted(path.name for path in here.glob("*.nii.gz"))
    assert sorted(path.name for path in out.glob("*.nii.gz")) == names
    assert len(names) == 4
    assert {path.stat().st_uid for path in out.iterdir()} == {12345}
    from nnunet_box.cli.demo_image import MOST_DIFFERENT_VOXELS, different_voxels

    for name in names:
        patient, phase = name.removesuffix(".nii.gz").split("_")
        info = dict(line.split(": ") for line in (tests / patient / "Info.cfg").read_text().splitlines())
        same_grid(out / name, tests / patient / f"{patient}_frame{int(info[phase]):02d}.nii.gz")
        assert different_voxels(here / name, out / name) <= MOST_DIFFERENT_VOXELS
    run = json.loads((out / "run.json").read_text())
    assert [case["file"] for case in run["cases"]] == names


def test_demo_builds_runs_and_compares(image, finished, download, base_image, tmp_path):
    from nnunet_box.cli.demo_image import build_and_run

    tests, predictions = download / "database" / "testing", tmp_path / "predictions"
    assert nnbox("predict", finished / "bundles" / "acdc", tests, predictions, "--device", "cpu").code == 0
    tag, note = build_and_run(finished / "bundles" / "acdc", tests, predictions, finished, base_image)
    assert tag is not None, note
    assert "4 files" in note
    client = docker.from_env()
    client.images.remove(tag, force=True)
    client.close()
