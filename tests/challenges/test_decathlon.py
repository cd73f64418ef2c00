from __future__ import annotations

import json
import shutil

import nibabel
import numpy as np
import pytest
from tiny_downloads import SHAPE, gunzip, labels_of, save, write_decathlon

from nnbox_challenges.decathlon import Decathlon
from nnbox_challenges.decathlon_tasks import PREFIXES, TASKS, TOLERANCES_MM
from nnunet_box.dataset.cases import read_image, read_label
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.errors import InvalidData


def test_converts_to_nnunet_v2_layout(decathlon, converted):
    dataset = converted(Decathlon(), decathlon)
    assert dataset.name == "decathlon-Task09_Spleen"
    declared = json.loads((dataset / "dataset.json").read_text())
    assert declared["channel_names"] == {"0": "CT"}
    assert declared["labels"] == {"background": 0, "spleen": 1}
    assert (declared["numTraining"], declared["file_ending"]) == (5, ".nii.gz")
    assert declared["licence"] == "CC-BY-SA 4.0"
    assert declared["release"] == "1.0 06/08/2018"
    assert "Sloan" in declared["reference"]
    assert sorted(path.name for path in (dataset / "imagesTr").iterdir()) == sorted(
        f"spleen_{number}_0000.nii.gz" for number in (2, 4, 10, 33, 41)
    )
    assert sorted(path.name for path in (dataset / "labelsTr").iterdir()) == sorted(
        f"spleen_{number}.nii.gz" for number in (2, 4, 10, 33, 41)
    )
    assert sorted(path.name for path in (dataset / "imagesTs").iterdir()) == [
        "spleen_1_0000.nii.gz",
        "spleen_7_0000.nii.gz",
    ]


def test_files_that_need_no_change_are_copied_byte_for_byte(decathlon, converted):
    dataset = converted(Decathlon(), decathlon)
    for source, copy in (
        ("imagesTr/spleen_2.nii.gz", "imagesTr/spleen_2_0000.nii.gz"),
        ("labelsTr/spleen_2.nii.gz", "labelsTr/spleen_2.nii.gz"),
        ("imagesTs/spleen_7.nii.gz", "imagesTs/spleen_7_0000.nii.gz"),
    ):
        assert (dataset / copy).read_bytes() == (decathlon / source).read_bytes()
    records = json.loads((dataset / "cases.json").read_text())["cases"]
    assert all(record["repairs"] == [] for record in records)


def test_cases_file_leads_back_to_the_source(decathlon, converted):
    dataset = converted(Decathlon(), decathlon)
    content = json.loads((dataset / "cases.json").read_text())
    assert content["challenge"] == "decathlon"
    record = next(record for record in content["cases"] if record["id"] == "spleen_2")
    assert record["source_images"] == ["imagesTr/spleen_2.nii.gz"]
    assert record["source_label"] == "labelsTr/spleen_2.nii.gz"
    assert (record["group"], record["split"], record["output_name"]) == ("spleen_2", "train", "spleen_2.nii.gz")
    assert record["geometry"]["shape"] == list(SHAPE[::-1])
    assert record["geometry"]["spacing"] == pytest.approx([3.0, 0.9, 0.8])
    assert record["header"]["dtype"] == "int16"
    assert record["header"]["axis_codes"] == "RAS"
    source = nibabel.load(decathlon / record["source_images"][0])
    assert np.allclose(record["header"]["srow"], source.affine[:3])


def test_cases_come_in_natural_order_whatever_the_lists_order(decathlon):
    recognition = Decathlon().recognise(decathlon)
    assert [case.id for case in recognition.training] == ["spleen_2", "spleen_4", "spleen_10", "spleen_33", "spleen_41"]


def test_four_dimensional_images_are_split_into_channels(tmp_path, converted):
    names = ("FLAIR", "T1w", "t1gd", "T2w")
    root = write_decathlon(tmp_path / "Task01_BrainTumour", ["BRATS_001"], ["BRATS_485"], names, ("a", "b", "c"))
    source = np.asanyarray(nibabel.load(root / "imagesTr" / "BRATS_001.nii.gz").dataobj)
    dataset = load_dataset(converted(Decathlon(), root))
    assert dataset.channel_names == names
    for index in range(4):
        channel = nibabel.load(dataset.folder / "imagesTr" / f"BRATS_001_{index:04d}.nii.gz")
        assert channel.shape == SHAPE
        assert channel.get_data_dtype() == np.int16
        assert np.array_equal(np.asanyarray(channel.dataobj), source[..., index])
        assert np.allclose(channel.affine, nibabel.load(root / "imagesTr" / "BRATS_001.nii.gz").affine)
    image, geometry = read_image(dataset.cases[0])
    assert image.shape == (4, *SHAPE[::-1])
    assert geometry.spacing == pytest.approx((3.0, 0.9, 0.8))


