"""The MS lesion challenge: layouts, raters, one image for two raters, folds, the way back, scores."""

from __future__ import annotations

import gzip
import json
import shutil

import nibabel
import numpy as np
import pytest
from tiny_downloads import SHAPE, save
from tiny_ms_lesions import ms_mask, write_ms_lesions, write_scan

from nnbox_challenges.ms_lesions import MsLesions
from nnbox_challenges.raters import fuse
from nnunet_box.dataset.check import check_dataset
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.errors import InvalidData, UsageError

SCANS = ["training01_01", "training01_02", "training02_01", "training03_01", "training03_02", "training04_01"]
SCANS += ["training05_01"]
TESTS = ["test01_01", "test01_02", "test02_01", "test02_02"]


@pytest.fixture(scope="module")
def _download(tmp_path_factory):
    return write_ms_lesions(tmp_path_factory.mktemp("ms") / "ISBI")


@pytest.fixture
def source(_download, tmp_path):
    return shutil.copytree(_download, tmp_path / "download" / "ISBI")


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def records(folder):
    return {record["id"]: record for record in json.loads((folder / "cases.json").read_text())["cases"]}


def test_every_raters_mask_is_an_example(source, converted):
    folder = converted(MsLesions(), source)
    dataset = load_dataset(folder)
    assert [case.id for case in dataset.cases] == [f"{scan}_mask{rater}" for scan in SCANS for rater in (1, 2)]
    assert [case.id for case in dataset.test_cases] == TESTS
    assert dataset.channel_names == ("FLAIR", "MPRAGE", "PD", "T2")
    for index, name in enumerate(("flair", "mprage", "pd", "t2")):
        original = source / "training/training03/preprocessed" / f"training03_02_{name}_pp.nii"
        assert np.array_equal(voxels(dataset.cases[8].channels[index].path), voxels(original))
    record = records(folder)["training03_02_mask2"]
    assert record["source_label"] == "training/training03/masks/training03_02_mask2.nii"
    assert (record["rater"], record["group"], record["image_of"]) == ("2", "training03", "training03_02_mask1")
    assert "label stored as float32 written as uint8" in record["repairs"]
    assert not [finding for finding in check_dataset(folder) if finding.severity == "error"]


def test_the_image_of_two_raters_is_one_file_and_the_layout_is_nnunets(source, converted):
    folder = converted(MsLesions(), source)
    images = sorted((folder / "imagesTr").iterdir())
    assert len(images) == 4 * 2 * len(SCANS)
    assert len({image.stat().st_ino for image in images}) == 4 * len(SCANS)
    assert all(image.is_file() and not image.is_symlink() for image in images)
    first, second = (folder / "imagesTr" / f"training02_01_mask{rater}_0003.nii.gz" for rater in (1, 2))
    assert first.samefile(second)
    # Where rater 1's files were removed, rater 2's stand for themselves.
    for path in [*(folder / "imagesTr").glob("training02_01_mask1*"), *(folder / "labelsTr").glob("*02_01_mask1*")]:
        path.unlink()
    case = next(case for case in load_dataset(folder).cases if case.id == "training02_01_mask2")
    assert case.image_of is None and voxels(case.channels[3].path).shape == SHAPE


