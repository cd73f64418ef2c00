"""The real downloads, read-only."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.decathlon import Decathlon
from nnunet_box.dataset.check import check_dataset
from nnunet_box.dataset.dataset import load_dataset

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def records(folder):
    return {record["id"]: record for record in json.loads((folder / "cases.json").read_text())["cases"]}


def test_hippocampus(real_data, converted):
    source = real_data / "MSD" / "Task04_Hippocampus"
    folder = converted(Decathlon(), source)
    assert folder.name == "decathlon-Task04_Hippocampus"
    dataset = load_dataset(folder)
    assert (len(dataset.cases), len(dataset.test_cases)) == (208, 53)
    assert dataset.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    repaired = [case for case, record in records(folder).items() if record["repairs"]]
    assert repaired == ["hippocampus_003"]  # float32 label; 243 is not in this selection
    copied = "imagesTr/hippocampus_004"
    assert (folder / f"{copied}_0000.nii.gz").read_bytes() == (source / f"{copied}.nii.gz").read_bytes()
    assert check_dataset(folder) == []
    cases = Decathlon().test_cases(source / "imagesTs", channels=1)
    assert len(cases) == 53
    assert {case.output_name for case in cases} == {path.name for path in (source / "imagesTs").glob("*.nii.gz")}


def test_acdc(real_data, converted, tmp_path):
    source = real_data / "ACDC" / "database"
    folder = converted(Acdc(), source)
    dataset = load_dataset(folder)
    assert (len(dataset.cases), len(dataset.test_cases)) == (82, 20)
    assert len({case.group for case in dataset.cases}) == 41
    assert {case.stratum for case in dataset.cases} == {"NOR", "MINF", "DCM", "HCM", "RV"}
    ed = records(folder)["patient090_ED"]
    assert ed["source_images"] == ["training/patient090/patient090_frame04.nii.gz"]
    for case in (*dataset.cases, *dataset.test_cases):
        record = records(folder)[case.id] if case.id.endswith("5_ED") else None
        if record is not None:
            stored = nibabel.load(source / record["source_images"][0]).header["pixdim"][1:4]
            assert np.allclose(nibabel.load(case.reference_file).header.get_zooms(), stored)
            assert np.allclose(np.linalg.norm(nibabel.load(case.reference_file).affine[:3, :3], axis=0), stored)
    assert check_dataset(folder) == []
    assert (folder / "MANDATORY_CITATION.md").is_file()

    predicted = tmp_path / "predicted"
    for case in dataset.cases[:4]:
        predicted.mkdir(exist_ok=True)
        (predicted / case.output_name).write_bytes((folder / "labelsTr" / case.output_name).read_bytes())
    result = Acdc().evaluate(predicted, source / "training")
    assert (result["cases"], result["mean"]["dice"]) == (4, 1.0)
    ejection = result["per_patient"][0]["left ventricle"]["reference"]
    assert 5 < ejection < 80  # patient001 has a dilated cardiomyopathy; unit voxels would give the same ratio
    volume = result["per_case"][0]["structures"]["left ventricle"]["reference_volume_ml"]
    assert 80 < volume < 500  # millilitres: with 1 mm voxels it would be below 30


def test_acdc_export_equals_the_source(real_data, tmp_path):
    source = real_data / "ACDC" / "database" / "testing"
    cases = Acdc().test_cases(source, channels=1)
    assert len(cases) == 20
    for case in cases[:4]:
        before = nibabel.load(case.reference_file)
        file = Acdc().export(np.zeros(before.shape[::-1], np.uint8), case, tmp_path)
        after = nibabel.load(file)
        for field in ("pixdim", "dim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
            assert np.array_equal(before.header[field], after.header[field]), field
        assert after.get_data_dtype() == np.uint8


def test_four_dimensional_task(real_data, converted):
    source = real_data / "MSD_like" / "Task01_BrainTumour_2ch_2mm"
    dataset = load_dataset(converted(Decathlon(), source))
    assert (len(dataset.cases), len(dataset.test_cases), dataset.channel_names) == (4, 2, ("FLAIR", "T1gd"))
    four = nibabel.load(source / "imagesTr" / f"{dataset.cases[0].id}.nii.gz")
    for index, channel in enumerate(dataset.cases[0].channels):
        three = nibabel.load(channel.path)
        assert np.array_equal(np.asanyarray(three.dataobj), np.asanyarray(four.dataobj)[..., index])
        assert np.allclose(three.affine, four.affine)