def test_integral_float_labels_become_uint8_and_it_is_recorded(decathlon, converted):
    labels = labels_of(SHAPE, [1], 3).astype(np.float32)
    save(decathlon / "labelsTr" / "spleen_4.nii.gz", labels, (0.8, 0.9, 3.0))
    dataset = converted(Decathlon(), decathlon)
    written = nibabel.load(dataset / "labelsTr" / "spleen_4.nii.gz")
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asanyarray(written.dataobj), labels)
    record = next(r for r in json.loads((dataset / "cases.json").read_text())["cases"] if r["id"] == "spleen_4")
    assert record["repairs"] == ["label stored as float32 written as uint8"]


def test_label_header_that_disagrees_gives_way_to_the_image(decathlon, converted):
    labels = labels_of(SHAPE, [1], 3)
    save(decathlon / "labelsTr" / "spleen_4.nii.gz", labels, (1.0, 1.0, 1.0))
    dataset = converted(Decathlon(), decathlon)
    written = nibabel.load(dataset / "labelsTr" / "spleen_4.nii.gz")
    image = nibabel.load(dataset / "imagesTr" / "spleen_4_0000.nii.gz")
    assert np.allclose(written.affine, image.affine)
    assert np.array_equal(np.asanyarray(written.dataobj), labels)


def test_counts_that_disagree_are_a_message(tmp_path):
    root = write_decathlon(tmp_path / "Task09_Spleen", numTraining=41, numTest=20)
    messages = " | ".join(Decathlon().recognise(root).messages)
    assert "5 of 41 training cases, 2 of 20 test cases" in messages
    assert "numTraining 41, it lists 5" in messages


def test_labels_unlike_the_published_ones_are_a_message_and_are_followed(tmp_path):
    root = write_decathlon(tmp_path / "Task09_Spleen", labels=("spleen", "cyst"))
    recognition = Decathlon().recognise(root)
    assert recognition.labels == {0: "background", 1: "spleen", 2: "cyst"}
    assert any("not the published" in message for message in recognition.messages)


@pytest.mark.parametrize("above", [".", "Task09_Spleen", "a/b/c"])
def test_root_is_found_below_and_in_doubled_folders(tmp_path, above):
    root = write_decathlon(tmp_path / "given" / above / "Task09_Spleen")
    assert Decathlon().recognise(tmp_path / "given").root == root.resolve()


PREFIX_OF = {task: prefix for prefix, task in PREFIXES.items()}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_each_of_the_ten_tasks_from_download_to_scores(task, tmp_path, converted):
    prefix = PREFIX_OF[task.name]
    labels = list(task.labels.values())[1:]
    # Unpadded ids and test numbers between the training numbers, as Task03 and Task09 have them.
    root = write_decathlon(
        tmp_path / task.name, [f"{prefix}_{n}" for n in (10, 2)], [f"{prefix}_7"], task.channels, labels
    )
    recognition = Decathlon().recognise(root)
    assert (recognition.dataset_name, recognition.channel_names) == (f"decathlon-{task.name}", task.channels)
    assert recognition.labels == task.labels
    assert f"2 of {task.training} training cases, 1 of {task.test} test cases" in recognition.messages
    assert not any("published" in message for message in recognition.messages)
    dataset = load_dataset(converted(Decathlon(), root))
    assert [case.id for case in dataset.cases] == sorted([f"{prefix}_10", f"{prefix}_2"])
    assert all(len(case.channels) == len(task.channels) for case in (*dataset.cases, *dataset.test_cases))
    assert dataset.labels == task.labels
    case = Decathlon().test_cases(root, len(task.channels))[0]
    predicted = Decathlon().export(labels_of(SHAPE, [1], 0).T, case, tmp_path / "out")
    assert predicted.name == f"{prefix}_7.nii.gz"
    written = nibabel.load(predicted)
    assert written.shape == SHAPE, "three axes, also where the image has four"
    result = Decathlon().evaluate(root / "labelsTr", root / "labelsTr")
    assert (result["task"], result["tolerance_mm"]) == (task.name, TOLERANCES_MM[task.name])
    assert list(result["labels"]) == labels
    assert result["mean"] == {"dice": 1.0, "surface_dice": 1.0}