def test_where_there_are_no_hard_links_files_are_copied(source, converted, monkeypatch):
    import os

    def refuse(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    folder = converted(MsLesions(), source)
    images = sorted((folder / "imagesTr").iterdir())
    assert len({image.stat().st_ino for image in images}) == len(images) == 4 * 2 * len(SCANS)


@pytest.mark.parametrize(
    ("rater", "expected"),
    [
        ("1", lambda one, two: one),
        ("2", lambda one, two: two),
        ("union", lambda one, two: one | two),
        ("intersection", lambda one, two: one & two),
        ("staple", lambda one, two: fuse([one, two], "staple")),
    ],
)
def test_rater_option(source, converted, rater, expected):
    folder = converted(MsLesions(rater=rater), source)
    dataset = load_dataset(folder)
    assert [case.id for case in dataset.cases] == SCANS
    one, two = (
        voxels(source / f"training/training01/masks/training01_01_mask{n}.nii").astype(np.uint8) for n in (1, 2)
    )
    assert not np.array_equal(one, two)
    assert np.array_equal(voxels(folder / "labelsTr/training01_01.nii.gz"), expected(one, two))
    record = records(folder)["training01_01"]
    assert record["rater"] == rater
    if not rater.isdigit():
        assert f"label is the {rater} of training01_01_mask1.nii, training01_01_mask2.nii" in record["repairs"]


def test_fusing_masks():
    one, two, three = (np.zeros((4, 5, 6), np.uint8) for _ in range(3))
    one[1:3, 1:4, 1:4] = two[1:3, 1:4, 1:4] = three[1:3, 1:4, 1:4] = 1
    three[0, 0, 0] = 1  # one of three: STAPLE outvotes it
    one[3, 3, 3] = two[3, 3, 3] = 1  # two of three: it stays
    fused = fuse([one, two, three], "staple")
    assert fused.dtype == np.uint8 and fused[3, 3, 3] == 1 and fused[0, 0, 0] == 0
    assert fused.sum() == 19
    empty = np.zeros_like(one)
    assert fuse([one, empty], "staple").sum() == fuse([one, empty], "intersection").sum() == 0
    assert fuse([one, empty], "union").sum() == one.sum()


def test_leave_one_patient_out_reaches_the_folds(source, converted, tmp_path):
    dataset = load_dataset(converted(MsLesions(), source))
    folds = load_or_make_folds(tmp_path / "splits.json", dataset)
    assert len(folds) == 5
    for number, fold in enumerate(folds, start=1):
        assert fold.val and all(case.startswith(f"training{number:02d}_") for case in fold.val)
        assert not any(case.startswith(f"training{number:02d}_") for case in fold.train)
    assert folds[0].val == [f"training01_0{time}_mask{rater}" for time in (1, 2) for rater in (1, 2)]


def test_three_patients_make_three_folds_and_no_warning(tmp_path, converted):
    root = write_ms_lesions(tmp_path / "few", {1: 1, 2: 1, 3: 1}, ())
    folder = converted(MsLesions(), root)
    assert len(load_or_make_folds(tmp_path / "splits.json", load_dataset(folder))) == 3
    assert not [finding for finding in check_dataset(folder) if "groups" in finding.expected]


def test_every_level_and_every_folder_name_is_taken(source, tmp_path):
    wanted = [case.id for case in MsLesions().recognise(source).training]
    assert len(wanted) == 14
    assert [case.id for case in MsLesions().recognise(source / "training").training] == wanted
    shutil.move(source / "training", tmp_path / "moved")
    shutil.move(tmp_path / "moved", source / "training" / "training")
    shutil.move(source / "testdata_website", source / "my tests")
    recognition = MsLesions().recognise(source.parent)
    assert [case.id for case in recognition.training] == wanted
    assert [case.id for case in recognition.test] == TESTS
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*source.rglob("*_pp.nii"), *source.rglob("*_mask?.nii")]:
        if not path.name.startswith("._") and "__MACOSX" not in path.parts:
            shutil.copy(path, flat / path.name)
    assert [case.id for case in MsLesions().recognise(flat).training] == wanted


def test_gzipped_case_folded_underscored_and_foldered_mirrors(source, converted):
    for path in list((source / "training").rglob("training0[12]_*_pp.nii")):
        packed = path.with_name(path.name.upper().replace(".NII", ".nii.gz"))
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    for path in list((source / "training" / "training03").rglob("training03_*")):
        path.rename(path.with_name(path.name.replace("training03", "training_03")))
    inside = source / "training/training04/preprocessed/training04_01_t2_pp.nii"
    content = inside.read_bytes()
    inside.unlink()
    inside.mkdir()
    (inside / "brain.nii").write_bytes(content)
    dataset = load_dataset(converted(MsLesions(), source))
    assert [case.id for case in dataset.cases] == [f"{scan}_mask{rater}" for scan in SCANS for rater in (1, 2)]


def test_orig_alone_is_refused_with_the_reason(source):
    for folder in list(source.rglob("preprocessed")):
        shutil.rmtree(folder)
    with pytest.raises(InvalidData, match="orig only: native images, not co-registered"):
        MsLesions().recognise(source)


