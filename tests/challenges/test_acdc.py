from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from tiny_downloads import gunzip, write_acdc, write_patient

from nnbox_challenges.acdc import Acdc
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.errors import InvalidData

TRAINING = [f"patient{number:03d}_{phase}" for number in (1, 2, 3, 4, 90) for phase in ("ED", "ES")]
TEST = [f"patient{number:03d}_{phase}" for number in (101, 102) for phase in ("ED", "ES")]


def ids(cases):
    return [case.id for case in cases]


def test_converts_to_nnunet_v2_layout(acdc, converted):
    folder = converted(Acdc(), acdc)
    assert folder.name == "acdc"
    declared = json.loads((folder / "dataset.json").read_text())
    assert declared["labels"] == {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    assert declared["channel_names"] == {"0": "cineMRI"}
    assert declared["numTraining"] == 10
    assert declared["licence"].startswith("CC BY-NC-SA 4.0")
    assert "Bernard" in declared["reference"]
    assert (folder / "MANDATORY_CITATION.md").is_file()
    dataset = load_dataset(folder)
    assert ids(dataset.cases) == TRAINING
    assert ids(dataset.test_cases) == TEST


def test_phases_come_from_info_cfg(acdc, converted):
    folder = converted(Acdc(), acdc)
    records = {r["id"]: r for r in json.loads((folder / "cases.json").read_text())["cases"]}
    assert records["patient090_ED"]["source_images"] == ["training/patient090/patient090_frame04.nii.gz"]
    assert records["patient090_ES"]["source_label"] == "training/patient090/patient090_frame11_gt.nii.gz"
    assert records["patient090_ED"]["facts"]["frame"] == 4


def test_info_cfg_wins_over_the_order_of_files(acdc):
    info = acdc / "training" / "patient001" / "Info.cfg"
    info.write_text(info.read_text().replace("ED: 1", "ED: 9").replace("ES: 9", "ES: 1"))
    case = next(case for case in Acdc().recognise(acdc).training if case.id == "patient001_ED")
    assert case.reference_file.name == "patient001_frame09.nii.gz"
    assert case.label is not None and case.label.name == "patient001_frame09_gt.nii.gz"


def test_patient_is_the_group_and_diagnosis_the_stratum(acdc):
    recognition = Acdc().recognise(acdc)
    assert Acdc().groups(recognition.training)["patient090_ES"] == "patient090"
    assert {case.group: case.stratum for case in recognition.training} == {
        "patient001": "NOR",
        "patient002": "MINF",
        "patient003": "DCM",
        "patient004": "HCM",
        "patient090": "RV",
    }


def test_spacing_is_pixdims_and_both_forms_carry_it(acdc, converted):
    folder = converted(Acdc(), acdc)
    for name in (
        "imagesTr/patient001_ED_0000.nii.gz",
        "labelsTr/patient001_ED.nii.gz",
        "imagesTs/patient101_ES_0000.nii.gz",
    ):
        image = nibabel.load(folder / name)
        assert np.allclose(image.header.get_zooms(), (1.5625, 1.25, 8.0))
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
        assert np.allclose(image.get_qform(), np.diag([-1.5625, -1.25, 8.0, 1.0]))
        assert np.allclose(image.get_sform(), np.diag([-1.5625, -1.25, 8.0, 1.0]))
    source = nibabel.load(acdc / "training" / "patient001" / "patient001_frame01.nii.gz")
    written = nibabel.load(folder / "imagesTr" / "patient001_ED_0000.nii.gz")
    assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(source.dataobj))
    assert written.get_data_dtype() == np.int16
    assert nibabel.load(folder / "imagesTr" / "patient001_ES_0000.nii.gz").get_data_dtype() == np.float32
    records = json.loads((folder / "cases.json").read_text())["cases"]
    assert all("affine disagreed with pixdim" in record["repairs"][0] for record in records)
    assert records[0]["geometry"]["spacing"] == pytest.approx([8.0, 1.25, 1.5625])


def test_references_of_test_patients_never_enter_the_data_set(acdc, converted):
    folder = converted(Acdc(), acdc)
    assert not any("101" in path.name or "102" in path.name for path in (folder / "labelsTr").iterdir())
    assert len(list((folder / "imagesTs").iterdir())) == 4
    records = json.loads((folder / "cases.json").read_text())["cases"]
    assert all(record["source_label"] is None for record in records if record["split"] == "test")
    assert all("_gt" not in image for record in records for image in record["source_images"])
    assert any("references of 2 test patients" in message for message in Acdc().recognise(acdc).messages)