@pytest.mark.parametrize(
    ("task", "said"), [("Task01_BrainTumour", "BraTS's"), ("Task03_Liver", "LiTS"), ("Task05_Prostate", "PROMISE12")]
)
def test_what_no_file_says_is_a_message(tmp_path, task, said):
    root = write_decathlon(tmp_path / task, [f"{PREFIX_OF[task]}_001"], [])
    assert any(said in message for message in Decathlon().recognise(root).messages)
    other = write_decathlon(tmp_path / "Task09_Spleen")
    assert not any(said in message for message in Decathlon().recognise(other).messages)


def test_a_folder_with_something_added_to_its_name_is_still_the_task(tmp_path):
    recognition = Decathlon().recognise(write_decathlon(tmp_path / "Task09_Spleen_v2"))
    assert recognition.dataset_name == "decathlon-Task09_Spleen"
    assert any("of 41 training cases" in message for message in recognition.messages)


def test_a_task_of_ones_own_keeps_its_name(tmp_path):
    root = write_decathlon(tmp_path / "Task11_Kidney", ["kidney_1"], [], labels=("kidney",))
    recognition = Decathlon().recognise(root)
    assert recognition.dataset_name == "decathlon-Task11_Kidney"
    assert "Task11_Kidney is none of the ten tasks; its dataset.json is followed" in recognition.messages


def test_renamed_folder_takes_the_name_from_the_files(tmp_path):
    root = write_decathlon(tmp_path / "my spleens")
    assert Decathlon().recognise(root).dataset_name == "decathlon-Task09_Spleen"


def test_recompressed_and_unpacked_as_folders(decathlon, converted):
    gunzip(decathlon / "imagesTr" / "spleen_2.nii.gz")
    inner = gunzip(decathlon / "labelsTr" / "spleen_4.nii.gz")
    inner.rename(inner.with_name("moved"))
    (decathlon / "labelsTr" / "spleen_4.nii").mkdir()
    shutil.move(decathlon / "labelsTr" / "moved", decathlon / "labelsTr" / "spleen_4.nii" / "spleen_4.nii")
    dataset = converted(Decathlon(), decathlon)
    records = {r["id"]: r for r in json.loads((dataset / "cases.json").read_text())["cases"]}
    assert records["spleen_2"]["repairs"] == ["compressed"]
    assert records["spleen_4"]["source_label"] == "labelsTr/spleen_4.nii/spleen_4.nii"
    assert load_dataset(dataset).cases[3].id == "spleen_4"
    assert read_label(
        dataset / "labelsTr" / "spleen_4.nii.gz", {0, 1}, dataset / "imagesTr" / "spleen_4_0000.nii.gz"
    ).any()


def test_unlisted_images_are_left_out_with_a_message(decathlon):
    shutil.copy(decathlon / "imagesTr" / "spleen_2.nii.gz", decathlon / "imagesTr" / "spleen_99.nii.gz")
    recognition = Decathlon().recognise(decathlon)
    assert len(recognition.training) == 5
    assert any("spleen_99" in message for message in recognition.messages)


def test_download_without_test_images_is_taken_with_a_message(decathlon):
    shutil.rmtree(decathlon / "imagesTs")
    recognition = Decathlon().recognise(decathlon)
    assert recognition.test == ()
    assert any("imagesTs is not there" in message for message in recognition.messages)


def test_image_without_forms_gets_both_from_pixdim(decathlon, converted):
    path = decathlon / "imagesTr" / "spleen_2.nii.gz"
    image = nibabel.load(path)
    bare = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None)
    bare.header["pixdim"][1:4] = (0.8, 0.9, 3.0)
    bare.set_qform(None, code=0)
    bare.set_sform(None, code=0)
    nibabel.save(bare, path)
    dataset = converted(Decathlon(), decathlon)
    written = nibabel.load(dataset / "imagesTr" / "spleen_2_0000.nii.gz")
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 1)
    assert np.allclose(written.header.get_zooms(), (0.8, 0.9, 3.0))


def test_qform_and_sform_that_disagree_are_both_set_from_sform(decathlon, converted):
    path = decathlon / "imagesTr" / "spleen_2.nii.gz"
    image = nibabel.load(path)
    other = image.affine.copy()
    other[:3, 3] += 50
    image.set_qform(other, code=1)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj).copy(), None, image.header), path)
    dataset = converted(Decathlon(), decathlon)
    written = nibabel.load(dataset / "imagesTr" / "spleen_2_0000.nii.gz")
    assert np.allclose(written.get_qform(), written.get_sform(), atol=1e-3)
    assert np.allclose(written.get_sform(), image.get_sform(), atol=1e-3)