@pytest.mark.parametrize(("name", "there"), [("pd", "mprage"), ("flair", "mprage")])
def test_a_missing_channel_is_named(source, name, there):
    (source / f"testdata_website/test02/preprocessed/test02_01_{name}_pp.nii").unlink()
    with pytest.raises(InvalidData, match=rf"four channels of test02_01.*{name} missing \(there: .*{there}"):
        MsLesions().recognise(source)
    with pytest.raises(InvalidData, match=f"{name} missing"):
        MsLesions().test_cases(source / "testdata_website", 4)


def test_a_time_point_without_preprocessed_images_is_refused(source):
    for path in (source / "training/training03/preprocessed").glob("training03_02*"):
        path.unlink()
    with pytest.raises(InvalidData, match="four channels of training03_02.*flair, mprage, pd, t2 missing"):
        MsLesions().recognise(source)


def test_a_missing_mask_is_named(source, tmp_path):
    (source / "training/training03/masks/training03_02_mask2.nii").unlink()
    with pytest.raises(InvalidData, match=r"rater 2's mask of training03_02 \(rater both\).*copy is incomplete"):
        MsLesions().recognise(source)
    assert len(MsLesions(rater="1").recognise(source).training) == 7
    for path in source.rglob("*_mask2.nii"):
        path.unlink()
    recognition = MsLesions().recognise(source)
    assert len(recognition.training) == 7 and "masks of rater 1 only; the challenge has two" in recognition.messages
    with pytest.raises(InvalidData, match="Give --option rater=1"):
        MsLesions(rater="union").recognise(source)
    for path in source.rglob("*_mask1.nii"):
        path.unlink()
    with pytest.raises(InvalidData, match="rater 1's mask of training01_01.*copy is incomplete"):
        MsLesions().recognise(source)


def test_a_scan_twice_and_test_scans_only_are_refused(source):
    with pytest.raises(InvalidData, match="4 test scans only"):
        MsLesions().recognise(source / "testdata_website")
    shutil.copytree(source / "training/training01", source / "copy")
    with pytest.raises(InvalidData, match="each file once"):
        MsLesions().recognise(source)


def test_channels_of_another_shape_are_refused(source, converted, tmp_path):
    save(source / "training/training02/preprocessed/training02_01_t2_pp.nii", np.ones((6, 7, 5), np.float32))
    with pytest.raises(InvalidData, match=r"training02_01_t2_pp.nii.*shape \(4, 7, 6\)"):
        converted(MsLesions(), source)
    assert not (tmp_path / "ws" / "datasets" / "ms_lesions").exists()


def test_a_rater_2_mask_of_another_shape_is_refused(source, converted, tmp_path):
    save(source / "training/training02/masks/training02_01_mask2.nii", np.ones((6, 7, 5), np.uint8))
    with pytest.raises(InvalidData, match="training02_01_mask2.nii"):
        converted(MsLesions(), source)
    assert not (tmp_path / "ws" / "datasets" / "ms_lesions").exists()


