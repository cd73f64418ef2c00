"""Archives whose names or files are out of the ordinary: a team's name, header and voxels apart."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from tiny_ms_lesions import write_ms_lesions
from tiny_promise12 import write_promise12
from typer.testing import CliRunner

from nnbox_challenges.ms_lesions import MsLesions
from nnbox_challenges.promise12 import Promise12
from nnunet_box.cli.app import app
from nnunet_box.dataset.cases import read_image


def nnbox(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def predict(adapter, source, channels, folder):
    """A prediction of every test case, a corner of it foreground."""
    folder.mkdir()
    for case in adapter.test_cases(source, channels):
        labels = np.zeros(read_image(case)[1].shape, np.uint8)
        labels[:2, :2, :2] = 1
        adapter.export(labels, case, folder)
    return folder


def test_a_teams_name_is_part_of_the_archive(tmp_path):
    source = write_ms_lesions(tmp_path / "ISBI", {1: 1}, (1,))
    folder = predict(MsLesions(team="ours"), source, 4, tmp_path / "predictions")
    archive = tmp_path / "ours.zip"
    options = ("--challenge", "ms_lesions", "--test-folder", source)
    built = nnbox("build-submission", "archive", folder, "-o", archive, *options, "--option", "team=ours")
    assert built.exit_code == 0, built.output
    assert zipfile.ZipFile(archive).namelist() == ["test01_01_ours.nii", "test01_02_ours.nii"]
    assert nnbox("verify-submission", "archive", archive, *options, "--option", "team=ours").exit_code == 0
    other = nnbox("verify-submission", "archive", archive, *options)
    assert other.exit_code == 5 and "test01_01_nnUNet.nii" in other.output


@pytest.mark.parametrize("lost", [None, "Case01.raw", "Case01.mhd"])
def test_header_and_voxels_come_as_pairs(tmp_path, lost):
    source = write_promise12(tmp_path / "PROMISE12")
    folder = predict(Promise12(), source, 1, tmp_path / "predictions")
    archive = tmp_path / "promise12.zip"
    options = ("--challenge", "promise12", "--test-folder", source)
    assert nnbox("build-submission", "archive", folder, "-o", archive, *options).exit_code == 0
    names = zipfile.ZipFile(archive).namelist()
    assert {"Case00.mhd", "Case00.raw", "Case01.mhd", "Case01.raw"} <= set(names)
    assert len(names) == 2 * len(Promise12().test_cases(source, 1))
    if lost is None:
        assert nnbox("verify-submission", "archive", archive, *options).exit_code == 0
        return
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(tmp_path / "half.zip", "w") as half:
        for name in whole.namelist():
            if name != lost:
                half.writestr(name, whole.read(name))
    refused = nnbox("verify-submission", "archive", tmp_path / "half.zip", *options)
    assert refused.exit_code == 5 and f"error: {lost}" in refused.output
