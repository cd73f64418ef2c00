"""What is found for a case, and what is refused."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import write_nifti
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.view.case import Layer, case_of_dataset, case_of_file
from nnunet_box.workspace import Workspace

GRID = Geometry((3, 4, 5), (7.0, 1.5, 1.25))
OTHER = Geometry((3, 4, 6), (7.0, 1.5, 1.25))


def put(path, grid=GRID):
    write_nifti(path, np.zeros(grid.shape, np.uint8), grid)
    return path


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "nnbox"
    folder = root / "datasets" / "toy"
    for case in ("p1_a", "p2_b"):
        put(folder / "imagesTr" / f"{case}_0000.nii.gz")
        put(folder / "imagesTr" / f"{case}_0001.nii.gz")
        put(folder / "labelsTr" / f"{case}.nii.gz")
        put(folder / "imagesTs" / "q1_0000.nii.gz")
        put(folder / "imagesTs" / "q1_0001.nii.gz")
    facts = {"channel_names": {"0": "T2", "1": "CT"}, "labels": {"background": 0, "heart": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return Workspace(root, "toy")


def shown(workspace, case="p1_a", given=()):
    return case_of_dataset(workspace, load_dataset(workspace.root / "datasets" / "toy"), case, given)


def names(case):
    return [layer.name for layer in case.layers]


def test_a_training_case_has_its_reference_and_a_test_case_none(workspace):
    case = shown(workspace)
    assert names(case) == ["reference"] and case.reference is case.layers[0]
    assert [name for name, _ in case.channels] == ["T2", "CT"] and case.hounsfield == (False, True)
    assert case.labels == {1: "heart"}
    assert shown(workspace, "q1").layers == () and shown(workspace, "q1").reference is None


def test_every_prediction_is_found_the_selected_model_s_first(workspace):
    models = workspace.models
    put(models / "2d" / "fold_3" / "validation" / "p1_a.nii.gz")
    put(models / "3d_fullres" / "fold_3" / "validation" / "p1_a.nii.gz")
    put(models / "3d_fullres" / "fold_0" / "validation" / "p2_b.nii.gz")
    put(models / "ensembles" / "2d+3d_fullres" / "validation" / "p1_a.nii.gz")
    put(workspace.root / "predictions" / "toy" / "p1_a.nii.gz")
    put(workspace.root / "predictions" / "other-run" / "deep" / "p1_a.nii")
    put(workspace.root / "predictions" / "other-run" / "deep" / "p1_ab.nii.gz")
    put(workspace.root / "datasets" / "second" / "p1_a.nii.gz")
    put(workspace.root / "predictions" / "second" / "p1_a.nii.gz")
    assert names(shown(workspace)) == [
        "reference",
        "2d, fold 3",
        "3d_fullres, fold 3",
        "2d+3d_fullres",
        "predictions/other-run/deep",
        "predictions/toy",
    ]
    workspace.selection.write_text(json.dumps({"chosen": ["2d", "3d_fullres"]}))
    assert names(shown(workspace))[:3] == ["reference", "2d+3d_fullres (selected)", "2d, fold 3"]
    workspace.selection.write_text("broken")
    assert len(shown(workspace).layers) == 6


def test_a_prediction_is_found_by_the_leaderboard_s_name(workspace):
    record = {"id": "q1", "group": "q1", "split": "test", "source_images": ["a", "b"], "header": {}}
    record |= {"output_name": "patient_q1_ED.nii.gz", "geometry": vars(GRID)}
    content = {"schema_version": 1, "challenge": "acdc", "source": "/download", "cases": [record]}
    file = workspace.root / "datasets" / "toy" / "cases.json"
    file.write_text(json.dumps(content))
    put(workspace.root / "predictions" / "toy" / "patient_q1_ED.nii.gz")
    assert names(shown(workspace, "q1")) == ["predictions/toy"]


def test_given_predictions_come_last_and_names_stay_apart(workspace, tmp_path):
    put(workspace.models / "2d" / "fold_3" / "validation" / "p1_a.nii.gz")
    given = [Layer("mine", put(tmp_path / "a.nii.gz")), Layer("mine", put(tmp_path / "b.nii.gz"))]
    assert names(shown(workspace, given=given)) == ["reference", "2d, fold 3", "mine", "mine 2"]


def test_what_is_found_and_does_not_fit_is_left_out_with_a_word(workspace, capsys):
    put(workspace.models / "2d" / "fold_3" / "validation" / "p1_a.nii.gz", OTHER)
    bad = workspace.models / "3d_fullres" / "fold_3" / "validation" / "p1_a.nii.gz"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no image")
    assert names(shown(workspace)) == ["reference"]
    said = capsys.readouterr().err
    assert "left out" in said and "(3, 4, 6)" in said and str(bad) in said


def test_what_is_given_and_does_not_fit_is_an_error(workspace, tmp_path):
    with pytest.raises(InvalidData, match=r"\(3, 4, 6\)"):
        shown(workspace, given=[Layer("mine", put(tmp_path / "a.nii.gz", OTHER))])
    with pytest.raises(InvalidData, match="no such file"):
        shown(workspace, given=[Layer("mine", tmp_path / "gone.nii.gz")])
    several = tmp_path / "several.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3, 2), np.uint8), np.eye(4)), several)
    with pytest.raises(InvalidData, match="2 channels"):
        shown(workspace, given=[Layer("mine", several)])


def test_a_label_map_that_claims_to_lie_elsewhere_is_told_of(workspace, tmp_path, capsys):
    moved = Geometry(GRID.shape, GRID.spacing, (0.0, 0.0, 40.0))
    assert names(shown(workspace, given=[Layer("mine", put(tmp_path / "a.nii.gz", moved))])) == ["reference", "mine"]
    assert "elsewhere" in capsys.readouterr().err


def test_an_unknown_case_names_those_that_are_close(workspace):
    with pytest.raises(UsageError, match="p1_a"):
        shown(workspace, "p1_A")


def test_a_file_of_several_channels_is_as_many_images(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((5, 4, 3, 2), np.int16), np.diag([1.25, 1.5, 7, 1])), tmp_path / "a.nii.gz"
    )
    case = case_of_file(tmp_path / "a.nii.gz", [Layer("labels", put(tmp_path / "l.nii.gz"), reference=True)])
    assert [(name, channel.index) for name, channel in case.channels] == [("channel 0", 0), ("channel 1", 1)]
    assert case.hounsfield == (None, None) and case.labels == {}


def test_names_of_structures_come_from_beside_the_first_label_map(tmp_path):
    put(tmp_path / "labelsTr" / "l.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "spleen": 1}}))
    case = case_of_file(put(tmp_path / "a.nii.gz"), [Layer("l", tmp_path / "labelsTr" / "l.nii.gz")])
    assert case.labels == {1: "spleen"} and case.channels[0][0] == "a"