def test_conversion_of_the_same_download_gives_the_same_bytes(acdc, tmp_path):
    recognition = Acdc().recognise(acdc)
    for name in ("one", "two"):
        Acdc().convert(recognition, tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) > 20
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_counts_are_told_in_patients(acdc):
    assert Acdc().recognise(acdc).messages[0] == (
        "5 of 100 patients for training (10 images), 2 of 50 test patients (4 images)"
    )


def test_every_level_of_the_download_is_taken(acdc):
    for folder in (acdc, acdc.parent, acdc.parent.parent):
        recognition = Acdc().recognise(folder)
        assert (ids(recognition.training), ids(recognition.test)) == (TRAINING, TEST)


def test_training_folder_alone(acdc):
    recognition = Acdc().recognise(acdc / "training")
    assert (ids(recognition.training), recognition.test) == (TRAINING, ())


def test_testing_folder_alone_is_no_training_set(acdc):
    with pytest.raises(InvalidData, match="2 test patients only"):
        Acdc().recognise(acdc / "testing")


def test_nested_testing_folder(acdc):
    nested = acdc / "testing" / "testing"
    nested.mkdir()
    for patient in list((acdc / "testing").glob("patient*")):
        shutil.move(patient, nested / patient.name)
    recognition = Acdc().recognise(acdc)
    assert (ids(recognition.training), ids(recognition.test)) == (TRAINING, TEST)
    assert ids(Acdc().test_cases(acdc / "testing", 1)) == TEST


def test_flat_folder_goes_by_the_published_numbering(acdc, tmp_path):
    flat = tmp_path / "flat"
    for patient in (*(acdc / "training").glob("patient*"), *(acdc / "testing").glob("patient*")):
        shutil.copytree(patient, flat / patient.name)
    recognition = Acdc().recognise(flat)
    assert (ids(recognition.training), ids(recognition.test)) == (TRAINING, TEST)


def test_a_folder_above_the_given_one_decides_nothing(acdc, tmp_path):
    moved = tmp_path / "testing" / "mine"
    shutil.copytree(acdc / "training" / "patient001", moved / "patient001")
    assert ids(Acdc().recognise(moved).training) == ["patient001_ED", "patient001_ES"]


def test_test_patients_in_a_training_folder_are_told(acdc):
    shutil.move(acdc / "testing" / "patient101", acdc / "training" / "patient101")
    assert any("patient101 belong to the challenge's test set" in m for m in Acdc().recognise(acdc).messages)


def test_uncompressed_files_and_folders_named_like_files(acdc, converted):
    for path in list((acdc / "training" / "patient001").glob("patient001_frame*.nii.gz")):
        gunzip(path)
    patient = acdc / "training" / "patient002"
    for path in list(patient.glob("patient002_frame*.nii.gz")):
        plain = gunzip(path)
        content = plain.read_bytes()
        plain.unlink()
        plain.mkdir()
        (plain / f"heart_{path.name[:8]}.nii").write_bytes(content)
    folder = converted(Acdc(), acdc)
    dataset = load_dataset(folder)
    assert ids(dataset.cases) == TRAINING
    record = next(r for r in json.loads((folder / "cases.json").read_text())["cases"] if r["id"] == "patient002_ED")
    assert record["source_images"] == ["training/patient002/patient002_frame01.nii/heart_patient0.nii"]
    assert record["repairs"][0] == "compressed"


def test_doubled_patient_folder(acdc):
    patient = acdc / "training" / "patient001"
    shutil.move(patient, acdc / "moved")
    patient.mkdir()
    shutil.move(acdc / "moved", patient / "patient001")
    assert ids(Acdc().recognise(acdc).training) == TRAINING


def test_the_same_patient_twice_is_refused(acdc):
    shutil.copytree(acdc / "training" / "patient001", acdc / "copy" / "patient001")
    with pytest.raises(InvalidData, match="patient001 once"):
        Acdc().recognise(acdc)


def test_test_release_without_group(acdc):
    for info in (acdc / "testing").rglob("Info.cfg"):
        info.write_text("".join(line for line in info.open() if not line.startswith("Group")))
    cases = Acdc().test_cases(acdc / "testing", channels=1)
    assert ids(cases) == TEST
    assert {case.stratum for case in cases} == {None}