@pytest.mark.parametrize("given", ["imagesTs", "."])
def test_test_cases_of_the_folder_and_of_the_root(decathlon, given):
    cases = Decathlon().test_cases(decathlon / given, channels=1)
    assert [(case.id, case.output_name) for case in cases] == [
        ("spleen_1", "spleen_1.nii.gz"),
        ("spleen_7", "spleen_7.nii.gz"),
    ]
    assert all(case.label is None for case in cases)


def test_test_cases_with_several_channels(tmp_path):
    root = write_decathlon(tmp_path / "Task05_Prostate", ["prostate_00"], ["prostate_03"], ("T2", "ADC"), ("PZ", "TZ"))
    (case,) = Decathlon().test_cases(root / "imagesTs", channels=2)
    assert [channel.index for channel in case.channels] == [0, 1]
    assert read_image(case)[0].shape[0] == 2


def test_test_cases_in_nnunet_naming(decathlon):
    images = decathlon / "imagesTs"
    for name in ("spleen_1", "spleen_7"):
        (images / f"{name}.nii.gz").rename(images / f"{name}_0000.nii.gz")
    assert [case.id for case in Decathlon().test_cases(images, channels=1)] == ["spleen_1", "spleen_7"]


def test_test_image_with_other_channels_is_refused(decathlon):
    with pytest.raises(InvalidData, match="expected 2 channels; found 1"):
        Decathlon().test_cases(decathlon / "imagesTs", channels=2)


def test_folder_without_test_images_is_refused(decathlon, tmp_path):
    shutil.rmtree(decathlon / "imagesTs")
    with pytest.raises(InvalidData, match="imagesTs"):
        Decathlon().test_cases(decathlon, channels=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="an empty folder"):
        Decathlon().test_cases(tmp_path / "empty", channels=1)


def test_nnunet_v1_task_is_refused_with_the_reason(decathlon):
    for path in list((decathlon / "imagesTr").glob("spleen*")):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    with pytest.raises(InvalidData, match="nnU-Net v1"):
        Decathlon().recognise(decathlon)


def test_three_digit_task_folder_is_refused_as_v1(tmp_path):
    with pytest.raises(InvalidData, match="nnU-Net v1"):
        Decathlon().recognise(write_decathlon(tmp_path / "Task009_Spleen"))


def test_nnunet_v2_folder_is_refused_with_the_reason(decathlon, converted):
    with pytest.raises(InvalidData, match="nnU-Net v2 raw data set"):
        Decathlon().recognise(converted(Decathlon(), decathlon))


def test_the_workspace_inside_the_source_is_no_second_task(decathlon):
    adapter = Decathlon()
    recognition = adapter.recognise(decathlon)
    adapter.convert(recognition, decathlon / "nnbox" / "datasets" / recognition.dataset_name)
    assert adapter.recognise(decathlon).root == decathlon.resolve()
    assert adapter.recognise(decathlon.parent).root == decathlon.resolve()


def test_several_tasks_are_not_guessed_between(tmp_path):
    write_decathlon(tmp_path / "Task09_Spleen")
    write_decathlon(tmp_path / "Task06_Lung")
    with pytest.raises(InvalidData, match="Task06_Lung, Task09_Spleen"):
        Decathlon().recognise(tmp_path)


def test_labels_with_gaps_are_refused(decathlon, converted):
    file = decathlon / "dataset.json"
    file.write_text(file.read_text().replace('"1": "spleen"', '"2": "spleen"'))
    with pytest.raises(InvalidData, match="without gaps"):
        converted(Decathlon(), decathlon)


def test_hippocampus_says_that_pairs_cannot_be_told(tmp_path):
    root = write_decathlon(
        tmp_path / "Task04_Hippocampus", ["hippocampus_001"], [], ("MRI",), ("Anterior", "Posterior")
    )
    assert any("left and right" in message for message in Decathlon().recognise(root).messages)


def test_one_damaged_test_image_is_one_cases_affair(decathlon):
    images = decathlon / "imagesTs"
    (images / "spleen_1.nii.gz").write_bytes(b"<html>")
    assert [case.id for case in Decathlon().test_cases(images, channels=1)] == ["spleen_1", "spleen_7"]
    save(images / "spleen_1.nii.gz", np.zeros((6, 7, 4, 2), np.int16))
    assert [case.id for case in Decathlon().test_cases(images, channels=1)] == ["spleen_1", "spleen_7"]
    with pytest.raises(InvalidData, match="3 channels; found"):
        Decathlon().test_cases(images, channels=3)
