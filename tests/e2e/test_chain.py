"""From a download to predictions, by the commands a person types."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from e2e_files import pickles, same_grid
from e2e_run import TINY, nnbox

from nnunet_box.temporary import TEMPORARY_MARK

NAMES = [f"patient{number}_{phase}.nii.gz" for number in (101, 102) for phase in ("ED", "ES")]


@pytest.fixture(scope="module")
def predictions(finished, download, tmp_path_factory):
    output = tmp_path_factory.mktemp("predictions")
    ended = nnbox("predict", finished / "bundles" / "acdc", download / "database" / "testing", output)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(output)
    return output


def test_each_room_leaves_its_file(finished):
    for name in ("fingerprint.json", "plan.json", "splits.json"):
        assert (finished / "preprocessed" / "acdc" / name).is_file()
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1):
            folder = finished / "models" / "acdc" / configuration / f"fold_{fold}"
            assert {"weights.safetensors", "stage.json", "log.jsonl", "validation"} <= {
                p.name for p in folder.iterdir()
            }
            assert not (folder / "checkpoint").exists()
    selection = json.loads((finished / "models" / "acdc" / "selection.json").read_text())
    assert [c["configurations"] for c in selection["candidates"]] == [["2d"], ["3d_fullres"], ["2d", "3d_fullres"]]
    bundle = json.loads((finished / "bundles" / "acdc" / "bundle.json").read_text())
    assert bundle["challenge"] == "acdc"
    assert [member["configuration"] for member in bundle["members"]] == selection["chosen"]


def test_a_dry_run_names_the_networks_and_their_state(finished):
    before = (finished / "tasks" / "acdc" / "request.json").read_bytes()

    def states(*arguments):
        shown = nnbox("train-all", "acdc", *TINY, *arguments, "--dry-run", "--workspace", finished)
        return {line.split()[1]: (line.split()[0], line.split("nnbox ")[1]) for line in shown.out.splitlines()}

    done = states("--folds", "0,2")
    assert {name: state for name, (state, _) in done.items()} == {
        "plan": "done",
        "preprocess": "done",
        "train-2d-0": "done",
        "train-3d_fullres-0": "done",
        "train-2d-2": "waiting",
        "train-3d_fullres-2": "waiting",
        "select": "waiting",
    }
    assert done["train-2d-2"][1].startswith("train acdc --configuration 2d --fold 2 --epochs 2 ")
    other = states("--folds", "0", "--variant", "relu")
    assert [other[f"train-{name}__relu-0"][0] for name in ("2d", "3d_fullres")] == ["waiting", "waiting"]
    assert (finished / "tasks" / "acdc" / "request.json").read_bytes() == before, "status still tells of the real run"


def test_patients_stay_on_one_side_and_diagnoses_are_dealt_out(finished):
    cases = json.loads((finished / "datasets" / "acdc" / "cases.json").read_text())["cases"]
    facts = {case["id"]: case for case in cases if case["split"] == "train"}
    folds = json.loads((finished / "preprocessed" / "acdc" / "splits.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        assert not {facts[c]["group"] for c in fold["train"]} & {facts[c]["group"] for c in fold["val"]}
        assert len({facts[c]["stratum"] for c in fold["val"]}) == 2  # two patients a fold, of two diagnoses


def test_predictions_are_the_leaderboards_files(predictions, download):
    assert sorted(path.name for path in predictions.glob("*.nii.gz")) == NAMES
    for patient in sorted((download / "database" / "testing").glob("patient*")):
        info = dict(line.split(": ") for line in (patient / "Info.cfg").read_text().splitlines())
        for phase in ("ED", "ES"):
            source = patient / f"{patient.name}_frame{int(info[phase]):02d}.nii.gz"
            same_grid(predictions / f"{patient.name}_{phase}.nii.gz", source)


def test_run_json_tells_of_every_case(predictions):
    run = json.loads((predictions / "run.json").read_text())
    assert [case["file"] for case in run["cases"]] == NAMES
    for case in run["cases"]:
        labels = np.asarray(nibabel.load(predictions / case["file"]).dataobj)
        assert sum(case["voxels"].values()) == labels.size
        assert case["voxels"]["background"] == np.count_nonzero(labels == 0)
        assert case["seconds"]["predict"] > 0
        assert case["peak_memory_bytes"] > 0


def test_evaluate_uses_the_challenges_metrics(predictions, download):
    ended = nnbox("evaluate", predictions, download / "references", "--challenge", "acdc", "--json")
    assert ended.code == 0, ended.err
    assert "left ventricle" in ended.out
    json.loads(ended.out)
    perfect = nnbox("evaluate", download / "references", download / "references", "--json")
    assert json.loads(perfect.out)["mean_foreground_dice"] == 1.0


def test_validation_predictions_are_whole_images_of_held_out_cases(finished):
    folds = json.loads((finished / "preprocessed" / "acdc" / "splits.json").read_text())
    for fold in (0, 1):
        validation = finished / "models" / "acdc" / "2d" / f"fold_{fold}" / "validation"
        assert sorted(path.name for path in validation.glob("*.nii.gz")) == [f"{c}.nii.gz" for c in folds[fold]["val"]]
        for case in folds[fold]["val"]:
            same_grid(
                validation / f"{case}.nii.gz", finished / "datasets" / "acdc" / "imagesTr" / f"{case}_0000.nii.gz"
            )


def test_a_second_run_finds_nothing_to_do(finished):
    def times() -> dict[Path, int]:
        # selection and bundle are cheap and always made anew; what takes hours must not be.
        kept = [*(finished / "preprocessed").rglob("*"), *(finished / "models" / "acdc").glob("*/fold_*/*")]
        return {path: path.stat().st_mtime_ns for path in kept if path.is_file()}

    before = times()
    assert any(path.name == "weights.safetensors" for path in before)
    assert nnbox("train-all", "acdc", *TINY, "--workspace", finished).code == 0
    assert times() == before


def test_status_tells_what_is_done(finished):
    states = json.loads(nnbox("status", "acdc", "--json", "--workspace", finished).out)
    names = ["plan", "preprocess", "train-2d-0", "train-3d_fullres-0", "train-2d-1", "train-3d_fullres-1", "select"]
    assert [(task["task"], task["state"]) for task in states["tasks"]] == [(name, "done") for name in names]
    assert [network["state"] for network in states["networks"]] == ["done"] * 4
    assert states["bundled"] and states["seconds_left"] == 0


def test_no_pickle_and_nothing_temporary_is_left(finished, predictions):
    # Wheels, where an image was built before, are other people's files.
    own = [folder for folder in finished.iterdir() if folder.name != "wheelhouse"]
    assert {"datasets", "preprocessed", "models", "bundles"} <= {folder.name for folder in own}
    for folder in (*own, predictions):
        assert not list(folder.rglob(f"{TEMPORARY_MARK}*"))
        assert not pickles(folder)
