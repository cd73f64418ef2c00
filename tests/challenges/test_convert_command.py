"""``nnbox convert``, ``challenges`` and ``check`` as a person runs them: streams, exit codes, JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from tiny_downloads import SHAPE, labels_of, save, truncate

from nnunet_box.dataset.challenge import challenge_names

PROGRAM = "import sys; from nnunet_box.cli.app import main; sys.argv[0] = 'nnbox'; main()"


@pytest.fixture
def nnbox(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path
        )

    return run


def test_convert_prints_the_folder_and_says_what_next(nnbox, acdc, tmp_path):
    done = nnbox("convert", "--challenge", "acdc", acdc)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "nnbox/datasets/acdc\n"
    assert "5 of 100 patients" in done.stderr
    assert "Next: nnbox train-all acdc" in done.stderr
    assert (tmp_path / "nnbox" / "datasets" / "acdc" / "dataset.json").is_file()


def test_convert_with_name_json_and_overwriting(nnbox, decathlon, tmp_path):
    arguments = ("convert", "-c", "decathlon", decathlon, "--workspace", "ws", "--name", "mine")
    done = nnbox(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["dataset"], result["training"], result["test"], result["groups"]) == ("mine", 5, 2, 5)
    assert json.loads((tmp_path / "ws/datasets/mine/dataset.json").read_text())["name"] == "mine"

    before = (tmp_path / "ws/datasets/mine/dataset.json").stat().st_ino
    again = nnbox(*arguments, "--json")
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "was converted from these files before" in again.stderr
    assert (tmp_path / "ws/datasets/mine/dataset.json").stat().st_ino == before
    (tmp_path / "ws/datasets/mine/labelsTr/spleen_2.nii.gz").unlink()
    incomplete = nnbox(*arguments)
    assert incomplete.returncode == 2
    assert "--overwrite" in incomplete.stderr and incomplete.stdout == ""
    assert nnbox(*arguments, "--overwrite").returncode == 0
    os.utime(decathlon / "labelsTr/spleen_2.nii.gz", ns=(1, 1))
    changed = nnbox(*arguments)
    assert changed.returncode == 2
    assert "--overwrite" in changed.stderr and changed.stdout == ""
    (tmp_path / "ws/datasets/mine/stale").touch()
    assert nnbox(*arguments, "--overwrite").returncode == 0
    assert not (tmp_path / "ws/datasets/mine/stale").exists()


def test_overwrite_leaves_a_folder_alone_that_is_no_data_set(nnbox, decathlon, tmp_path):
    (tmp_path / "nnbox/datasets/mine").mkdir(parents=True)
    (tmp_path / "nnbox/datasets/mine/thesis.tex").touch()
    done = nnbox("convert", "-c", "decathlon", decathlon, "--name", "mine", "--overwrite")
    assert done.returncode == 2
    assert "no data set" in done.stderr
    assert (tmp_path / "nnbox/datasets/mine/thesis.tex").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", ""])
def test_names_that_leave_the_workspace_are_refused(nnbox, decathlon, name):
    done = nnbox("convert", "-c", "decathlon", decathlon, f"--name={name}")
    assert done.returncode == 2, done.stderr
    assert "--name" in done.stderr


def test_invalid_data_is_one_line_and_exit_code_3(nnbox, decathlon, tmp_path):
    truncate(decathlon / "labelsTr" / "spleen_4.nii.gz")
    done = nnbox("convert", "-c", "decathlon", decathlon)
    assert done.returncode == 3
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r"nnbox: .*labelsTr/spleen_4\.nii\.gz: expected .*; found .*\. Copy it again.*", last)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "nnbox/datasets/decathlon-Task09_Spleen").exists()


def test_check_of_a_sound_data_set(nnbox, acdc):
    assert nnbox("convert", "-c", "acdc", acdc).returncode == 0
    done = nnbox("check")
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 errors, 0 warnings" in done.stderr


def test_check_lists_every_finding(nnbox, decathlon, tmp_path):
    assert nnbox("convert", "-c", "decathlon", decathlon).returncode == 0
    dataset = tmp_path / "nnbox/datasets/decathlon-Task09_Spleen"
    truncate(dataset / "imagesTr" / "spleen_2_0000.nii.gz")
    (dataset / "labelsTr" / "spleen_4.nii.gz").unlink()
    labels = labels_of(SHAPE, [1], 0)
    labels[0, 0, 0] = 5
    save(dataset / "labelsTr" / "spleen_10.nii.gz", labels, (0.8, 0.9, 3.0))
    save(dataset / "imagesTs" / "spleen_1_0000.nii.gz", np.zeros(SHAPE, np.int16))

    done = nnbox("check", "decathlon-Task09_Spleen", "--json")
    assert done.returncode == 3
    findings = json.loads(done.stdout)
    assert all(set(finding) == {"severity", "file", "expected", "found", "fix", "fixable"} for finding in findings)
    by_file = {(finding["file"].rsplit("/", 1)[-1], finding["severity"]) for finding in findings}
    assert {
        ("spleen_2_0000.nii.gz", "error"),
        ("spleen_4.nii.gz", "error"),
        ("spleen_10.nii.gz", "error"),
        ("spleen_1_0000.nii.gz", "warning"),
        ("dataset.json", "warning"),
    } <= by_file
    severities = [finding["severity"] for finding in findings]
    assert severities == sorted(severities)

    told = nnbox("check")
    assert told.returncode == 3
    assert len(told.stdout.splitlines()) == len(findings)


def test_challenges_as_table_and_json(nnbox):
    table = nnbox("challenges")
    assert table.returncode == 0
    for word in ("acdc", "decathlon", "Task10_Colon", "263 announced", "CC-BY-SA 4.0", "patientNNN_ED.nii.gz"):
        assert word in table.stdout
    listed = {challenge["name"]: challenge for challenge in json.loads(nnbox("challenges", "--json").stdout)}
    assert list(listed) == challenge_names()
    assert len(listed["decathlon"]["tasks"]) == 10


def test_one_challenge(nnbox):
    shown = json.loads(nnbox("challenges", "show", "acdc", "--json").stdout)
    assert shown["tasks"][0]["labels"] == {
        "0": "background",
        "1": "right ventricle",
        "2": "myocardium",
        "3": "left ventricle",
    }
    assert {"metrics", "submission", "licence", "reference", "obtain", "group"} <= set(shown)
    told = nnbox("challenges", "show", "decathlon")
    assert "medicaldecathlon.com" in told.stdout and "acdc" not in told.stdout
    unknown = nnbox("challenges", "show", "kits")
    assert unknown.returncode == 2
    assert f"Installed: {', '.join(challenge_names())}" in unknown.stderr


def test_facts_say_how_sure_they_are(nnbox):
    told = nnbox("challenges", "show", "acdc").stdout
    assert "Licence: CC BY-NC-SA 4.0, citation compulsory (MANDATORY_CITATION.md) [secondary]" in told
    assert "Get the data: humanheart-project.creatis.insa-lyon.fr" in told and "Cite: Bernard et al." in told
    assert "layout and size limit of the zip [memory]" in told
    assert "Upload: one zip, files at its root, uint8" in told
    assert "build-submission archive --challenge acdc" in told
    shown = json.loads(nnbox("challenges", "show", "decathlon", "--json").stdout)
    assert shown["certainty"]["surface Dice tolerances"] == "memory"
    assert shown["form"]["folder"] == "{task}"
    assert "in the folder TASK" in nnbox("challenges", "show", "decathlon").stdout