def test_test_cases_take_the_testing_part_and_never_references(acdc):
    for folder in (acdc, acdc / "testing", acdc.parent):
        cases = Acdc().test_cases(folder, channels=1)
        assert [case.output_name for case in cases] == [f"{case}.nii.gz" for case in TEST]
        assert all(case.label is None and "_gt" not in case.reference_file.name for case in cases)


def test_test_cases_of_training_patients_where_there_are_no_others(acdc):
    assert ids(Acdc().test_cases(acdc / "training", channels=1)) == TRAINING


def test_missing_info_cfg_is_a_message_and_the_earlier_frame_is_ed(acdc):
    (acdc / "training" / "patient090" / "Info.cfg").unlink()
    recognition = Acdc().recognise(acdc)
    case = next(case for case in recognition.training if case.id == "patient090_ED")
    assert case.reference_file.name == "patient090_frame04.nii.gz"
    assert any("no Info.cfg for patient090" in message for message in recognition.messages)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no such line"),
        ("ED: one\nES: 9\n", "'one'"),
        ("ED: 1\nES: 12\n", "no such file"),
        ("ED: 1\nES: 1\n", "both 1"),
    ],
)
def test_broken_info_cfg_is_refused(acdc, text, found):
    (acdc / "training" / "patient001" / "Info.cfg").write_text(text)
    with pytest.raises(InvalidData, match=found):
        Acdc().recognise(acdc)


def test_preprocessed_h5_slices_are_refused_with_the_reason(tmp_path):
    slices = tmp_path / "ACDC" / "data" / "slices"
    slices.mkdir(parents=True)
    (slices / "patient001_frame01_slice_1.h5").write_bytes(b"\x89HDF")
    with pytest.raises(InvalidData, match="h5 slices"):
        Acdc().recognise(tmp_path)


def test_files_of_another_patient_are_refused(acdc):
    patient = acdc / "training" / "patient001"
    shutil.copy(patient / "patient001_frame01.nii.gz", patient / "patient007_frame01.nii.gz")
    with pytest.raises(InvalidData, match="a file of patient007"):
        Acdc().recognise(acdc)


def test_a_model_with_two_channels_is_refused(acdc):
    with pytest.raises(InvalidData, match="a model with 2 channels"):
        Acdc().test_cases(acdc, channels=2)


def test_synthetic_cohort_has_the_real_layout(acdc_cohort, converted):
    database = next(acdc_cohort.rglob("training")).parent
    dataset = load_dataset(converted(Acdc(), database))
    assert len(dataset.cases) == 20
    assert len(dataset.test_cases) == 4


def test_folds_keep_patients_together(tmp_path, converted):
    from nnunet_box.dataset.splits import check_folds, group_folds

    root = write_acdc(tmp_path / "ACDC", training=range(1, 11), test=())
    dataset = load_dataset(converted(Acdc(), root))
    folds = group_folds(dataset.cases)
    check_folds(folds, dataset.cases)
    assert all(len(fold.val) == 4 for fold in folds)


def test_patients_need_not_start_with_frame_one(tmp_path):
    write_patient(tmp_path / "training", 7, ed=3, es=12)
    assert [case.reference_file.name for case in Acdc().recognise(tmp_path).training] == [
        "patient007_frame03.nii.gz",
        "patient007_frame12.nii.gz",
    ]


def test_the_testing_folder_outweighs_the_numbering(tmp_path):
    write_patient(tmp_path / "training", 1)
    write_patient(tmp_path / "testing", 7)
    recognition = Acdc().recognise(tmp_path)
    assert (ids(recognition.training), ids(recognition.test)) == (
        ["patient001_ED", "patient001_ES"],
        ["patient007_ED", "patient007_ES"],
    )


def test_a_label_on_a_test_case_is_not_written(acdc, tmp_path):
    recognition = Acdc().recognise(acdc)
    labelled = replace(recognition, training=recognition.training[2:], test=recognition.training[:2])
    Acdc().convert(labelled, tmp_path / "set")
    assert not (tmp_path / "set" / "labelsTr" / "patient001_ED.nii.gz").exists()
    assert len(list((tmp_path / "set" / "imagesTs").iterdir())) == 2
    records = json.loads((tmp_path / "set" / "cases.json").read_text())["cases"]
    assert {record["source_label"] for record in records if record["split"] == "test"} == {None}
