"""The challenges' own metrics, against values worked out by hand."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
from tiny_downloads import save, save_acdc, write_decathlon

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.decathlon import Decathlon
from nnbox_challenges.scores import agreement, mean
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.surfels import surfel_distances

SPACING = (2.0, 2.0, 10.0)
VOXEL_ML = 0.04


def ball(voxels, value, shape=(12, 12, 4)):
    """A map with ``voxels`` voxels of ``value`` in a row-major run."""
    labels = np.zeros(shape, np.uint8)
    labels.reshape(-1)[:voxels] = value
    return labels


def hearts(lv, rv=40, shift=0):
    """LV and RV volumes in voxels, apart from each other; ``shift`` moves all along x."""
    labels = np.zeros((12, 12, 8), np.uint8)
    labels[:6].reshape(-1)[:lv] = 3
    labels[6:].reshape(-1)[:rv] = 1
    return np.roll(labels, shift, axis=1)


def write_acdc_case(folder, case, labels):
    return save_acdc(folder / f"{case}.nii.gz", labels, SPACING)


def test_acdc_perfect_prediction(tmp_path):
    for folder in ("predictions", "references"):
        write_acdc_case(tmp_path / folder, "patient101_ED", hearts(100))
        write_acdc_case(tmp_path / folder, "patient101_ES", hearts(40))
    result = Acdc().evaluate(tmp_path / "predictions", tmp_path / "references")
    assert result["cases"] == 2
    assert result["missing"] == []
    lv = result["structures"]["left ventricle"]["ED"]
    assert (lv["dice"], lv["hausdorff_mm"], lv["assd_mm"]) == (1.0, 0.0, 0.0)
    assert lv["volume_ml"]["bias"] == 0
    case = result["per_case"][0]
    assert case["structures"]["left ventricle"]["volume_ml"] == pytest.approx(100 * VOXEL_ML)
    # The myocardium is nowhere: both sides agree that it is absent, which the organisers count as 1 and 0 mm.
    assert result["structures"]["myocardium"]["ES"]["dice"] == 1.0
    assert result["structures"]["myocardium"]["ES"]["hausdorff_mm"] == 0.0
    assert result["mean"]["dice"] == 1.0
    (patient,) = result["per_patient"]
    assert patient["left ventricle"] == {"predicted": pytest.approx(60.0), "reference": pytest.approx(60.0)}


def test_acdc_volumes_and_ejection_fraction(tmp_path):
    volumes = {101: ((100, 40), (90, 45)), 102: ((80, 60), (80, 52)), 103: ((120, 30), (100, 40))}
    for number, (reference, predicted) in volumes.items():
        for phase, in_reference, in_prediction in zip(("ED", "ES"), reference, predicted, strict=True):
            write_acdc_case(tmp_path / "r", f"patient{number}_{phase}", hearts(in_reference))
            write_acdc_case(tmp_path / "p", f"patient{number}_{phase}", hearts(in_prediction))
    result = Acdc().evaluate(tmp_path / "p", tmp_path / "r")
    ed = result["structures"]["left ventricle"]["ED"]
    assert ed["cases"] == 3
    assert ed["dice"] == pytest.approx(np.mean([180 / 190, 1.0, 200 / 220]))
    assert ed["volume_ml"]["bias"] == pytest.approx(-10 * VOXEL_ML)
    assert ed["volume_ml"]["correlation"] == pytest.approx(np.corrcoef([90, 80, 100], [100, 80, 120])[0, 1])
    fraction = result["ejection_fraction"]["left ventricle"]
    predicted, reference = [50.0, 35.0, 60.0], [60.0, 25.0, 75.0]
    difference = np.subtract(predicted, reference)
    assert fraction["bias"] == pytest.approx(difference.mean())
    assert fraction["correlation"] == pytest.approx(np.corrcoef(predicted, reference)[0, 1])
    assert fraction["upper_limit"] == pytest.approx(difference.mean() + 1.96 * difference.std(ddof=1))
    rv = result["ejection_fraction"]["right ventricle"]
    assert rv["bias"] == 0
    assert math.isnan(rv["correlation"])  # the same value in every patient has none


def test_acdc_hausdorff_is_the_maximum_in_millimetres_of_pixdim(tmp_path):
    write_acdc_case(tmp_path / "r", "patient101_ED", hearts(30))
    write_acdc_case(tmp_path / "p", "patient101_ED", hearts(30, shift=2))
    result = Acdc().evaluate(tmp_path / "p", tmp_path / "r")
    assert result["structures"]["left ventricle"]["ED"]["hausdorff_mm"] == pytest.approx(2 * 2.0)


def test_acdc_distances_of_each_phase_and_structure(tmp_path):
    """One voxel of each structure, shifted by another number of voxels in each phase."""
    shifts = {"ED": {1: (1, 0, 0), 2: (0, 2, 0), 3: (0, 0, 1)}, "ES": {1: (0, 0, 2), 2: (3, 0, 0), 3: (1, 0, 0)}}
    places = {1: (2, 2, 2), 2: (6, 2, 4), 3: (2, 8, 5)}
    for phase, by_value in shifts.items():
        reference, prediction = np.zeros((2, 12, 12, 8), np.uint8)
        for value, shift in by_value.items():
            reference[places[value]] = value
            prediction[places[value]] = value
            prediction[tuple(np.add(places[value], shift))] = value
        write_acdc_case(tmp_path / "r", f"patient101_{phase}", reference)
        write_acdc_case(tmp_path / "p", f"patient101_{phase}", prediction)
    structures = Acdc().evaluate(tmp_path / "p", tmp_path / "r")["structures"]
    names = {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
    for phase, by_value in shifts.items():
        for value, shift in by_value.items():
            away = np.linalg.norm(np.multiply(shift, SPACING))
            scores = structures[names[value]][phase]
            assert scores["dice"] == pytest.approx(2 / 3)
            assert scores["hausdorff_mm"] == pytest.approx(away)
            assert scores["assd_mm"] == pytest.approx(away / 3)  # two voxels to one: 0, away, and 0 back
            assert scores["volume_ml"]["bias"] == pytest.approx(VOXEL_ML)


def test_acdc_myocardial_mass_is_that_of_the_volume_at_end_of_diastole(tmp_path):
    for number, (reference, predicted) in {101: (100, 90), 102: (80, 80), 103: (120, 100)}.items():
        for phase, factor in (("ED", 1), ("ES", 0.5)):
            write_acdc_case(tmp_path / "r", f"patient{number}_{phase}", ball(int(reference * factor), 2))
            write_acdc_case(tmp_path / "p", f"patient{number}_{phase}", ball(int(predicted * factor), 2))
    mass = Acdc().evaluate(tmp_path / "p", tmp_path / "r")["myocardial_mass_g"]
    assert mass["cases"] == 3
    assert mass["bias"] == pytest.approx(-10 * VOXEL_ML * 1.05)
    spread = 1.96 * np.std([10, 0, 20], ddof=1) * VOXEL_ML * 1.05
    assert mass["lower_limit"] == pytest.approx(mass["bias"] - spread)
    assert mass["correlation"] == pytest.approx(np.corrcoef([90, 80, 100], [100, 80, 120])[0, 1])


def test_acdc_structure_on_one_side_only_is_left_out_of_distances(tmp_path):
    write_acdc_case(tmp_path / "r", "patient101_ED", hearts(30))
    write_acdc_case(tmp_path / "p", "patient101_ED", hearts(0))
    lv = Acdc().evaluate(tmp_path / "p", tmp_path / "r")["structures"]["left ventricle"]["ED"]
    assert lv["dice"] == 0.0
    assert math.isnan(lv["hausdorff_mm"])
    assert lv["without_distance"] == 1


def test_acdc_references_in_the_downloads_own_layout(acdc, tmp_path):
    adapter = Acdc()
    for source in (acdc / "testing").rglob("*_frame*_gt.nii.gz"):
        if not source.name.startswith("._"):
            phase = "ED" if "frame01" in source.name else "ES"
            (tmp_path / "p").mkdir(exist_ok=True)
            shutil.copy(source, tmp_path / "p" / f"{source.name[:10]}_{phase}.nii.gz")
    for references in (acdc / "testing", acdc):
        result = adapter.evaluate(tmp_path / "p", references)
        assert (result["cases"], result["mean"]["dice"]) == (4, 1.0)
    assert len(result["missing"]) == 10  # the training patients, which were not predicted


def test_acdc_references_of_a_converted_data_set(acdc, converted, tmp_path):
    folder = converted(Acdc(), acdc)
    shutil.copytree(folder / "labelsTr", tmp_path / "p")
    assert Acdc().evaluate(tmp_path / "p", folder)["mean"]["dice"] == 1.0


@pytest.mark.parametrize(
    ("case", "labels", "found"),
    [
        ("patient109_ED", hearts(5), "none"),
        ("patient101_ED", hearts(5)[:, :, :4], r"\(4, 12, 12\)"),
        ("patient101_ED", hearts(5) * 2, r"undeclared \[6\]"),
    ],
)
def test_acdc_predictions_that_cannot_be_scored(tmp_path, case, labels, found):
    write_acdc_case(tmp_path / "r", "patient101_ED", hearts(30))
    write_acdc_case(tmp_path / "p", case, labels)
    with pytest.raises(InvalidData, match=found) as raised:
        Acdc().evaluate(tmp_path / "p", tmp_path / "r")
    assert raised.value.file.name == f"{case}.nii.gz"


def test_acdc_without_references(acdc, tmp_path):
    write_acdc_case(tmp_path / "p", "patient101_ED", hearts(5))
    for path in (acdc / "testing").rglob("*_gt.nii.gz"):
        path.unlink()
    with pytest.raises(InvalidData, match="_gt"):
        Acdc().evaluate(tmp_path / "p", acdc / "testing")
    with pytest.raises(InvalidData, match="label maps"):
        Acdc().evaluate(acdc / "testing", tmp_path / "p")


def test_decathlon_dice_and_surface_dice(tmp_path):
    root = write_decathlon(tmp_path / "Task09_Spleen", ["spleen_2", "spleen_4"], [])
    cube = np.zeros((14, 14, 14), np.uint8)
    cube[2:10, 2:10, 2:10] = 1
    far = np.roll(cube, 4, axis=0)
    for name, prediction in (("spleen_2", cube), ("spleen_4", far)):
        save(root / "labelsTr" / f"{name}.nii.gz", cube)
        save(tmp_path / "p" / f"{name}.nii.gz", prediction)
    result = Decathlon().evaluate(tmp_path / "p", root)
    assert (result["task"], result["tolerance_mm"], result["cases"]) == ("Task09_Spleen", 3.0, 2)
    assert result["labels"]["spleen"]["dice"] == pytest.approx((1 + 0.5) / 2)
    assert 0.5 < result["labels"]["spleen"]["surface_dice"] < 1
    expected = surfel_distances(far.T > 0, cube.T > 0, (1.0, 1.0, 1.0)).surface_dice(3.0)
    assert result["labels"]["spleen"]["surface_dice"] == pytest.approx((1 + expected) / 2)
    loose = Decathlon(tolerances={"Task09_Spleen": 4.0}).evaluate(tmp_path / "p", root / "labelsTr")
    assert loose["labels"]["spleen"]["surface_dice"] == 1.0


def test_decathlon_absent_label_is_undefined_and_missed_label_is_nought(tmp_path):
    root = write_decathlon(tmp_path / "Task03_Liver", ["liver_0", "liver_1"], [], labels=("liver", "cancer"))
    liver = ball(40, 1)
    tumour = liver.copy()
    tumour[8, 8, 2] = 2
    for name, reference in (("liver_0", liver), ("liver_1", tumour)):
        save(root / "labelsTr" / f"{name}.nii.gz", reference)
        save(tmp_path / "p" / f"{name}.nii.gz", liver)
    result = Decathlon().evaluate(tmp_path / "p", root)
    per_case = {case["case"]: case["labels"]["cancer"] for case in result["per_case"]}
    assert math.isnan(per_case["liver_0"]["dice"]) and math.isnan(per_case["liver_0"]["surface_dice"])
    assert per_case["liver_1"] == {"dice": 0.0, "surface_dice": 0.0}
    assert result["labels"]["cancer"]["dice"] == 0.0
    assert result["labels"]["liver"]["dice"] == 1.0


@pytest.mark.parametrize("name", ["spleen_2", "mine_2"])
def test_decathlon_labels_without_a_dataset_json(tmp_path, name):
    for folder in ("r", "p"):
        save(tmp_path / folder / f"{name}.nii.gz", ball(10, 1))
    result = Decathlon().evaluate(tmp_path / "p", tmp_path / "r")
    assert list(result["labels"]) == (["spleen"] if name == "spleen_2" else ["label 1"])
    assert result["mean"]["dice"] == 1.0


def test_decathlon_reads_a_converted_data_set(decathlon, converted, tmp_path):
    folder = converted(Decathlon(), decathlon)
    shutil.copytree(folder / "labelsTr", tmp_path / "p")
    (tmp_path / "p" / "spleen_41.nii.gz").unlink()
    result = Decathlon().evaluate(tmp_path / "p", folder / "labelsTr")
    assert (result["task"], result["labels"]["spleen"]["dice"]) == ("Task09_Spleen", 1.0)
    assert result["missing"] == ["spleen_41"]


def test_statistics_leave_out_what_is_undefined():
    assert mean([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean([math.nan]))
    result = agreement([1.0, math.nan, 4.0], [2.0, 5.0, 3.0])
    assert (result["cases"], result["bias"], result["correlation"]) == (2, 0.0, pytest.approx(1.0))
    assert math.isnan(agreement([1.0], [2.0])["lower_limit"])
    assert agreement([], [])["cases"] == 0
