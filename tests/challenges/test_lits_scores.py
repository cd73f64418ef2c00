"""LiTS's metrics on lesions small enough to count by hand, in both modes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lits_downloads import save
from scipy import ndimage
from scipy.spatial import cKDTree

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.lits import Lits
from nnbox_challenges.lits_lesions import detect, find_lesions
from nnunet_box.dataset.challenge import evaluate_challenge
from nnunet_box.errors import InvalidData, UsageError

SHAPE = (24, 12, 6)
SPACING = (0.5, 1.0, 2.0)


def scored(tmp_path, pairs, mode="official"):
    for number, (prediction, reference) in enumerate(pairs):
        save(tmp_path / "p" / f"test-segmentation-{number}.nii", prediction, SPACING)
        save(tmp_path / "r" / f"test-segmentation-{number}.nii", reference, SPACING)
    return Lits().evaluate(tmp_path / "p", tmp_path / "r", mode)


def liver(*lesions):
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:23, 1:11, 1:5] = 1
    for x, y, z in lesions:
        labels[slice(*x), slice(*y), slice(*z)] = 2
    return labels


ONE = ((2, 6), (2, 6), (2, 4))  # 32 voxels
SHIFTED = ((3, 7), (2, 6), (2, 4))  # 24 shared with ONE: overlap 24 / 40 = 0.6
FAR = ((4, 8), (2, 6), (2, 4))  # 16 shared with ONE: 16 / 48 = 1/3
OTHER = ((14, 18), (2, 6), (2, 4))


def test_overlap_and_detection_of_one_case(tmp_path):
    result = scored(tmp_path, [(liver(SHIFTED, OTHER), liver(ONE))])
    lesion = result["lesion"]
    assert lesion["dice_per_case"] == lesion["dice_global"] == pytest.approx(2 * 24 / (64 + 32))
    assert (lesion["precision"], lesion["recall"]) == (0.5, 1.0)
    assert lesion["dice"] == pytest.approx(48 / 64)
    assert (lesion["jaccard"], lesion["voe"]) == (pytest.approx(0.6), pytest.approx(0.4))
    assert result["liver"]["dice_per_case"] == 1.0
    assert result["tumour_burden"]["max"] == pytest.approx((32 - 64) / (22 * 10 * 4))


def test_half_an_overlap_is_not_enough_and_any_is_for_the_other(tmp_path):
    lesion = scored(tmp_path, [(liver(FAR), liver(ONE))])["lesion"]
    assert (lesion["precision"], lesion["recall"]) == (0.0, 0.0)
    assert (lesion["precision_greater_zero"], lesion["recall_greater_zero"]) == (1.0, 1.0)
    # nothing detected at 0.5 in all of the data: the organisers' defaults
    assert (lesion["dice"], lesion["voe"], lesion["assd"]) == (0.0, 1.0, 9001.0)


def test_exactly_one_half_is_not_detected(tmp_path):
    half = ((2, 4), (2, 6), (2, 4))
    assert scored(tmp_path, [(liver(half), liver(ONE))])["lesion"]["recall"] == 0.0


def test_surface_distances_are_those_of_the_eighteen_neighbour_border(tmp_path):
    prediction, reference = liver(SHIFTED), liver(ONE)
    lesion = scored(tmp_path, [(prediction, reference)])["lesion"]
    points = []
    for labels in (prediction == 2, reference == 2):
        border = labels & ~ndimage.binary_erosion(labels, ndimage.generate_binary_structure(3, 2))
        points.append(np.argwhere(border) * SPACING)
    distances = np.concatenate([cKDTree(points[0]).query(points[1])[0], cKDTree(points[1]).query(points[0])[0]])
    assert lesion["assd"] == pytest.approx(distances.mean())
    assert lesion["rmsd"] == pytest.approx(math.sqrt((distances**2).mean()))
    assert lesion["msd"] == pytest.approx(distances.max()) == pytest.approx(0.5)


def test_rvd_is_signed_and_by_the_prediction_or_by_the_reference(tmp_path):
    larger = ((2, 7), (2, 6), (2, 4))  # 40 voxels
    for mode, rvd in (("official", (32 - 40) / 40), ("clean", (40 - 32) / 32)):
        assert scored(tmp_path, [(liver(larger), liver(ONE))], mode)["lesion"]["rvd"] == pytest.approx(rvd)


def test_no_liver_predicted(tmp_path):
    empty, lesions_only = np.zeros(SHAPE, np.uint8), np.where(liver(ONE) == 2, 2, 0).astype(np.uint8)
    burden = 32 / 880
    official = scored(tmp_path, [(empty, liver(ONE)), (lesions_only, liver(ONE)), (liver(ONE), liver(ONE))])
    assert official["liver"]["dice_per_case"] == pytest.approx(1 / 3)
    assert official["liver"]["assd"] == pytest.approx(2 * 9001 / 3)
    assert official["tumour_burden"]["rmse"] == pytest.approx(math.sqrt(2 / 3) * (9001 - burden))
    assert official["tumour_burden"]["max"] == 0.0
    assert official["tumour_burden"]["without_liver"] == 2
    clean = scored(tmp_path, [(empty, liver(ONE)), (lesions_only, liver(ONE)), (liver(ONE), liver(ONE))], "clean")
    assert clean["liver"]["dice_per_case"] == pytest.approx((0 + 2 * 32 / (32 + 880) + 1) / 3)
    assert clean["liver"]["without_distance"] == 1
    assert clean["liver"]["assd"] < 100
    assert clean["tumour_burden"]["without_liver"] == 1
    assert clean["tumour_burden"]["max"] == pytest.approx(1 - burden)


def test_cases_without_a_lesion(tmp_path):
    pairs = [(liver(), liver()), (liver(ONE), liver())]
    official = scored(tmp_path, pairs)["lesion"]
    assert official["dice_per_case"] == pytest.approx(0.5)
    assert official["precision"] == 0.0
    clean = scored(tmp_path, pairs, "clean")["lesion"]
    assert clean["dice_per_case"] == 0.0
    assert math.isnan(clean["recall"]) and math.isnan(clean["assd"])


def test_bridged_and_split_lesions_are_merged():
    bridge = np.zeros((3, 3, 12), np.uint8)
    bridge[1, 1, 1:11] = 2
    two = bridge.copy()
    two[1, 1, 5:7] = 0
    assert detect(find_lesions(bridge, two, 2), 0.5, official=False).counts == {"tp": 1, "fp": 0, "fn": 0}
    assert detect(find_lesions(two, bridge, 2), 0.5, official=False).counts == {"tp": 1, "fp": 0, "fn": 0}
    # the organisers count what is left of the unmerged components
    assert detect(find_lesions(bridge, two, 2), 0.5, official=True).counts == {"tp": 1, "fp": 0, "fn": 1}
    assert detect(find_lesions(two, bridge, 2), 0.5, official=True).counts == {"tp": 1, "fp": 1, "fn": 0}
    (ours, theirs), *_ = detect(find_lesions(bridge, two, 2), 0.5, official=False).pairs
    assert (ours, theirs) == ([1], [1, 2])


def test_the_union_of_the_official_mode_takes_the_lesion_of_the_predictions_number():
    """Prediction 1 is lesion 2, and prediction 2 lesion 1: by the numbers, nothing of their union is shared."""
    reference, prediction = np.zeros((3, 3, 12), np.uint8), np.zeros((3, 3, 12), np.uint8)
    # numbered along x first: the lesion at x = 0 has the lower number
    reference[1, 0:2, 0:4] = 2
    reference[1, 0:2, 6:11] = 2
    prediction[1, 0:2, 6:11] = 2
    lesions = find_lesions(prediction, reference, 2)
    assert detect(lesions, 0.5, official=False).counts == {"tp": 1, "fp": 0, "fn": 1}
    # id 1 of the prediction marks lesion 2: the union is lesion 2 alone, and the overlap still 1
    assert detect(lesions, 0.5, official=True).counts == {"tp": 1, "fp": 0, "fn": 1}
    bad = prediction.copy()
    bad[1, :, 4:12] = 2
    assert detect(find_lesions(bad, reference, 2), 0.5, official=False).counts["tp"] == 0
    # 24 voxels predicted, 10 right: an overlap of 10 / 24, of which the official union sees 10 / 10
    assert detect(find_lesions(bad, reference, 2), 0.5, official=True).counts["tp"] == 1


def test_modes_are_asked_for_by_name(tmp_path):
    save(tmp_path / "p" / "segmentation-1.nii", liver(ONE), SPACING)
    for mode in ("official", "clean"):
        assert evaluate_challenge(Lits(), tmp_path / "p", tmp_path / "p", mode)["mode"] == mode
    assert evaluate_challenge(Lits(), tmp_path / "p", tmp_path / "p", None)["mode"] == "official"
    with pytest.raises(UsageError, match="official and clean"):
        evaluate_challenge(Lits(), tmp_path / "p", tmp_path / "p", "kind")
    with pytest.raises(UsageError, match="one way of scoring"):
        evaluate_challenge(Acdc(), tmp_path / "p", tmp_path / "p", "clean")


def test_another_shape_is_refused(tmp_path):
    with pytest.raises(InvalidData, match="shape"):
        scored(tmp_path, [(liver()[:, :, :5], liver())])
