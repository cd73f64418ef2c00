from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nnunet_box.cli import evaluate
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.comparison import compare, find_label_names, pair_files, read_label_names
from nnunet_box.evaluation.surfels import surfel_distances
from nnunet_box.files import null_undefined

app = typer.Typer()
evaluate.register(app)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folders(labels_file, tmp_path):
    """Case one: label 1 shifted by a slice of 3 mm. Case two: label 1 missed, label 2 right."""
    reference = np.zeros((5, 4, 6), dtype=np.uint8)
    reference[1, 1, 1:4] = 1
    prediction = np.roll(reference, 1, axis=0)
    prediction[1, 1, 1] = 1
    second = reference.copy()
    second[3, 2, 2:4] = 2
    found = second.copy()
    found[found == 1] = 0
    for name, ours, theirs in (("one", prediction, reference), ("two", found, second)):
        labels_file(f"pred/{name}.nii.gz", ours, (3.0, 1.0, 1.0))
        labels_file(f"data/labelsTr/{name}.nii", theirs, (3.0, 1.0, 1.0))
    (tmp_path / "pred" / "run.json").write_text("{}")
    return tmp_path / "pred", tmp_path / "data" / "labelsTr"


@pytest.fixture
def dataset_json(tmp_path):
    file = tmp_path / "data" / "dataset.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"labels": {"background": 0, "ventricle": 1, "scar": 2}}))
    return file


def test_files_pair_by_name_whatever_the_ending(folders):
    pairs = pair_files(*folders)
    assert [(case, ours.name, theirs.name) for case, ours, theirs in pairs] == [
        ("one", "one.nii.gz", "one.nii"),
        ("two", "two.nii.gz", "two.nii"),
    ]
    assert len(pair_files(folders[0] / "one.nii.gz", folders[1] / "two.nii")) == 1


@pytest.mark.parametrize(("side", "name"), [(0, "two.nii.gz"), (1, "two.nii")])
def test_a_missing_counterpart_is_refused_unless_part_is_wanted(folders, side, name):
    (folders[side] / name).unlink()
    with pytest.raises(InvalidData) as caught:
        pair_files(*folders)
    assert caught.value.file.stem.startswith("two")
    assert str(folders[side]) in caught.value.expected
    assert [case for case, _, _ in pair_files(*folders, partial=True)] == ["one"]


def test_folders_that_cannot_be_paired(folders, labels_file, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="a folder of label maps"):
        pair_files(folders[0], tmp_path / "empty")
    with pytest.raises(InvalidData, match="a folder of label maps"):
        pair_files(folders[0], tmp_path / "nowhere")
    labels_file("other/three.nii.gz", np.zeros((1, 1, 1), dtype=np.uint8))
    with pytest.raises(InvalidData, match="no name in common"):
        pair_files(folders[0], tmp_path / "other", partial=True)
    labels_file("pred/one.nii", np.zeros((1, 1, 1), dtype=np.uint8))
    with pytest.raises(InvalidData, match="one file a case"):
        pair_files(*folders)


def test_scores_and_means_worked_by_hand(folders):
    comparison = compare(pair_files(*folders), {0: "background", 1: "ventricle", 2: "scar"}, tolerance_mm=1.0)
    one = comparison.cases["one"][1]
    # Prediction: three voxels one slice up and one in place, so 3 3 3 0 mm to the reference and 0 1 2 mm back.
    assert one.dice == pytest.approx(2 * 1 / (4 + 3))
    assert one.hausdorff == pytest.approx(3.0)
    masks = [np.asanyarray(nibabel.load(next(folder.glob("one.*"))).dataobj).T == 1 for folder in folders]
    assert one.surface_dice == surfel_distances(*masks, (3.0, 1.0, 1.0)).surface_dice(1.0)
    assert 0.2 < one.surface_dice < 0.8
    assert one.assd == pytest.approx((0 + 3 + 3 + 3 + 0 + 1 + 2) / 7)
    assert np.isnan(comparison.cases["one"][2].dice)
    ventricle, scar = comparison.means(1), comparison.means(2)
    assert ventricle.cases == 2 and ventricle.one_sided == 1
    assert ventricle.scores.dice == pytest.approx(one.dice / 2)
    assert ventricle.scores.hausdorff == pytest.approx(3.0), "the infinite distance of the missed case is not averaged"
    assert ventricle.scores.surface_dice == pytest.approx(one.surface_dice / 2), "but its surface Dice of 0 is"
    assert scar.cases == 1 and scar.scores.dice == 1 and scar.scores.hausdorff_95 == 0
    assert comparison.mean_foreground_dice == pytest.approx((one.dice / 2 + 1) / 2)


