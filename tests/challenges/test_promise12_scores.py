"""PROMISE12's measures on shapes whose numbers are known by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tiny_promise12 import label_voxels, write_cases, write_mhd

from nnbox_challenges.promise12 import Promise12
from nnbox_challenges.promise12_scores import (
    OBSERVER_FILE,
    PERFECT,
    REGIONS,
    measures,
    read_observer,
    regions_of,
    score,
)
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import save_nifti
from nnunet_box.errors import InvalidData

SPACING = (3.0, 0.5, 0.5)
UP = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
DOWN = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)


def gland(first, stop, shape=(20, 8, 8)):
    labels = np.zeros(shape, np.uint8)
    labels[first:stop, 2:6, 2:6] = 1
    return labels


def thirds(labels, direction=UP):
    slabs = regions_of(labels > 0, Geometry(labels.shape, SPACING, direction=direction))
    return {name: tuple(range(*slab[0].indices(labels.shape[0]))) for name, slab in slabs.items()}


def test_apex_is_the_caudal_third_and_base_the_cranial():
    parts = thirds(gland(4, 13))
    assert parts == {"whole": tuple(range(20)), "apex": tuple(range(7)), "base": tuple(range(10, 20))}


def test_the_direction_comes_from_geometry_not_from_the_order_of_slices():
    parts = thirds(gland(4, 13), DOWN)
    assert (parts["base"], parts["apex"]) == (tuple(range(7)), tuple(range(10, 20)))


@pytest.mark.parametrize(("slices", "third"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (13, 4), (14, 5), (15, 5)])
def test_slices_that_are_no_multiple_of_three_are_rounded(slices, third):
    parts = thirds(gland(3, 3 + slices))
    assert len([index for index in parts["apex"] if index >= 3]) == third
    assert len([index for index in parts["base"] if index < 3 + slices]) == third


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_slice_axis_is_the_one_that_runs_from_foot_to_head(sign):
    """A file whose rows run along the body: y of the array is cranial, up to a tilt."""
    labels = np.zeros((6, 12, 7), np.uint8)
    labels[1:5, 2:11, 2:5] = 1
    tilt = math.sin(0.3)
    straight = math.cos(0.3)
    direction = (1.0, 0.0, 0.0, 0.0, tilt, straight, 0.0, sign * straight, -sign * tilt)
    slabs = regions_of(labels > 0, Geometry(labels.shape, SPACING, direction=direction))
    low, high = (slice(None), slice(None, 5), slice(None)), (slice(None), slice(8, None), slice(None))
    assert (slabs["apex"], slabs["base"]) == ((low, high) if sign > 0 else (high, low))


def test_measures_of_a_box_moved_by_one_slice():
    reference, prediction = gland(4, 10), gland(5, 11)
    found = measures(prediction, reference, SPACING)
    assert found["dice"] == pytest.approx(5 / 6)
    assert found["relative_volume_difference_percent"] == 0.0
    # Of 4 x 4 x 6 voxels all but the inner 2 x 2 x 4 are border. On either side the 16 of the end slice that stands out
    # are 3 mm off, and so are the inner 4 of the far end, whose slice is not the other's border: the nearest border of
    # theirs is in the plane, half a millimetre on.
    assert found["average_boundary_distance_mm"] == pytest.approx((16 * 3.0 + 4 * 0.5) / 80)
    assert found["hausdorff_95_mm"] == 3.0


def test_volume_difference_is_signed_and_relative_to_the_reference():
    assert measures(gland(4, 13), gland(4, 10), SPACING)["relative_volume_difference_percent"] == pytest.approx(50.0)
    assert measures(gland(4, 7), gland(4, 10), SPACING)["relative_volume_difference_percent"] == pytest.approx(-50.0)


def test_an_error_at_the_apex_is_an_error_of_the_apex(tmp_path):
    """Both ways a file may run: what is missing is the foot's end."""
    for name, matrix, missing in (
        ("up", "1 0 0 0 1 0 0 0 1", slice(4, 6)),
        ("down", "1 0 0 0 -1 0 0 0 -1", slice(11, 13)),
    ):
        prediction = gland(4, 13)
        prediction[missing] = 0
        write_mhd(
            tmp_path / name / "ref" / "Case00_segmentation.mhd", gland(4, 13), "MET_UCHAR", TransformMatrix=matrix
        )
        write_mhd(tmp_path / name / "ref" / "Case00.mhd", gland(4, 13), TransformMatrix=matrix)
        write_mhd(tmp_path / name / "out" / "Case00.mhd", prediction, "MET_UCHAR", TransformMatrix=matrix)
        regions = Promise12().evaluate(tmp_path / name / "out", tmp_path / name / "ref")["regions"]
        assert regions["base"]["dice"] == 1.0
        assert regions["apex"]["dice"] == pytest.approx(0.5)
        assert regions["apex"]["relative_volume_difference_percent"] == pytest.approx(-200 / 3)
        assert regions["apex"]["absolute_volume_difference_percent"] == pytest.approx(200 / 3)
        assert regions["whole"]["dice"] == pytest.approx(14 / 16)