def test_export_is_uncompressed_on_the_preprocessed_grid(source, tmp_path):
    cases = MsLesions(team="we-2").test_cases(source, 4)
    assert [case.output_name for case in cases] == [f"{scan}_we-2.nii" for scan in TESTS]
    assert MsLesions().test_cases(source, 4)[0].output_name == "test01_01_nnUNet.nii"
    labels = ms_mask(0).transpose(2, 1, 0)
    file = MsLesions().export(labels, cases[0], tmp_path / "out")
    before = nibabel.load(source / "testdata_website/test01/preprocessed/test01_01_flair_pp.nii")
    after = nibabel.load(file)
    assert file.read_bytes()[:4] == (348).to_bytes(4, "little")  # no gzip
    for field in ("pixdim", "dim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        assert np.array_equal(before.header[field], after.header[field]), field
    assert after.get_data_dtype() == np.uint8 and np.array_equal(voxels(file), ms_mask(0))
    with pytest.raises(UsageError, match="part of a file's name"):
        MsLesions(team="../we")


def test_training_scans_are_predicted_once_where_there_are_no_others(source):
    assert [case.id for case in MsLesions().test_cases(source / "training", 4)] == SCANS
    with pytest.raises(InvalidData, match="a model with 1 channels"):
        MsLesions().test_cases(source, 1)


def test_round_trip(source, converted, tmp_path):
    """A rater's mask through convert, export and evaluate: 1.0, and the original's voxels on the image's header."""
    folder = converted(MsLesions(), source)
    cases = {case.id: case for case in MsLesions().test_cases(source / "training", 4)}
    for scan in SCANS:
        stored = voxels(folder / f"labelsTr/{scan}_mask2.nii.gz")
        file = MsLesions().export(stored.transpose(2, 1, 0).copy(), cases[scan], tmp_path / "out")
        patient = source / "training" / scan[:10]
        assert np.array_equal(voxels(file), voxels(patient / f"masks/{scan}_mask2.nii"))
        image = nibabel.load(patient / f"preprocessed/{scan}_flair_pp.nii")
        assert np.array_equal(nibabel.load(file).affine, image.affine)
    result = MsLesions().evaluate(tmp_path / "out", source / "training")
    own, other = result["raters"]["rater 2"], result["raters"]["rater 1"]
    assert (own["dice"], own["ppv"], own["ltpr"], own["lfpr"], own["images"]) == (1.0, 1.0, 1.0, 0.0, 7)
    assert own["weighted_score"] == pytest.approx(1.0)
    assert other["dice"] < 1.0
    assert result["mean"]["dice"] == pytest.approx((1.0 + other["dice"]) / 2)
    assert MsLesions().evaluate(tmp_path / "out", folder)["raters"] == result["raters"]


def write_masks(folder, **masks):
    for name, lesions in masks.items():
        mask = np.zeros((12, 12, 12), np.uint8)
        for lesion in lesions:
            mask[lesion] = 1
        save(folder / f"{name}.nii", mask, (1.0, 1.0, 2.0))


def test_scores_by_hand(tmp_path):
    big, small, far = np.s_[1:3, 1:3, 1:3], np.s_[6, 6, 6], np.s_[9:11, 9, 9]
    half = np.s_[1:3, 1:3, 1]
    write_masks(tmp_path / "p", training01_01_x=[half, far], training01_02_x=[big, small])
    write_masks(tmp_path / "r", training01_01_mask1=[big, small], training01_02_mask1=[big, small])
    result = MsLesions().evaluate(tmp_path / "p", tmp_path / "r")
    case = result["per_case"][0]
    # 6 predicted voxels, 9 of the reference, 4 shared; 1 of 2 lesions found, 1 of 2 predicted ones false.
    assert case["dice"] == pytest.approx(8 / 15) and case["ppv"] == pytest.approx(4 / 6)
    assert case["tpr"] == pytest.approx(4 / 9) and case["jaccard"] == pytest.approx(4 / 11)
    assert (case["ltpr"], case["lfpr"]) == (0.5, 0.5)
    assert case["volume_difference"] == pytest.approx(3 / 9)
    assert case["volume_ml"] == pytest.approx(6 * 2 / 1000)
    rater = result["raters"]["rater 1"]
    assert np.isnan(rater["correlation"]) and np.isnan(rater["weighted_score"])  # both references have one volume
    write_masks(tmp_path / "r", training01_02_mask1=[big, small, far])
    rater = MsLesions().evaluate(tmp_path / "p", tmp_path / "r")["raters"]["rater 1"]
    assert rater["correlation"] == pytest.approx(1.0)
    first = (8 / 15) / 8 + (4 / 6) / 8 + 0.5 / 4 + 0.5 / 4
    second = (18 / 20) / 8 + 1 / 8 + 1 / 4 + (2 / 3) / 4
    assert rater["weighted_score"] == pytest.approx((first + second) / 2 + 1 / 4)


def test_lesions_are_counted_by_18_neighbours_unless_told(tmp_path):
    edge, corner = [np.s_[2, 2, 2], np.s_[3, 3, 2]], [np.s_[7, 7, 7], np.s_[8, 8, 8]]
    write_masks(tmp_path / "r", training01_01_mask1=[*edge, *corner])
    write_masks(tmp_path / "p", training01_01=[edge[0], corner[0]])
    found = {
        neighbours: MsLesions(connectivity=neighbours).evaluate(tmp_path / "p", tmp_path / "r")["mean"]["ltpr"]
        for neighbours in ("6", "18", "26")
    }
    assert found == {"6": pytest.approx(2 / 4), "18": pytest.approx(2 / 3), "26": pytest.approx(1.0)}
    assert MsLesions().evaluate(tmp_path / "p", tmp_path / "r")["connectivity"] == 18


def test_empty_sides(tmp_path):
    lesion = np.s_[1:3, 1:3, 1:3]
    write_masks(tmp_path / "r", training01_01_mask1=[], training01_02_mask1=[lesion], training01_03_mask1=[lesion])
    write_masks(tmp_path / "p", training01_01_x=[], training01_02_x=[], training01_03_x=[lesion])
    rater = MsLesions().evaluate(tmp_path / "p", tmp_path / "r")["raters"]["rater 1"]
    assert rater["undefined"] == {
        "dice": 1,
        "ppv": 2,
        "lfpr": 2,
        "ltpr": 1,
        "jaccard": 1,
        "tpr": 1,
        "volume_difference": 1,
    }
    assert (rater["dice"], rater["ppv"], rater["ltpr"]) == (0.5, 1.0, 0.5)
    # The empty prediction counts 0 in every part, the pair without lesions not at all.
    assert rater["weighted_score"] == pytest.approx((0 + 3 / 4) / 2 + rater["correlation"] / 4)


def test_cross_validation_predictions_of_one_scan_count_once(source, converted, tmp_path):
    folder = converted(MsLesions(), source)
    result = MsLesions().evaluate(folder / "labelsTr", source)
    assert result["cases"] == 7 and result["missing"] == []
    assert result["raters"]["rater 1"]["dice"] == 1.0


@pytest.mark.parametrize("name", ["training02_13_we", "TRAINING02_13_WE", "training_02_13", "Training2_13"])
def test_predictions_are_paired_by_scan_however_it_is_written(tmp_path, name):
    write_masks(tmp_path / "r", training02_13_mask2=[np.s_[1:3, 1, 1]], training02_01_mask2=[])
    write_masks(tmp_path / "p", **{name: [np.s_[1:3, 1, 1]]})
    result = MsLesions().evaluate(tmp_path / "p", tmp_path / "r")
    assert [case["case"] for case in result["per_case"]] == ["training02_13"]
    assert result["mean"]["dice"] == 1.0 and result["missing"] == ["training02_01"]


def test_predictions_of_unknown_names_or_scans_are_refused(tmp_path):
    write_masks(tmp_path / "r", training01_01_mask1=[])
    write_masks(tmp_path / "p", brain=[])
    with pytest.raises(InvalidData, match="begins with its scan's"):
        MsLesions().evaluate(tmp_path / "p", tmp_path / "r")
    write_masks(tmp_path / "q", training09_01=[])
    with pytest.raises(InvalidData, match="a reference of that name"):
        MsLesions().evaluate(tmp_path / "q", tmp_path / "r")
    write_scan(tmp_path / "t", "test", 1, 1, masks=False)
    with pytest.raises(InvalidData, match="label maps"):
        MsLesions().evaluate(tmp_path / "q", tmp_path / "t")


@pytest.mark.real_data
def test_real_layout(real_data, converted, tmp_path):
    source = real_data / "MS_lesions"
    folder = converted(MsLesions(), source)
    dataset = load_dataset(folder)
    assert [case.id for case in dataset.cases] == [f"training0{patient}_01_mask1" for patient in (1, 2, 3)]
    cases = {case.id: case for case in MsLesions().test_cases(source, 4)}
    for scan, case in cases.items():
        stored = voxels(folder / f"labelsTr/{scan}_mask1.nii.gz")
        file = MsLesions().export(stored.transpose(2, 1, 0).copy(), case, tmp_path / "out")
        assert np.array_equal(voxels(file), voxels(next(source.rglob(f"{scan}_mask1.nii"))))
    result = MsLesions().evaluate(tmp_path / "out", source)
    assert result["cases"] == 3
    assert result["mean"]["weighted_score"] == pytest.approx(1.0)
