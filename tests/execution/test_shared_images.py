"""Two raters' labels of one scan: its image is kept once in the case store, and it is predicted once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_box.dataset.cases import CaseRecord, CasesFile
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.dataset.volumes import read_volume, save_nifti
from nnunet_box.execution import fold as fold_module
from nnunet_box.execution.prepare import plan_dataset, preprocess_dataset
from nnunet_box.files import link_or_copy, read_json
from nnunet_box.preprocessing.store import open_case
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import Workspace

SHAPE = (12, 20, 22)
PATIENTS = 3


@pytest.fixture(scope="module")
def two_raters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Dataset]:
    root = tmp_path_factory.mktemp("raters")
    folder = root / "datasets" / "lesions"
    grid = Geometry(SHAPE, (1.0, 1.0, 1.0))
    records = []
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for patient in range(PATIENTS):
        image = np.random.default_rng(patient).normal(5, 1, SHAPE).astype(np.float32)
        first = f"p{patient}_mask1"
        for rater in (1, 2):
            case = f"p{patient}_mask{rater}"
            labels = np.zeros(SHAPE, np.uint8)
            labels[4:8, 5:12, 6 : 12 + rater] = 1
            save_nifti(folder / "labelsTr" / f"{case}.nii.gz", labels, grid)
            target = folder / "imagesTr" / f"{case}_0000.nii.gz"
            if rater == 1:
                save_nifti(target, image, grid)
            else:
                link_or_copy(folder / "imagesTr" / f"{first}_0000.nii.gz", target)
            records.append(
                CaseRecord(
                    id=case,
                    group=f"p{patient}",
                    rater=str(rater),
                    split="train",
                    source_images=[f"p{patient}.nii"],
                    output_name=f"{case}.nii",
                    image_of=None if rater == 1 else first,
                    geometry=grid,
                    header={},
                )
            )
    cases = CasesFile(challenge=None, source="x", splits="leave-one-group-out", cases=records)
    (folder / "cases.json").write_text(json.dumps(cases.model_dump(mode="json")))
    declared = {"channel_names": {"0": "FLAIR"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(declared))
    dataset = load_dataset(folder)
    workspace = Workspace(root, dataset.name)
    plan_dataset(workspace, dataset, processes=1)
    return workspace, dataset


def test_the_case_store_holds_the_image_once(two_raters: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = two_raters
    plan = plan_dataset(workspace, dataset, processes=1)
    # The second rater's cases first: they must wait for the image they share all the same.
    store = preprocess_dataset(workspace, replace(dataset, cases=dataset.cases[::-1]), plan, "3d_fullres", processes=1)
    one, two = (open_case(store, f"p1_mask{rater}") for rater in (1, 2))
    assert (store / "p1_mask1" / "image.b2nd").samefile(store / "p1_mask2" / "image.b2nd")
    assert not (store / "p1_mask1" / "labels.b2nd").samefile(store / "p1_mask2" / "labels.b2nd")
    assert np.array_equal(one.image[:], two.image[:])
    assert int((two.labels[:] == 1).sum()) > int((one.labels[:] == 1).sum()) > 0
    assert len({path.stat().st_ino for path in store.rglob("image.b2nd")}) == PATIENTS


def test_a_scan_is_predicted_once_and_scored_against_both_raters(
    two_raters: tuple[Workspace, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, dataset = two_raters
    plan = plan_dataset(workspace, dataset, processes=1)
    (fold, *others) = load_or_make_folds(workspace.splits, dataset)
    assert fold.val == ["p0_mask1", "p0_mask2"] and len(others) == 2
    predicted = []

    def as_rater_1(image, spacing, plan, members, load, options, probabilities, previous):
        predicted.append(probabilities.name)
        probabilities.write_bytes(b"softmax")
        return read_volume(dataset.folder / "labelsTr" / "p0_mask1.nii.gz").array

    monkeypatch.setattr(fold_module, "predict_case", as_rater_1)
    folder = tmp_path / "fold_0" / "validation"
    folder.mkdir(parents=True)
    settings = TrainingSettings(configuration="3d_fullres", fold=0, device="cpu")
    for _ in range(2):  # Validated again: the files of the first time stay.
        fold_module.validate_fold(dataset, plan, fold, settings, folder.parent / "weights.safetensors")
    assert predicted == ["p0_mask1.probabilities.b2nd"]
    assert (folder / "p0_mask1.nii.gz").samefile(folder / "p0_mask2.nii.gz")
    assert (folder / "p0_mask2.probabilities.b2nd").read_bytes() == b"softmax"
    summary = read_json(folder / "summary.json")
    dice = [case["metrics"]["1"]["Dice"] for case in summary["metric_per_case"]]
    assert dice == [1.0, pytest.approx(2 * 7 / (7 + 8))]