def test_distances_are_in_the_references_millimetres(tmp_path):
    write_mhd(tmp_path / "ref" / "Case00.mhd", gland(4, 10), ElementSpacing="0.5 0.5 3")
    write_mhd(tmp_path / "ref" / "Case00_segmentation.mhd", gland(4, 10), "MET_UCHAR", ElementSpacing="0.5 0.5 3")
    write_mhd(tmp_path / "out" / "Case00.mhd", gland(5, 11), "MET_UCHAR", ElementSpacing="1 1 1")
    assert Promise12().evaluate(tmp_path / "out", tmp_path / "ref")["regions"]["whole"]["hausdorff_95_mm"] == 3.0


@pytest.fixture
def observer():
    value = {
        "dice": 0.9,
        "relative_volume_difference_percent": -8.0,
        "average_boundary_distance_mm": 1.5,
        "hausdorff_95_mm": 4.0,
    }
    return {region: dict(value) for region in REGIONS}


def test_the_second_observer_scores_85_and_the_reference_100(observer):
    assert score(observer, observer) == pytest.approx(85.0)
    assert score(dict.fromkeys(REGIONS, PERFECT), observer) == 100.0


def test_score_is_a_line_that_stops_at_0(observer):
    twice = {region: {**PERFECT, "dice": 0.8} for region in REGIONS}
    assert score(twice, observer) == pytest.approx((3 * 70 + 9 * 100) / 12)
    worse = {region: {**PERFECT, "hausdorff_95_mm": 400.0} for region in REGIONS}
    assert score(worse, observer) == pytest.approx(9 * 100 / 12)
    too_much = {region: {**PERFECT, "relative_volume_difference_percent": 8.0} for region in REGIONS}
    assert score(too_much, observer) == pytest.approx((3 * 85 + 9 * 100) / 12)
    undefined = {region: {**PERFECT, "average_boundary_distance_mm": math.nan} for region in REGIONS}
    assert score(undefined, observer) == pytest.approx(9 * 100 / 12)


@pytest.fixture
def references(tmp_path):
    return write_cases(tmp_path / "test_data", "test", (0, 1))


def predict(folder, **cases):
    for name, labels in cases.items():
        write_mhd(folder / f"{name}.mhd", labels, "MET_UCHAR")
    return folder


def test_no_score_without_constants(references, tmp_path, observer):
    out = predict(tmp_path / "out", Case00=label_voxels("test", 0), Case01=label_voxels("test", 1))
    result = Promise12().evaluate(out, references)
    assert "score" not in result and all("score" not in case for case in result["per_case"])
    (references / OBSERVER_FILE).write_text(json.dumps(observer))
    result = Promise12().evaluate(out, references)
    assert (result["score"], [case["score"] for case in result["per_case"]]) == (100.0, [100.0, 100.0])
    (references / OBSERVER_FILE).rename(tmp_path / "constants.json")
    assert Promise12(tmp_path / "constants.json").evaluate(out, references)["score"] == 100.0
    with pytest.raises(InvalidData, match="no such file"):
        Promise12(tmp_path / "nowhere.json").evaluate(out, references)


def test_empty_prediction(references, tmp_path, observer):
    empty = np.zeros_like(label_voxels("test", 0))
    out = predict(tmp_path / "out", Case00=empty, Case01=label_voxels("test", 1))
    (references / OBSERVER_FILE).write_text(json.dumps(observer))
    result = Promise12().evaluate(out, references)
    first = result["per_case"][0]
    for region in REGIONS:
        assert (first["regions"][region]["dice"], result["regions"][region]["dice"]) == (0.0, 0.5)
        assert first["regions"][region]["relative_volume_difference_percent"] == -100.0
        assert math.isnan(first["regions"][region]["hausdorff_95_mm"])
        assert math.isnan(first["regions"][region]["average_boundary_distance_mm"])
        assert result["regions"][region]["hausdorff_95_mm"] == 0.0
        assert result["regions"][region]["without_distance"] == 1
    assert (first["score"], result["score"]) == (0.0, 50.0)


