"""PROMISE12: every layout, parts that share names, and the way to a submission and back without a bit changed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from tiny_downloads import SHAPE, save
from tiny_promise12 import (
    LAYOUTS,
    LIVE,
    ODDITIES,
    TEST,
    TRAINING,
    image_voxels,
    label_voxels,
    write_case,
    write_cases,
    write_mhd,
    write_promise12,
)

from nnbox_challenges.promise12 import Promise12
from nnbox_challenges.promise12_layout import CENTRES
from nnunet_box.dataset.cases import read_image, read_label
from nnunet_box.dataset.check import check_dataset
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.metaimage import grid_fields, open_metaimage, read_voxels
from nnunet_box.dataset.splits import group_folds
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.errors import InvalidData
from nnunet_box.inference.folder import input_cases


def ids(cases):
    return [case.id for case in cases]


def named(part, numbers):
    return [f"{part}_Case{number:02d}" for number in numbers]


@pytest.fixture
def zenodo(tmp_path):
    return write_promise12(tmp_path / "download" / "PROMISE12", "zenodo")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, layout):
    root = write_promise12(tmp_path / "download" / "PROMISE12", layout)
    for folder in (root, root.parent):
        recognition = Promise12().recognise(folder)
        assert ids(recognition.training) == named("train", TRAINING)
        live = named("live", LIVE) if layout == "zenodo" else []
        assert ids(recognition.test) == named("test", TEST) + live
        assert recognition.messages[0] == (
            f"5 of 50 training cases, 3 of 30 test cases, {len(live)} of 20 live challenge cases"
        )
        assert not any("no folder says" in message for message in recognition.messages)
        for case in recognition.training:
            assert case.label is not None
            assert case.label.name == f"{case.output_name.removesuffix('.mhd')}_segmentation.mhd"
    test = Promise12().test_cases(root, channels=1)
    assert [case.output_name for case in test] == [f"Case{number:02d}.mhd" for number in TEST]
    assert all("_segmentation" not in case.reference_file.name and case.label is None for case in test)
    assert {case.reference_file.parent for case in test} == {root / LAYOUTS[layout][1]}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_reference_goes_there_and_back_unchanged(tmp_path, converted, layout):
    """Convert, export, evaluate: score 1, the image's header, the reference's voxels."""
    root = write_promise12(tmp_path / "download" / "PROMISE12", layout)
    dataset = load_dataset(converted(Promise12(), root))
    assert len(dataset.cases) == len(TRAINING)
    sources = {case.id: case for case in Promise12().recognise(root).training}
    for case in dataset.cases:
        labels = read_label(case.label, {0, 1}, case.reference_file)
        file = Promise12().export(labels, case, tmp_path / "out")
        same_as_source(file, sources[case.id].reference_file, sources[case.id].label)
    # Zenodo's test cases have references of the same names.
    references = root / "training_data" if layout == "zenodo" else root
    perfect(Promise12().evaluate(tmp_path / "out", references), len(TRAINING))


def same_as_source(file, image, reference):
    written, source = open_metaimage(file), open_metaimage(image)
    assert file.name == image.name
    assert grid_fields(written) == grid_fields(source)
    assert (written.data.name, written.compressed) == (f"{file.stem}.raw", False)
    assert written.fields["ElementType"] == "MET_UCHAR"
    assert np.array_equal(read_voxels(written), read_voxels(open_metaimage(reference)))
    ours, theirs = sitk.ReadImage(str(file)), sitk.ReadImage(str(image))
    assert ours.GetPixelID() == sitk.sitkUInt8
    for fact in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(ours, fact)() == getattr(theirs, fact)(), fact
    assert np.array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(sitk.ReadImage(str(reference))))


def perfect(result, cases):
    assert (result["cases"], result["missing"], result["mean"]["dice"]) == (cases, [], 1.0)
    for region in ("whole", "base", "apex"):
        assert result["regions"][region]["dice"] == 1.0
        assert result["regions"][region]["relative_volume_difference_percent"] == 0.0
        assert result["regions"][region]["average_boundary_distance_mm"] == 0.0
        assert result["regions"][region]["hausdorff_95_mm"] == 0.0


@pytest.mark.parametrize("oddity", ODDITIES)
def test_every_oddity_goes_there_and_back_unchanged(tmp_path, converted, oddity):
    """Training cases by way of a data set; test cases by way of a data set and straight from the download."""
    write_case(tmp_path / "download" / "TrainingData", "train", oddity)
    write_case(tmp_path / "download" / "test_data", "test", oddity)
    root = tmp_path / "download"
    dataset = load_dataset(converted(Promise12(), root))
    (training,), (test,) = dataset.cases, dataset.test_cases
    assert np.array_equal(read_volume(training.reference_file).array, image_voxels("train", oddity))
    assert np.array_equal(read_volume(test.reference_file).array, image_voxels("test", oddity))
    source = sitk.ReadImage(str(root / "test_data" / f"Case{oddity:02d}.mhd"))
    copy = sitk.ReadImage(str(test.reference_file))
    for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(copy, fact)(), getattr(source, fact)(), atol=1e-5), fact
    (straight,) = Promise12().test_cases(root, channels=1)
    for part, case, out in (("train", training, "a"), ("test", test, "b"), ("test", straight, "c")):
        folder = root / ("TrainingData" if part == "train" else "test_data")
        file = Promise12().export(label_voxels(part, oddity), case, tmp_path / out)
        image = folder / f"Case{oddity:02d}.mhd"
        same_as_source(file, image, image.with_name(f"{image.stem}_segmentation.mhd"))
        perfect(Promise12().evaluate(tmp_path / out, folder), 1)


def test_parts_that_share_names_do_not_overwrite_each_other(zenodo, converted):
    folder = converted(Promise12(), zenodo)
    assert folder.name == "promise12"
    dataset = load_dataset(folder)
    assert ids(dataset.cases) == named("train", TRAINING)
    assert ids(dataset.test_cases) == named("live", LIVE) + named("test", TEST)
    for case in (*dataset.cases, *dataset.test_cases):
        part, number = case.id.split("_Case")
        assert np.array_equal(read_volume(case.reference_file).array, image_voxels(part, int(number)))
    records = {r["id"]: r for r in json.loads((folder / "cases.json").read_text())["cases"]}
    assert records["live_Case00"]["source_images"] == ["livechallenge_test_data/Case00.mhd"]
    assert {record["output_name"] for record in records.values()} == {
        f"Case{number:02d}.mhd" for number in (*TRAINING, *TEST, *LIVE)
    }
    declared = json.loads((folder / "dataset.json").read_text())
    assert (declared["labels"], declared["channel_names"]) == ({"background": 0, "prostate": 1}, {"0": "T2"})
    assert (folder / "LICENSE.TXT").read_text() == "Terms."
    assert [finding for finding in check_dataset(folder) if finding.severity == "error"] == []


def test_references_of_test_cases_never_enter_the_data_set(zenodo, converted):
    folder = converted(Promise12(), zenodo)
    assert sorted(path.name for path in (folder / "labelsTr").iterdir()) == [
        f"{case}.nii.gz" for case in named("train", TRAINING)
    ]
    assert len(list((folder / "imagesTs").iterdir())) == len(TEST) + len(LIVE)
    records = json.loads((folder / "cases.json").read_text())["cases"]
    assert all(record["source_label"] is None for record in records if record["split"] == "test")
    assert all("_segmentation" not in image for record in records for image in record["source_images"])
    assert "references of 5 test cases stay out of the data set" in " ".join(Promise12().recognise(zenodo).messages)


def test_one_part_is_predicted_at_a_time(zenodo, converted, capsys):
    assert ids(Promise12().test_cases(zenodo, 1)) == named("test", TEST)
    assert "7 of other parts have the same names" in capsys.readouterr().err
    assert ids(Promise12().test_cases(zenodo / "test_data", 1)) == named("test", TEST)
    assert ids(Promise12().test_cases(zenodo / "livechallenge_test_data", 1)) == named("live", LIVE)
    assert ids(Promise12().test_cases(zenodo / "training_data", 1)) == named("train", TRAINING)
    assert capsys.readouterr().err == ""
    folder = converted(Promise12(), zenodo)
    for place in (folder, folder / "imagesTs"):
        cases = Promise12().test_cases(place, 1)
        assert ids(cases) == named("test", TEST)
        assert [case.output_name for case in cases] == [f"Case{number:02d}.mhd" for number in TEST]


def test_data_set_without_test_cases_has_nothing_to_predict(tmp_path, converted):
    folder = converted(Promise12(), write_cases(tmp_path / "TrainingData", "train", (0,)))
    with pytest.raises(InvalidData, match="test cases; found none"):
        Promise12().test_cases(folder, 1)


def test_folder_under_another_name(tmp_path):
    """As an image sees it under /input: images alone are test cases; beside references they are training cases."""
    write_cases(tmp_path / "input", "test", TEST, reference=False)
    assert ids(Promise12().test_cases(tmp_path / "input", 1)) == named("test", TEST)
    write_cases(tmp_path / "other", "train", (5, 6))
    recognition = Promise12().recognise(tmp_path / "other")
    assert ids(recognition.training) == named("train", (5, 6))
    assert any("no folder says which part train_Case05, train_Case06" in message for message in recognition.messages)
    cases = Promise12().test_cases(tmp_path / "other", 1)
    assert [case.reference_file.name for case in cases] == ["Case05.mhd", "Case06.mhd"]


def test_a_folder_above_the_given_one_decides_nothing(tmp_path):
    write_cases(tmp_path / "test_data" / "mine", "train", (3,))
    assert ids(Promise12().recognise(tmp_path / "test_data" / "mine").training) == ["train_Case03"]


def test_folds_are_balanced_over_the_centres(tmp_path):
    root = write_cases(tmp_path / "TrainingData", "train", range(50))
    recognition = Promise12().recognise(root)
    assert recognition.messages[:2] == (
        "50 of 50 training cases, 0 of 30 test cases, 0 of 20 live challenge cases",
        "centres: BIDMC 12, HK 12, RUNMC 13, UCL 13",
    )
    assert sorted(number for numbers in CENTRES.values() for number in numbers) == list(range(50))
    stratum = {case.id: case.stratum for case in recognition.training}
    assert [stratum[f"train_Case{number:02d}"] for number in (0, 1, 2, 13, 25, 26, 37, 38)] == [
        *("BIDMC", "UCL", "BIDMC", "RUNMC", "RUNMC", "UCL", "UCL", "HK"),
    ]
    assert Promise12().groups(recognition.training)["train_Case07"] == "train_Case07"
    for fold in group_folds(recognition.training):
        assert len(fold.val) == 10
        assert set(Counter(stratum[case] for case in fold.val).values()) <= {2, 3}


def test_unknown_numbers_are_grouped_by_matrix_and_slice_thickness(tmp_path):
    for number, spacing in ((50, "0.6 0.6 3.6"), (51, "0.6 0.6 3.5999999"), (52, "0.4 0.4 2.2")):
        write_mhd(tmp_path / "train" / f"Case{number}.mhd", np.zeros((4, 5, 6)), ElementSpacing=spacing)
        write_mhd(tmp_path / "train" / f"Case{number}_segmentation.mhd", np.ones((4, 5, 6)), "MET_UCHAR")
    recognition = Promise12().recognise(tmp_path)
    assert [case.stratum for case in recognition.training] == ["6 x 5, 3.6 mm", "6 x 5, 3.6 mm", "6 x 5, 2.2 mm"]
    assert any("train_Case50, train_Case51, train_Case52 are beyond" in message for message in recognition.messages)


def test_voxels_under_another_name_are_told(tmp_path):
    write_cases(tmp_path / "train", "train", (0, 6))
    header = tmp_path / "train" / "Case06.mhd"
    header.write_text(header.read_text().replace("Case06.raw", "Case00.raw").replace("MET_USHORT", "MET_SHORT"))
    assert any("headers of train_Case06 name voxels of another" in m for m in Promise12().recognise(tmp_path).messages)


def test_conversion_of_the_same_download_gives_the_same_bytes(zenodo, tmp_path):
    recognition = Promise12().recognise(zenodo)
    for name in ("one", "two"):
        Promise12().convert(recognition, tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 5 + 5 + 5 + 4
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def refused(source, converted, tmp_path, expected, found, file=None):
    with pytest.raises(InvalidData) as raised:
        converted(Promise12(), source)
    assert expected in raised.value.expected
    assert found in raised.value.found
    assert raised.value.fix.endswith(".")
    if file is not None:
        assert raised.value.file.name == file
    assert not (tmp_path / "ws" / "datasets" / "promise12").exists()


def test_nifti_conversion_is_refused_and_its_images_can_still_be_predicted(tmp_path, converted):
    folder = tmp_path / "download" / "TrainingData"
    for name in ("Case00", "Case00_segmentation", "Case01", "Case01_segmentation"):
        save(folder / f"{name}.nii.gz", np.ones(SHAPE, np.int16))
    refused(
        folder.parent, converted, tmp_path, "PROMISE12: CaseNN.mhd", "a conversion to another format (Case00.nii.gz)"
    )
    cases = input_cases(folder, 1, Promise12())
    assert [(case.reference_file.name, case.output_name) for case in cases] == [
        ("Case00.nii.gz", "Case00.nii.gz"),
        ("Case01.nii.gz", "Case01.nii.gz"),
    ]
    file = Promise12().export(np.ones(SHAPE[::-1], np.uint8), cases[0], tmp_path / "out")
    assert np.array_equal(nibabel.load(file).affine, nibabel.load(cases[0].reference_file).affine)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_other_conversions_are_refused(tmp_path, converted, suffix):
    (tmp_path / "download").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(SHAPE, np.int16)), str(tmp_path / "download" / f"Case00{suffix}"))
    refused(tmp_path / "download", converted, tmp_path, "PROMISE12", f"a conversion to another format (Case00{suffix})")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
def test_multi_site_collections_are_refused(tmp_path, converted, suffix):
    for site in ("BIDMC", "RUNMC", "UCL"):
        folder = tmp_path / "download" / "Prostate" / site
        if suffix == ".mhd":
            write_cases(folder, "train", (0,))
        else:
            save(folder / "Case00.nii.gz", np.ones(SHAPE, np.int16))
    refused(
        tmp_path / "download", converted, tmp_path, "organisers ship", "multi-site re-pack (folders BIDMC, RUNMC, UCL"
    )


def test_preprocessed_slices_are_refused(tmp_path, converted):
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "Case00_slice_3.npy").write_bytes(b"\x93NUMPY")
    refused(tmp_path / "download", converted, tmp_path, "PROMISE12", "preprocessed arrays (Case00_slice_3.npy)")


def test_other_downloads_are_refused(acdc, decathlon, converted, tmp_path):
    refused(acdc, converted, tmp_path, "PROMISE12: CaseNN.mhd", "testing, training")
    refused(decathlon, converted, tmp_path, "PROMISE12: CaseNN.mhd", "dataset.json, imagesTr")
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "training_data.zip").write_bytes(b"PK")
    refused(tmp_path / "zips", converted, tmp_path, "PROMISE12: CaseNN.mhd", "training_data.zip")
    refused(tmp_path / "nowhere", converted, tmp_path, "unpacked download", "no such folder")


def test_test_data_alone_is_no_training_set(zenodo, converted, tmp_path):
    shutil.rmtree(zenodo / "training_data")
    refused(zenodo, converted, tmp_path, "training cases", "3 test and 2 live challenge cases only")


def test_a_case_twice_is_refused(zenodo, converted, tmp_path):
    write_cases(zenodo / "TrainingData_Part1", "train", (1,))
    refused(zenodo, converted, tmp_path, "train_Case01 once", "also in")


@pytest.mark.parametrize(
    ("gone", "file", "expected"),
    [
        ("training_data/Case01_segmentation.mhd", "Case01_segmentation.mhd", "the header of Case01_segmentation.zraw"),
        ("training_data/Case02.mhd", "Case02.mhd", "the header of Case02.raw"),
        ("training_data/Case02.raw", "Case02.mhd", "the .raw file it names beside it (Case02.raw)"),
        ("training_data/Case01.zraw", "Case01.mhd", "the .raw file it names beside it (Case01.zraw)"),
        ("training_data/Case02_segmentation.*", "Case02_segmentation.mhd", "the reference of Case02.mhd"),
        ("training_data/Case02.*", "Case02.mhd", "the image of Case02_segmentation.mhd"),
        ("test_data/Case04.*", "Case04.mhd", "the image of Case04_segmentation.mhd"),
        ("test_data/Case04.raw", "Case04.mhd", "the .raw file it names"),
        ("training_data/Case02_segmentation.raw", "Case02_segmentation.mhd", "the .raw file it names"),
    ],
)
def test_half_copied(zenodo, converted, tmp_path, gone, file, expected):
    for path in zenodo.glob(gone):
        path.unlink()
    refused(zenodo, converted, tmp_path, expected, "no such file", file)
    if gone.startswith("test_data"):
        # Damage must not make a plain folder of it, whose references would be predicted as images.
        if not gone.endswith(".raw"):
            with pytest.raises(InvalidData, match=file):
                input_cases(zenodo / "test_data", 1, Promise12())
            return
        # A header without its voxels is one case's affair: reading it says so, and the others are predicted.
        cases = {case.id: case for case in input_cases(zenodo / "test_data", 1, Promise12())}
        files = {case.reference_file.name for case in cases.values()}
        assert file in files and len(cases) == 3 and not any("segmentation" in name for name in files)
        for case in cases.values():
            if case.reference_file.name == file:
                with pytest.raises(InvalidData, match=file):
                    read_image(case)
            else:
                read_image(case)


def test_truncated_voxels(zenodo, converted, tmp_path):
    for name, expected in (("Case28.raw", "378 bytes"), ("Case00_segmentation.raw", "378 bytes")):
        path = zenodo / "training_data" / name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        refused(zenodo, converted, tmp_path, "bytes of voxels (6 x 7 x 9 MET_", f"{len(content) - 1} bytes in {name}")
        path.write_bytes(content)
        assert len(content) % int(expected.split()[0]) == 0


def test_headers_that_point_out_of_the_download(zenodo, converted, tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes((zenodo / "training_data" / "Case00.raw").read_bytes())
    header = zenodo / "training_data" / "Case00.mhd"
    text = header.read_text()
    for name in (str(secret), "../../../secret.raw"):
        header.write_text(text.replace("Case00.raw", name))
        refused(zenodo, converted, tmp_path, "one file beside the header", "outside the header's folder", "Case00.mhd")


def test_labels_of_another_shape_are_refused_and_nothing_is_written(zenodo, tmp_path):
    case = Promise12().test_cases(zenodo, channels=1)[0]
    with pytest.raises(InvalidData, match="labels of DimSize 6 7 9; found 7 6 9"):
        Promise12().export(label_voxels("test", 0).transpose(0, 2, 1).copy(), case, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_model_with_two_channels_is_refused(zenodo):
    with pytest.raises(InvalidData, match="a model with 2 channels"):
        Promise12().test_cases(zenodo, channels=2)


@pytest.mark.real_data
def test_real_cases_go_there_and_back_unchanged(real_data, converted, tmp_path):
    source = real_data / "PROMISE12"
    recognition = Promise12().recognise(source)
    assert recognition.messages[0].startswith("2 of 50 training cases, 0 of 30 test cases")
    dataset = load_dataset(converted(Promise12(), source))
    assert ids(dataset.cases) == ["train_Case00", "train_Case01"]
    for case, original in zip(dataset.cases, recognition.training, strict=True):
        assert np.array_equal(read_volume(case.reference_file).array, read_volume(original.reference_file).array)
        file = Promise12().export(read_label(case.label, {0, 1}, case.reference_file), case, tmp_path / "out")
        same_as_source(file, original.reference_file, original.label)
    perfect(Promise12().evaluate(tmp_path / "out", source), 2)
    perfect(Promise12().evaluate(Path(dataset.folder) / "labelsTr", source), 2)
    assert [finding for finding in check_dataset(dataset.folder) if finding.severity == "error"] == []


def test_voxels_that_change_after_an_interruption_are_converted_again(tmp_path):
    """The header that names them stays as it was; size and time of the voxels' own file count too."""
    source = write_promise12(tmp_path / "PROMISE12", "merged")
    recognition = Promise12().recognise(source)
    last = source / "TestData" / "Case04.raw"
    whole = last.read_bytes()
    last.write_bytes(whole[:-10])
    with pytest.raises(InvalidData, match="Case04"):
        Promise12().convert(recognition, tmp_path / "ws" / "promise12", workers=1)
    last.write_bytes(whole)
    images = [(case, open_metaimage(case.reference_file)) for case in recognition.training]
    changed, image = next((case, image) for case, image in images if not image.compressed)
    other = (read_voxels(image) + 1).astype(image.dtype)
    image.data.write_bytes(other.tobytes())
    Promise12().convert(recognition, tmp_path / "ws" / "promise12", workers=1)
    written = read_volume(tmp_path / "ws" / "promise12" / "imagesTr" / f"{changed.id}_0000.nii.gz").array
    assert np.array_equal(written, other)


def test_one_damaged_test_header_is_one_cases_affair(zenodo):
    for line in ("ElementSpacing = 1 1 -1", "Offset = ", "TransformMatrix = 1 0 0 0"):
        header = zenodo / "test_data" / "Case04.mhd"
        key = line.split(" = ")[0]
        kept = [one for one in header.read_text().splitlines() if not one.startswith((key, "Position"))]
        header.write_text("\n".join([line, *kept, ""]))
        cases = input_cases(zenodo / "test_data", 1, Promise12())
        assert len(cases) == 3
        (damaged,) = (case for case in cases if case.reference_file == header)
        with pytest.raises(InvalidData, match=r"Case04\.mhd"):
            read_image(damaged)
