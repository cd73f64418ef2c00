"""Every organiser's contract: an image of a trained model is built and verified, both by the command line."""

from __future__ import annotations

import json

import docker
import pytest
from e2e_run import nnbox

from nnbox_containers.profiles import PROFILES

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.mark.parametrize("profile", PROFILES)
def test_an_image_of_a_trained_model_is_built_and_verified(profile, finished, download, base_image, tmp_path):
    tag = f"nnbox-e2e-{profile}:1.0"
    options = ["--profile", profile, "--tag", tag, "--base-image", base_image, "--workspace", finished]
    channel = ["--channel", "t1c"] if profile == "brats" else []
    built = nnbox("build-submission", "image", "acdc", "--challenge", "acdc", "--runtime", "cpu", *options, *channel)
    assert built.code == 0, built.err
    try:
        report, archive = tmp_path / "report.json", tmp_path / "image.tar"
        given = (
            ["--cases", download / "database" / "testing"]
            if profile == "folder"
            else ["--case", download / "database" / "testing" / "patient101" / "patient101_frame01.nii.gz"]
        )
        kept = ["--report", report, "--save", archive, "--workspace", finished]
        verified = nnbox("verify-submission", "image", tag, *given, *kept)
        assert verified.code == 0, f"{verified.out}\n{verified.err}"
        found = json.loads(report.read_text())
        names = {check["name"] for check in found["checks"]}
        assert found["accepted"] and all(check["ok"] for check in found["checks"])
        assert {"user", "passwd entry", "model.sha256", "archive: layers", "archive: labels"} <= names
        assert {case["equal"] for case in found["cases"]} == {1.0}
        assert archive.stat().st_size > 100e6
    finally:
        client = docker.from_env()
        client.images.remove(tag, force=True)
        client.close()