@pytest.mark.parametrize(
    ("region", "measure", "value"),
    [
        ("base", "dice", None),
        ("apex", "hausdorff_95_mm", "4"),
        ("whole", "dice", 1.0),
        ("whole", "average_boundary_distance_mm", 0),
        ("base", "dice", float("nan")),
        ("base", "dice", True),
    ],
)
def test_constants_that_are_none(tmp_path, observer, region, measure, value):
    observer[region][measure] = value
    (tmp_path / "c.json").write_text(json.dumps(observer))
    with pytest.raises(InvalidData, match=f"{region}: .{measure}: the second observer's mean"):
        read_observer(tmp_path / "c.json")
    (tmp_path / "c.json").write_text("[1, 2]")
    with pytest.raises(InvalidData, match="whole: .dice"):
        read_observer(tmp_path / "c.json")


def test_predictions_by_either_name_and_missing_ones(references, tmp_path):
    out = predict(tmp_path / "out", test_Case01=label_voxels("test", 1))
    result = Promise12().evaluate(out, references)
    assert (result["cases"], result["missing"], result["mean"]["dice"]) == (1, ["test_Case00"], 1.0)
    bare = predict(tmp_path / "bare", Case00=label_voxels("test", 0))
    labels = predict(tmp_path / "labels", Case00=label_voxels("test", 0))
    assert Promise12().evaluate(bare, labels)["mean"]["dice"] == 1.0
    assert Promise12().evaluate(predict(tmp_path / "p", test_Case00=label_voxels("test", 0)), labels)["cases"] == 1


def test_a_converted_data_set_is_a_folder_of_references(tmp_path):
    write_cases(tmp_path / "in" / "train", "train", (0, 4))
    Promise12().convert(Promise12().recognise(tmp_path / "in"), tmp_path / "set")
    out = predict(tmp_path / "out", Case00=label_voxels("train", 0), Case04=label_voxels("train", 4))
    for references in (tmp_path / "set", tmp_path / "set" / "labelsTr"):
        result = Promise12().evaluate(out, references)
        assert (result["mean"]["dice"], [case["case"] for case in result["per_case"]]) == (
            1.0,
            ["train_Case00", "train_Case04"],
        )
    # NIfTI keeps where the head is: in case 4, whose slices run down, an error of its apex is one of its apex.
    worse = label_voxels("train", 4)
    worse[7] = 0
    regions = Promise12().evaluate(predict(tmp_path / "worse", Case04=worse), tmp_path / "set")["regions"]
    assert regions["base"]["dice"] == 1.0 > regions["apex"]["dice"]


def test_names_that_several_parts_have_are_not_guessed(tmp_path):
    download = tmp_path / "download"
    write_cases(download / "test_data", "test", (0,))
    write_cases(download / "training_data", "train", (0, 1))
    out = predict(tmp_path / "out", Case00=label_voxels("test", 0))
    with pytest.raises(
        InvalidData, match="references of one part of the challenge; found train_Case00 and test_Case00"
    ):
        Promise12().evaluate(out, download)
    assert Promise12().evaluate(out, download / "test_data")["mean"]["dice"] == 1.0
    # A live prediction is never held against another part's reference.
    with pytest.raises(InvalidData, match="a reference of that name"):
        Promise12().evaluate(predict(tmp_path / "live", live_Case01=label_voxels("train", 1)), download)


def test_one_prediction_a_case(references, tmp_path):
    out = predict(tmp_path / "out", Case00=label_voxels("test", 0), test_Case00=label_voxels("test", 0))
    with pytest.raises(InvalidData, match="one prediction a case"):
        Promise12().evaluate(out, references)


def test_predictions_that_cannot_be_scored(references, tmp_path):
    shape = label_voxels("test", 0).shape
    with pytest.raises(InvalidData, match="shape"):
        Promise12().evaluate(predict(tmp_path / "a", Case00=np.ones((9, 6, 7))), references)
    with pytest.raises(InvalidData, match=r"undeclared \[2\]"):
        Promise12().evaluate(predict(tmp_path / "b", Case00=np.full(shape, 2)), references)
    with pytest.raises(InvalidData, match="a reference of that name"):
        Promise12().evaluate(predict(tmp_path / "c", Case09=np.ones(shape)), references)
    write_mhd(references / "Case00_segmentation.mhd", np.zeros(shape), "MET_UCHAR")
    with pytest.raises(InvalidData, match="a prostate; found background only"):
        Promise12().evaluate(predict(tmp_path / "d", Case00=np.ones(shape)), references)


def test_nifti_predictions_are_scored_too(references, tmp_path):
    save_nifti(tmp_path / "Case01.nii.gz", label_voxels("test", 1), Geometry((9, 7, 6), (3.6, 0.75, 0.625)))
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "Case01.nii.gz").rename(out / "Case01.nii.gz")
    assert Promise12().evaluate(out, references)["mean"]["dice"] == 1.0
