"""BCV: layouts, what lies beside it on Synapse, the way back, scores."""

from __future__ import annotations

import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from tiny_bcv import SPACING, organs, write_bcv
from tiny_downloads import SHAPE, gunzip, labels_of, save, write_decathlon

from nnbox_challenges.bcv import LABELS, Bcv
from nnbox_challenges.bcv_layout import TEST_IDS, TRAINING_IDS
from nnbox_challenges.decathlon import Decathlon
from nnunet_box.dataset.check import check_dataset
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.errors import InvalidData, UsageError

TRAINING = ["img0001", "img0002", "img0010", "img0021", "img0040"]
TESTS = ["img0061", "img0080"]


@pytest.fixture(scope="module")
def _download(tmp_path_factory):
    return write_bcv(tmp_path_factory.mktemp("bcv"))


@pytest.fixture
def source(_download, tmp_path):
    return shutil.copytree(_download, tmp_path / "Abdomen" / "RawData")


def ids(cases):
    return [case.id for case in cases]


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def monai(root, source, label_name="label"):
    """MONAI's layout of the same files."""
    for path in source.rglob("[il]*.nii.gz"):
        test = "Testing" in path.parts
        folder = ("imagesTs" if test else "imagesTr") if path.name.startswith("img") else "labelsTr"
        target = root / folder / (path.name.replace("label", label_name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (root / "dataset_0.json").write_text(json.dumps({"modality": {"0": "CT"}, "labels": {"0": "background"}}))
    return root


def test_converts_and_rounds_float_labels(source, converted):
    label = source / "Training/label/label0002.nii.gz"
    scaled = nibabel.Nifti1Image(organs(2).astype(np.float64) + 1e-5, nibabel.load(label).affine)
    nibabel.save(scaled, label)
    folder = converted(Bcv(), source)
    dataset = load_dataset(folder)
    assert (ids(dataset.cases), ids(dataset.test_cases)) == (TRAINING, TESTS)
    assert dataset.labels == LABELS and len(LABELS) == 14
    assert dataset.channel_names == ("CT",) and dataset.splits == "groups"
    for case, number in zip(dataset.cases, (1, 2, 10, 21, 40), strict=True):
        assert np.array_equal(voxels(case.label), organs(number))
        assert voxels(case.label).dtype == np.uint8
        assert case.output_name == f"label{number:04d}.nii.gz"
    assert not [finding for finding in check_dataset(folder) if finding.severity == "error"]


def test_published_numbers():
    assert (len(TRAINING_IDS), len(TEST_IDS)) == (30, 20)
    assert 11 not in TRAINING_IDS and 20 not in TRAINING_IDS and 21 in TRAINING_IDS and 80 in TEST_IDS


@pytest.mark.parametrize("testing", ["Test", "TESTING"])
def test_every_level_and_name_of_folders_is_taken(source, tmp_path, testing):
    for folder in (source, source.parent, source.parent.parent):
        recognition = Bcv().recognise(folder)
        assert (ids(recognition.training), ids(recognition.test)) == (TRAINING, TESTS)
    assert ids(Bcv().recognise(source / "Training").training) == TRAINING
    doubled = tmp_path / "two" / "RawData"
    shutil.copytree(source, doubled / "RawData")
    (doubled / "RawData" / "Testing").rename(doubled / "RawData" / testing)
    assert ids(Bcv().recognise(doubled).test) == TESTS
    gunzip(doubled / "RawData/Training/img/img0001.nii.gz")
    assert ids(Bcv().recognise(doubled).training) == TRAINING


@pytest.mark.parametrize("label_name", ["label", "img"])
def test_monais_layout_whatever_labels_are_called(source, tmp_path, converted, label_name):
    root = monai(tmp_path / "monai", source, label_name)
    dataset = load_dataset(converted(Bcv(), root))
    assert (ids(dataset.cases), ids(dataset.test_cases)) == (TRAINING, TESTS)
    assert np.array_equal(voxels(dataset.cases[3].label), organs(21))


@pytest.mark.parametrize("json_name", ["dataset_0.json", "dataset.json"])
def test_bcv_and_the_decathlon_do_not_take_each_others_folder(source, tmp_path, json_name):
    root = monai(tmp_path / "monai", source)
    (root / "dataset_0.json").rename(root / json_name)
    with pytest.raises(InvalidData, match="BCV in MONAI's layout.*--challenge bcv"):
        Decathlon().recognise(root)
    with pytest.raises(InvalidData, match=r"imgNNNN.nii.gz in img or imagesTr.*found dataset.json"):
        Bcv().recognise(write_decathlon(tmp_path / "Task09_Spleen"))


@pytest.mark.parametrize(
    ("folder", "name", "reason"),
    [
        ("Reg-Training-Training/img/0001", "img0001-0002", "registered to each other"),
        ("elsewhere/img", "img0001-0002", "registered to each other"),
        ("averaged-training-images", "DET0000101_avg", "older set"),
        ("mine", "DET0000101_avg", "older set"),
        ("Cervix/RawData/Training/img", "img0001", "Cervix set"),
    ],
)
def test_what_lies_beside_it_on_synapse_is_refused_and_left_alone(source, tmp_path, folder, name, reason):
    save(tmp_path / "Synapse" / folder / f"{name}.nii.gz", np.ones(SHAPE, np.int16))
    with pytest.raises(InvalidData, match=reason):
        Bcv().recognise(tmp_path / "Synapse")
    shutil.copytree(source, tmp_path / "Synapse" / "Abdomen" / "RawData")
    recognition = Bcv().recognise(tmp_path / "Synapse")
    assert (ids(recognition.training), ids(recognition.test)) == (TRAINING, TESTS)


def test_cervix_by_its_labels_and_numbers(source):
    for path in (source / "Training/label").glob("label*"):
        save(path, labels_of(SHAPE, [1, 2, 3, 4], 0), SPACING)
    with pytest.raises(InvalidData, match="labels up to 4: the Cervix set"):
        Bcv().recognise(source)
    save(source / "Training/img/img0507.nii.gz", np.ones(SHAPE, np.int16))
    with pytest.raises(InvalidData, match=r"0001-0010 and 0021-0040.*0507 \(the Cervix set"):
        Bcv().recognise(source)


@pytest.mark.parametrize("number", [11, 20, 41, 60, 81])
def test_numbers_that_never_existed_are_refused(source, number):
    save(source / f"Training/img/img{number:04d}.nii.gz", np.ones(SHAPE, np.int16))
    with pytest.raises(InvalidData, match=f"{number:04d}"):
        Bcv().recognise(source)


def test_interpolated_and_undeclared_labels_are_refused(source, converted, tmp_path):
    labels = organs(2).astype(np.float32)
    save(source / "Training/label/label0002.nii.gz", labels * 0.99, SPACING)
    with pytest.raises(InvalidData, match=r"label0002.nii.gz.*integral label values"):
        converted(Bcv(), source)
    save(source / "Training/label/label0002.nii.gz", labels + (labels == 13), SPACING)
    with pytest.raises(InvalidData, match=r"undeclared \[14\]"):
        converted(Bcv(), source)
    assert not (tmp_path / "ws" / "datasets" / "bcv").exists()


def test_incomplete_copies(source):
    (source / "Training/label/label0021.nii.gz").unlink()
    with pytest.raises(InvalidData, match="the label of img0021; found no such file"):
        Bcv().recognise(source)
    with pytest.raises(InvalidData, match="2 test images only"):
        Bcv().recognise(source / "Testing")
    shutil.copytree(source / "Testing", source / "copy")
    with pytest.raises(InvalidData, match="each file once"):
        Bcv().recognise(source)


def test_test_cases_and_the_names_of_submitted_files(source, tmp_path):
    assert ids(Bcv().test_cases(source, 1)) == ids(Bcv().test_cases(source / "Testing" / "img", 1)) == TESTS
    assert ids(Bcv().test_cases(source / "Training", 1)) == TRAINING
    assert [case.output_name for case in Bcv(pattern="img%04d_we.nii").test_cases(source, 1)] == [
        "img0061_we.nii",
        "img0080_we.nii",
    ]
    with pytest.raises(InvalidData, match="a model with 2 channels"):
        Bcv().test_cases(source, 2)
    for pattern in ("label.nii.gz", "../label%04d.nii.gz", "a/%04d.nii", "%04d%s.nii.gz", "label%04d.mha", "%d.nii"):
        with pytest.raises(UsageError, match=re.escape(pattern)):
            Bcv(pattern=pattern)


def test_round_trip(source, converted, tmp_path):
    """References through convert, export and evaluate: 1.0, the original's voxels, the image's header."""
    folder = converted(Bcv(), source)
    for case in Bcv().test_cases(source / "Training", 1):
        stored = voxels(folder / f"labelsTr/{case.id}.nii.gz")
        file = Bcv().export(stored.transpose(2, 1, 0).copy(), case, tmp_path / "out")
        original = nibabel.load(source / "Training/label" / file.name)
        written, image = nibabel.load(file), nibabel.load(case.reference_file)
        assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(original.dataobj))
        for field in ("pixdim", "dim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
            assert np.array_equal(image.header[field], written.header[field]), field
        assert np.array_equal(written.affine, original.affine) and written.get_data_dtype() == np.uint8
    for references in (source, source / "Training", source / "Training/label", folder):
        result = Bcv().evaluate(tmp_path / "out", references)
        assert (result["cases"], result["missing"]) == (5, [])
        assert result["mean"] == {"dice": 1.0, "asd_mm": 0.0, "hausdorff_mm": 0.0}
    gallbladder = result["organs"]["gallbladder"]
    assert gallbladder["cases"] == 3  # img0010 and img0040 have none
    assert np.isnan(
        next(case for case in result["per_case"] if case["case"] == "img0010")["organs"]["gallbladder"]["dice"]
    )


def test_scores_by_hand(tmp_path):
    one, two = (np.zeros((10, 10, 10), np.uint8) for _ in range(2))
    one[2:4, 2:4, 2:4], one[7, 7, 7] = 6, 1
    save(tmp_path / "r" / "label0061.nii.gz", one, (1.0, 1.0, 3.0))
    two[2:4, 2:4, 3:5], two[0, 0, 0] = 6, 4  # the liver a slice (3 mm) too high, no spleen, a gallbladder that is none
    save(tmp_path / "p" / "img0061.nii.gz", two, (1.0, 1.0, 3.0))
    save(tmp_path / "r" / "label0062.nii.gz", one, (1.0, 1.0, 3.0))
    save(tmp_path / "p" / "img0062.nii.gz", one, (1.0, 1.0, 3.0))
    result = Bcv().evaluate(tmp_path / "p", tmp_path / "r")
    liver = result["per_case"][0]["organs"]["liver"]
    assert (liver["dice"], liver["asd_mm"], liver["hausdorff_mm"]) == (0.5, 1.5, 3.0)
    assert result["organs"]["liver"] == {
        "cases": 2,
        "dice": 0.75,
        "asd_mm": 0.75,
        "hausdorff_mm": 1.5,
        "without_distance": 0,
    }
    spleen, gallbladder = result["organs"]["spleen"], result["organs"]["gallbladder"]
    assert (spleen["dice"], spleen["asd_mm"], spleen["without_distance"]) == (0.5, 0.0, 1)
    assert gallbladder["cases"] == 0 and np.isnan(gallbladder["dice"])
    assert result["mean"]["dice"] == (0.75 + 0.5) / 2


def test_evaluating_the_wrong_things(source, tmp_path):
    save(tmp_path / "p" / "liver.nii.gz", organs(1), SPACING)
    with pytest.raises(InvalidData, match="a name with the case's number"):
        Bcv().evaluate(tmp_path / "p", source)
    (tmp_path / "p" / "liver.nii.gz").rename(tmp_path / "p" / "label0099.nii.gz")
    with pytest.raises(InvalidData, match="a reference of that name"):
        Bcv().evaluate(tmp_path / "p", source)
    with pytest.raises(InvalidData, match="images only"):
        Bcv().evaluate(tmp_path / "p", source / "Testing")
    save(tmp_path / "p" / "img0099.nii.gz", organs(1), SPACING)
    with pytest.raises(InvalidData, match="one label map a case"):
        Bcv().evaluate(tmp_path / "p", source)


@pytest.mark.real_data
def test_real_layout(real_data, converted, tmp_path):
    source = real_data / "BCV_like"
    folder = converted(Bcv(), source)
    dataset = load_dataset(folder)
    assert ids(dataset.cases) == ["img0001", "img0002"]
    assert not [finding for finding in check_dataset(folder) if finding.severity == "error"]
    for case in Bcv().test_cases(source, 1):
        stored = voxels(folder / f"labelsTr/{case.id}.nii.gz")
        file = Bcv().export(stored.transpose(2, 1, 0).copy(), case, tmp_path / "out")
        original = nibabel.load(source / "Training/label" / file.name)
        assert np.array_equal(voxels(file), np.asanyarray(original.dataobj))
        assert np.array_equal(nibabel.load(file).affine, nibabel.load(case.reference_file).affine)
    result = Bcv().evaluate(tmp_path / "out", source)
    assert (result["cases"], result["mean"]["dice"], result["mean"]["hausdorff_mm"]) == (2, 1.0, 0.0)