def test_without_names_every_value_is_a_structure(folders):
    comparison = compare(pair_files(*folders))
    assert comparison.labels == {1: "label 1", 2: "label 2"}


def test_an_undeclared_value_is_refused(folders):
    with pytest.raises(InvalidData, match=r"undeclared \[2\]"):
        compare(pair_files(*folders), {0: "background", 1: "ventricle"})


def test_names_come_from_both_kinds_of_dataset_json(dataset_json, tmp_path):
    assert read_label_names(dataset_json) == {1: "ventricle", 2: "scar"}
    assert find_label_names(dataset_json.parent / "labelsTr") == {1: "ventricle", 2: "scar"}
    decathlon = tmp_path / "decathlon.json"
    decathlon.write_text(json.dumps({"labels": {"0": "background", "1": "Anterior"}}))
    assert read_label_names(decathlon) == {1: "Anterior"}
    assert find_label_names(tmp_path / "elsewhere" / "labels") is None


@pytest.mark.parametrize("content", ["{}", "[]", '{"labels": {"tumour": [1, 2], "core": 2}}'])
def test_a_dataset_json_without_single_values_is_refused(tmp_path, content):
    file = tmp_path / "dataset.json"
    file.write_text(content)
    with pytest.raises(InvalidData):
        read_label_names(file)


def test_undefined_numbers_become_null():
    value = {"a": [float("nan"), 1.0, np.float32("inf")], "b": (np.int64(3), "x", None)}
    assert null_undefined(value) == {"a": [None, 1.0, None], "b": [3, "x", None]}


def test_the_command_prints_a_table(folders, dataset_json):
    result = invoke(*folders, "--tolerance-mm", "2")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    ventricle = next(row for row in rows if "ventricle" in row)
    assert "0.1429" in ventricle and "3.00" in ventricle
    assert "surface Dice at 2 mm" in result.stdout
    assert any("mean" in row and "0.5714" in row for row in rows)


def test_the_command_prints_standard_json(folders, dataset_json):
    def no_constant(name):
        raise AssertionError(f"{name} is not standard JSON")

    result = invoke(*folders, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout, parse_constant=no_constant)
    assert value["tolerance_mm"] == 1.0
    assert value["structures"]["ventricle"]["one_sided"] == 1
    assert value["structures"]["ventricle"]["label"] == 1
    assert value["cases"]["two"]["ventricle"] == {
        "dice": 0.0, "iou": 0.0, "hausdorff": None, "hausdorff_95": None, "assd": None, "surface_dice": 0.0,
    }  # fmt: skip


def test_the_command_takes_names_from_a_file(folders, tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"labels": {"background": 0, "lumen": 1, "wall": 2}}))
    for option in ("--labels", "--dataset-json"):
        assert "lumen" in invoke(*folders, option, file).stdout


def test_the_command_refuses_what_does_not_pair(folders):
    (folders[0] / "two.nii.gz").unlink()
    result = invoke(*folders)
    assert isinstance(result.exception, InvalidData) and result.exception.exit_code == 3
    assert invoke(*folders, "--partial").exit_code == 0


class OwnMetrics:
    def evaluate(self, predictions, references):
        dice = {"dice": 0.5, "hd": float("nan")}
        return {"ED": {"LV": dice}, "cases": 2, "single": [{"case": "patient001", **dice}]}


def test_the_command_asks_the_challenge_for_its_own_metrics(folders, monkeypatch):
    monkeypatch.setattr("nnunet_box.dataset.challenge.load_challenge", lambda name, options: OwnMetrics())
    shown = invoke(*folders, "--challenge", "acdc").stdout
    assert "ED.LV.dice" in shown and "0.5000" in shown
    assert "patient001" not in shown
    value = json.loads(invoke(*folders, "--challenge", "acdc", "--json").stdout)
    dice = {"dice": 0.5, "hd": None}
    assert value == {"ED": {"LV": dice}, "cases": 2, "single": [{"case": "patient001", **dice}]}


def test_the_command_refuses_an_unknown_challenge(folders):
    result = invoke(*folders, "--challenge", "no-such-challenge")
    assert isinstance(result.exception, UsageError) and "no-such-challenge" in str(result.exception)
