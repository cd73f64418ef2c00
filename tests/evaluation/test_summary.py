from __future__ import annotations

import json

import numpy as np
import pytest

from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.summary import (
    read_label_map,
    read_pair,
    summarise_pairs,
    summary_dice,
    write_summary,
)

LABELS = {0: "background", 1: "ventricle", 2: "scar"}


@pytest.fixture
def pairs(labels_file):
    """Case one: Dice 2/3 for label 1, label 2 nowhere. Case two: label 1 right, label 2 predicted but not there."""
    first = np.array([[[0, 1, 1, 1]]], dtype=np.uint8), np.array([[[1, 1, 1, 0]]], dtype=np.uint8)
    second = np.array([[[0, 1, 0, 0]]], dtype=np.uint8), np.array([[[0, 1, 2, 0]]], dtype=np.uint8)
    return [
        (name, labels_file(f"pred/{name}.nii.gz", prediction), labels_file(f"ref/{name}.nii.gz", reference))
        for name, (reference, prediction) in (("one", first), ("two", second))
    ]


def test_summary_has_the_schema_of_nnunet_v2(pairs, tmp_path):
    summary = summarise_pairs(pairs, LABELS)
    write_summary(summary, tmp_path / "summary.json")
    read = json.loads((tmp_path / "summary.json").read_text())
    metrics = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}
    assert set(read) == {"foreground_mean", "mean", "metric_per_case"}
    assert set(read["foreground_mean"]) == metrics
    assert set(read["mean"]) == {"1", "2"}
    case = read["metric_per_case"][0]
    assert set(case) == {"metrics", "prediction_file", "reference_file"}
    assert case["prediction_file"] == str(pairs[0][1])
    assert case["reference_file"] == str(pairs[0][2])
    assert set(case["metrics"]) == {"1", "2"}
    assert set(case["metrics"]["1"]) == metrics


def test_values_and_means(pairs):
    summary = summarise_pairs(pairs, LABELS)
    one, two = (entry["metrics"] for entry in summary["metric_per_case"])
    assert (one["1"]["TP"], one["1"]["FP"], one["1"]["FN"], one["1"]["TN"]) == (2, 1, 1, 0)
    assert np.isnan(one["2"]["Dice"])
    assert two["2"]["Dice"] == 0
    assert summary_dice(summary, 1) == pytest.approx((2 / 3 + 1) / 2)
    assert summary_dice(summary, 2) == 0  # the case without the structure on either side does not count
    assert summary_dice(summary) == pytest.approx(((2 / 3 + 1) / 2 + 0) / 2)  # mean over labels of means over cases
    assert summary["mean"]["1"]["n_ref"] == 2


def test_undefined_values_are_written_as_nan_and_read_back(pairs, tmp_path):
    write_summary(summarise_pairs(pairs[:1], LABELS), tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" in text and "null" not in text
    assert np.isnan(json.loads(text)["mean"]["2"]["Dice"])


@pytest.mark.filterwarnings("error")
def test_a_structure_in_no_case_is_left_out_of_the_foreground_mean(pairs):
    summary = summarise_pairs(pairs[:1], LABELS)
    assert np.isnan(summary_dice(summary, 2))
    assert summary_dice(summary) == pytest.approx(2 / 3)


def test_labels_may_be_float_files_with_integral_values(labels_file):
    file = labels_file("float.nii.gz", np.array([[[0.0, 1.0, 2.0]]], dtype=np.float32), (3.0, 2.0, 1.0))
    labels, spacing = read_label_map(file, LABELS)
    assert labels.dtype == np.uint8 and labels.tolist() == [[[0, 1, 2]]]
    assert spacing == (3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.array([[[0, 0.5]]], dtype=np.float32), "0.5"),
        (np.array([[[0, np.nan]]], dtype=np.float32), "nan to nan"),
        (np.array([[[0, -1]]], dtype=np.int16), "-1 to 0"),
        (np.array([[[0, 256]]], dtype=np.int16), "0 to 256"),
        (np.array([[[1, 7]]], dtype=np.uint8), r"undeclared \[7\]"),
    ],
)
def test_what_is_no_label_map_is_refused(labels_file, array, found):
    file = labels_file("bad.nii.gz", array)
    with pytest.raises(InvalidData, match=found) as caught:
        read_label_map(file, LABELS)
    assert caught.value.file == file


def test_a_pair_of_different_shapes_is_refused(labels_file):
    prediction = labels_file("small.nii.gz", np.zeros((2, 3, 4), dtype=np.uint8))
    reference = labels_file("large.nii.gz", np.zeros((2, 3, 5), dtype=np.uint8))
    with pytest.raises(InvalidData, match=r"shape \(2, 3, 5\).*found \(2, 3, 4\)"):
        read_pair(prediction, reference)


def test_background_alone_cannot_be_scored(pairs):
    with pytest.raises(InvalidData, match="beside background"):
        summarise_pairs(pairs, {0: "background"})
