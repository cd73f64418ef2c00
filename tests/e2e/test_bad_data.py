"""Data that goes bad after it was converted: training refuses it with the file and the reason, and leaves no result."""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
from e2e_run import TINY, nnbox

CASE = "patient002_ED"


def edit(file, change):
    image = nibabel.load(file)
    array = change(np.asarray(image.dataobj).copy())
    header = image.header.copy()
    header.set_data_dtype(array.dtype)
    nibabel.save(nibabel.Nifti1Image(array, None, header), file)


def nan_voxels(image, _):
    def put(array):
        array = array.astype(np.float32)
        array[1, 2, 3] = np.nan
        return array

    edit(image, put)
    return image


def undeclared_label(_, label):
    def put(array):
        array[0, 0, 0] = 9
        return array

    edit(label, put)
    return label


def fractional_label(_, label):
    edit(label, lambda array: array.astype(np.float32) * 0.5)
    return label


def other_shape(_, label):
    edit(label, lambda array: array[:-1])
    return label


def no_label(_, label):
    label.unlink()
    return label


def cut_short(image, _):
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return image


def empty_file(_, label):
    label.write_bytes(b"")
    return label


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (nan_voxels, "finite"),
        (undeclared_label, "9"),
        (fractional_label, "integral"),
        (other_shape, "shape"),
        (no_label, "no such file"),
        (cut_short, "Copy it again"),
        (empty_file, "Copy it again"),
    ],
)
def test_training_refuses_a_spoilt_case(converted, tmp_path, spoil, reason):
    workspace = tmp_path / "nnbox"
    dataset = workspace / "datasets" / "acdc"
    shutil.copytree(converted / "datasets" / "acdc", dataset)
    spoilt = spoil(dataset / "imagesTr" / f"{CASE}_0000.nii.gz", dataset / "labelsTr" / f"{CASE}.nii.gz")
    ended = nnbox("train-all", "acdc", *TINY, "--workspace", workspace)
    assert ended.code == 3
    message = ended.err.strip().splitlines()[-1]
    assert str(spoilt) in message
    assert reason in message
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert not list(workspace.rglob("stage.json"))
    assert not (workspace / "models").exists()


def test_a_split_that_leaks_is_refused(finished, tmp_path):
    import json

    workspace = tmp_path / "nnbox"
    shutil.copytree(finished / "datasets", workspace / "datasets")
    shutil.copytree(finished / "preprocessed", workspace / "preprocessed")
    splits = workspace / "preprocessed" / "acdc" / "splits.json"
    folds = json.loads(splits.read_text())
    # The other phase of a validation patient goes over to training.
    moved = next(case for case in folds[0]["val"] if case.endswith("_ES"))
    folds[0]["val"].remove(moved)
    folds[0]["train"].append(moved)
    splits.write_text(json.dumps(folds))
    ended = nnbox("train-all", "acdc", *TINY, "--workspace", workspace)
    assert ended.code == 3
    assert moved.split("_")[0] in ended.err
    assert str(splits) in ended.err
