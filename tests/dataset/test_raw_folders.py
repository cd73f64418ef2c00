"""nnU-Net v2 raw folders, ours and foreign ones, whole and damaged; the doctor."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from nnunet_box.dataset.check import check_dataset
from nnunet_box.dataset.dataset import find_dataset, load_dataset, plain_folder_cases
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import save_nifti
from nnunet_box.errors import InvalidData, UsageError

GRID = Geometry((3, 4, 5), (2.5, 0.8, 0.7))


@pytest.fixture
def raw(tmp_path):
    """A foreign raw folder: five cases of two channels, one test case, no cases.json."""
    folder = tmp_path / "datasets" / "Dataset900_Foreign"
    random = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    for case in "abcde":
        for channel in range(2):
            save_nifti(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", random.normal(size=GRID.shape), GRID)
        save_nifti(folder / "labelsTr" / f"{case}.nii.gz", random.integers(0, 2, GRID.shape).astype(np.uint8), GRID)
    for channel in range(2):
        save_nifti(folder / "imagesTs" / f"t_{channel:04d}.nii.gz", random.normal(size=GRID.shape), GRID)
    declare(folder)
    return folder


def declare(folder, **changes):
    declared = {
        "channel_names": {"1": "ADC", "0": "T2"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(declared))


def files_of(findings, severity):
    return [finding.file.rsplit("/", 1)[-1] for finding in findings if finding.severity == severity]


def test_foreign_folder_is_read_and_each_case_is_its_own_group(raw):
    dataset = load_dataset(raw)
    assert dataset.channel_names == ("T2", "ADC")
    assert [case.id for case in dataset.cases] == ["a", "b", "c", "d", "e"]
    assert [case.group for case in dataset.cases] == ["a", "b", "c", "d", "e"]
    assert [channel.path.name for channel in dataset.cases[0].channels] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert [case.id for case in dataset.test_cases] == ["t"]
    assert dataset.foreground_labels == (1,)
    assert check_dataset(raw) == []


@pytest.mark.parametrize(
    ("gone", "file", "expected"),
    [
        ("imagesTr/b_0001.nii.gz", "imagesTr", "2 channels of b"),
        ("labelsTr/b.nii.gz", "b.nii.gz", "the label of b"),
        ("imagesTs/t_0000.nii.gz", "imagesTs", "2 channels of t"),
    ],
)
def test_half_copied_folder_is_refused(raw, gone, file, expected):
    (raw / gone).unlink()
    with pytest.raises(InvalidData, match=expected) as raised:
        load_dataset(raw)
    assert raised.value.file.name == file


def test_label_without_its_image_is_refused(raw):
    for path in (raw / "imagesTr").glob("b_*"):
        path.unlink()
    with pytest.raises(InvalidData, match=r"b_0000\.nii\.gz: expected the image of b\.nii\.gz"):
        load_dataset(raw)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"channel_names": {}}, "channel_names and labels"),
        ({"labels": {"background": 0, "lesion": [1, 2]}}, "one integer a label"),
        ({"labels": {"background": 0, "lesion": 2}}, "without gaps"),
        ({"labels": {"lesion": 1}}, "without gaps"),
    ],
)
def test_declarations_that_cannot_be_followed(raw, changes, expected):
    declare(raw, **changes)
    with pytest.raises(InvalidData, match=expected):
        load_dataset(raw)


def test_broken_cases_json_is_refused(raw):
    (raw / "cases.json").write_text(json.dumps({"schema_version": 1, "cases": [{"id": "a"}]}))
    with pytest.raises(InvalidData, match="as nnbox convert writes it"):
        load_dataset(raw)
    (raw / "cases.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(InvalidData, match="schema version 1; found version 99"):
        load_dataset(raw)


def test_doctor_goes_on_after_the_first_finding(raw):
    (raw / "imagesTr" / "a_0001.nii.gz").unlink()
    (raw / "labelsTr" / "b.nii.gz").unlink()
    labels = np.zeros(GRID.shape, np.uint8)
    labels[0, 0, 0] = 9
    save_nifti(raw / "labelsTr" / "c.nii.gz", labels, GRID)
    bad = np.zeros(GRID.shape, np.float32)
    bad[0, 0, 0] = np.nan
    save_nifti(raw / "imagesTr" / "c_0000.nii.gz", bad, GRID)
    damaged = raw / "imagesTr" / "d_0000.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    save_nifti(raw / "labelsTr" / "e.nii.gz", np.ones((3, 4, 6), np.uint8), Geometry((3, 4, 6), GRID.spacing))
    findings = check_dataset(raw)
    assert files_of(findings, "error") == [
        "imagesTr",
        "b.nii.gz",
        "c_0000.nii.gz",
        "c.nii.gz",
        "d_0000.nii.gz",
        "e.nii.gz",
    ]
    assert files_of(findings, "warning") == ["dataset.json", "dataset.json"]  # numTraining; too few groups
    assert all(finding.fix for finding in findings)


def test_doctor_warns_of_what_can_be_meant(raw):
    save_nifti(raw / "imagesTr" / "a_0000.nii.gz", np.full(GRID.shape, 7, np.int16), GRID)
    save_nifti(raw / "labelsTr" / "b.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    moved = Geometry(GRID.shape, GRID.spacing, (5.0, 0.0, 0.0))
    save_nifti(raw / "labelsTr" / "c.nii.gz", np.ones(GRID.shape, np.uint8), moved)
    findings = check_dataset(raw)
    assert files_of(findings, "error") == []
    assert files_of(findings, "warning") == ["a_0000.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert "7 in every voxel" in findings[0].found
    assert "background only" in findings[1].found
    assert "origin -5, 0, 0" in findings[2].found


def test_doctor_of_an_empty_data_set(raw):
    shutil.rmtree(raw / "imagesTr")
    shutil.rmtree(raw / "labelsTr")
    assert "imagesTr" in files_of(check_dataset(raw), "error")


def test_doctor_needs_a_dataset_json(tmp_path):
    with pytest.raises(InvalidData, match="no such file"):
        check_dataset(tmp_path)


def test_data_set_by_name_by_path_or_the_only_one(raw, tmp_path):
    assert find_dataset(tmp_path, "Dataset900_Foreign") == raw
    assert find_dataset(tmp_path / "elsewhere", str(raw)) == raw
    assert find_dataset(tmp_path, None) == raw
    shutil.copytree(raw, raw.with_name("another"))
    with pytest.raises(UsageError, match="another, Dataset900_Foreign|Dataset900_Foreign, another"):
        find_dataset(tmp_path, None)
    with pytest.raises(UsageError, match="No data set 'nothing'"):
        find_dataset(tmp_path, "nothing")


def test_plain_folders_to_predict(raw, tmp_path):
    assert [case.id for case in plain_folder_cases(raw / "imagesTs", 2)] == ["t"]
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(raw / "imagesTs" / "t_0000.nii.gz", single / "me.nii.gz")
    (single / "._me.nii.gz").write_bytes(b"\0")
    (single / ".nnbox-tmp-0123abcd-you.nii.gz").write_bytes(b"\0")
    (case,) = plain_folder_cases(single, 1)
    assert (case.id, case.output_name) == ("me", "me.nii.gz")
    with pytest.raises(InvalidData, match="2 files a case"):
        plain_folder_cases(single, 2)
    with pytest.raises(InvalidData, match="images to predict"):
        plain_folder_cases(tmp_path / "nowhere", 1)
