"""Every way a download is broken ends in one message that names file, expectation, finding and remedy."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import struct

import nibabel
import numpy as np
import pytest
from tiny_downloads import SHAPE, gunzip, labels_of, save, save_acdc, truncate

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.decathlon import Decathlon
from nnunet_box.errors import InvalidData
from nnunet_box.files import PARTIAL_MARK
from nnunet_box.temporary import LOCK

ACDC_SPACING = (1.5625, 1.25, 8.0)


def refused(convert, adapter, source, file, expected, found, nothing_at):
    """Convert, which must fail with a message of these parts and leave whole cases for the next run, or nothing."""
    with pytest.raises(InvalidData) as raised:
        convert(adapter, source)
    error = raised.value
    assert error.file.name == file
    assert expected in error.expected
    assert found in error.found
    assert error.fix.endswith(".")
    assert error.exit_code == 3
    left = [path for path in nothing_at.rglob("*") if path.is_file() and path.name != LOCK]
    assert all(PARTIAL_MARK in str(path) for path in left)
    notes = {path.stem for path in left if path.parent.name == "notes"}
    cases = {re.sub(r"(_\d{4})?\.nii\.gz$", "", path.name) for path in left if path.parent.name != "notes"}
    assert notes == cases


def test_missing_label_of_acdc(acdc, converted, tmp_path):
    name = "patient002_frame09_gt.nii.gz"
    (acdc / "training" / "patient002" / name).unlink()
    refused(converted, Acdc(), acdc, name, "patient002's ES frame", "no such file", tmp_path / "ws")


def test_missing_label_of_decathlon(decathlon, converted, tmp_path):
    (decathlon / "labelsTr" / "spleen_4.nii.gz").unlink()
    refused(
        converted,
        Decathlon(),
        decathlon,
        "spleen_4.nii.gz",
        "5 label files",
        "1 not there, the first ./labelsTr",
        tmp_path / "ws",
    )


def test_label_of_another_shape(decathlon, acdc, converted, tmp_path):
    save(decathlon / "labelsTr" / "spleen_4.nii.gz", labels_of((6, 7, 5), [1], 0))
    refused(converted, Decathlon(), decathlon, "spleen_4.nii.gz", "shape (4, 7, 6)", "(5, 7, 6)", tmp_path / "ws")
    name = "patient002_frame09_gt.nii.gz"
    save_acdc(acdc / "training" / "patient002" / name, labels_of((7, 6, 4), [1], 0), ACDC_SPACING)
    refused(converted, Acdc(), acdc, name, "shape (4, 7, 6)", "(4, 6, 7)", tmp_path / "ws")


@pytest.mark.parametrize("keep", [0.05, 0.6, 0.98])
def test_truncated_image(decathlon, converted, tmp_path, keep):
    truncate(decathlon / "imagesTr" / "spleen_33.nii.gz", keep)
    with pytest.raises(InvalidData, match=r"spleen_33.nii.gz.*incomplete|spleen_33.nii.gz.*[Cc]opy it again"):
        converted(Decathlon(), decathlon)
    assert not list(tmp_path.glob("ws/datasets/[!.]*"))


def test_image_cut_inside_the_checksum_at_its_end(decathlon, converted, tmp_path):
    path = decathlon / "imagesTr" / "spleen_33.nii.gz"
    save(path, np.random.default_rng(0).integers(-1000, 1000, (30, 20, 10)).astype(np.int16))
    save(decathlon / "labelsTr" / path.name, labels_of((30, 20, 10), [1], 0))
    path.write_bytes(path.read_bytes()[:-3])
    nibabel.load(path).get_fdata()  # every voxel is there: only the checksum tells
    refused(converted, Decathlon(), decathlon, path.name, "a whole gzip file", "", tmp_path / "ws")


def test_flipped_bit(acdc, converted, tmp_path):
    path = acdc / "training" / "patient003" / "patient003_frame01_gt.nii.gz"
    content = bytearray(path.read_bytes())
    content[-7] ^= 0x10
    path.write_bytes(bytes(content))
    refused(converted, Acdc(), acdc, path.name, "a whole gzip file", "CRC", tmp_path / "ws")


def test_damage_that_makes_odd_voxels_is_told_as_damage(decathlon, converted, tmp_path):
    path = decathlon / "labelsTr" / "spleen_4.nii.gz"
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    content[-20] = 7  # stored, not compressed: a voxel becomes 7, and the checksum no longer fits
    path.write_bytes(bytes(content))
    refused(converted, Decathlon(), decathlon, path.name, "a whole gzip file", "CRC", tmp_path / "ws")


def test_truncated_label(acdc, converted, tmp_path):
    path = acdc / "training" / "patient003" / "patient003_frame01_gt.nii.gz"
    truncate(path)
    refused(converted, Acdc(), acdc, path.name, "a whole gzip file", "", tmp_path / "ws")


def test_truncated_uncompressed_image(acdc, converted, tmp_path):
    path = gunzip(acdc / "training" / "patient003" / "patient003_frame01.nii.gz")
    truncate(path)
    refused(converted, Acdc(), acdc, path.name, "voxels of shape (6, 7, 4)", "ends early", tmp_path / "ws")


def test_empty_file(decathlon, converted, tmp_path):
    path = decathlon / "imagesTr" / "spleen_33.nii.gz"
    path.write_bytes(b"")
    refused(converted, Decathlon(), decathlon, path.name, "NIfTI", "0 bytes", tmp_path / "ws")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(decathlon, converted, tmp_path, value):
    voxels = np.ones(SHAPE, dtype=np.float32)
    voxels[2, 3, 1] = value
    save(decathlon / "imagesTr" / "spleen_2.nii.gz", voxels)
    refused(
        converted,
        Decathlon(),
        decathlon,
        "spleen_2.nii.gz",
        "finite voxels",
        "1 NaN or infinite, the first at (1, 3, 2)",
        tmp_path / "ws",
    )


def test_nan_in_a_test_image_counts_too(acdc, converted, tmp_path):
    voxels = np.full(SHAPE, np.nan, dtype=np.float32)
    save_acdc(acdc / "testing" / "patient101" / "patient101_frame01.nii.gz", voxels, ACDC_SPACING)
    refused(converted, Acdc(), acdc, "patient101_frame01.nii.gz", "finite voxels", "168 NaN", tmp_path / "ws")


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 7), (np.int16, -2), (np.float32, -2), (np.int16, 256)])
def test_undeclared_label(decathlon, converted, tmp_path, dtype, value):
    labels = labels_of(SHAPE, [1], 0).astype(dtype)
    labels[0, 0, 0] = value
    save(decathlon / "labelsTr" / "spleen_10.nii.gz", labels)
    refused(
        converted, Decathlon(), decathlon, "spleen_10.nii.gz", "labels [0, 1]", f"undeclared [{value}]", tmp_path / "ws"
    )


def test_interpolated_label(decathlon, converted, tmp_path):
    labels = labels_of(SHAPE, [1], 0).astype(np.float32)
    labels[0, 0, 0] = 0.5
    save(decathlon / "labelsTr" / "spleen_10.nii.gz", labels)
    refused(converted, Decathlon(), decathlon, "spleen_10.nii.gz", "integral label values", "0.5", tmp_path / "ws")


def test_image_with_too_many_channels(decathlon, converted, tmp_path):
    save(decathlon / "imagesTr" / "spleen_2.nii.gz", np.ones((*SHAPE, 3), np.int16))
    refused(
        converted, Decathlon(), decathlon, "spleen_2.nii.gz", "1 channel", "3 along the fourth axis", tmp_path / "ws"
    )


@pytest.mark.parametrize("value", [0, np.nan])
def test_spacing_that_cannot_be(decathlon, converted, tmp_path, value):
    path = decathlon / "imagesTr" / "spleen_2.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[88:92] = struct.pack("<f", value)  # pixdim[3]
    path.write_bytes(gzip.compress(bytes(content)))
    refused(converted, Decathlon(), decathlon, path.name, "positive spacing", str(float(value)), tmp_path / "ws")


@pytest.mark.parametrize("adapter", [Acdc(), Decathlon()])
def test_unknown_layout(adapter, converted, tmp_path):
    source = tmp_path / "holiday"
    save(source / "scans" / "me.nii.gz", np.ones(SHAPE, np.int16))
    refused(converted, adapter, source, "holiday", "looked", "scans", tmp_path / "ws")


@pytest.mark.parametrize("adapter", [Acdc(), Decathlon()])
def test_source_that_is_not_there(adapter, converted, tmp_path):
    refused(converted, adapter, tmp_path / "nowhere", "nowhere", "unpacked download", "no such folder", tmp_path / "ws")
    (tmp_path / "ACDC.zip").write_bytes(b"PK")
    refused(converted, adapter, tmp_path / "ACDC.zip", "ACDC.zip", "unpacked download", "a file", tmp_path / "ws")


def test_the_other_challenges_download(acdc, decathlon, converted, tmp_path):
    refused(converted, Decathlon(), acdc, "database", "a Decathlon task", "testing, training", tmp_path / "ws")
    refused(
        converted, Acdc(), decathlon, "Task09_Spleen", "ACDC: patientNNN", "dataset.json, imagesTr", tmp_path / "ws"
    )


def test_half_copied_acdc_frame_missing(acdc, converted, tmp_path):
    name = "patient004_frame09.nii.gz"
    (acdc / "training" / "patient004" / name).unlink()
    refused(converted, Acdc(), acdc, name, "the ES frame that Info.cfg names", "there: frame 01", tmp_path / "ws")


def test_half_copied_acdc_frame_missing_in_a_test_patient(acdc, converted, tmp_path):
    name = "patient102_frame01.nii.gz"
    (acdc / "testing" / "patient102" / name).unlink()
    refused(converted, Acdc(), acdc, name, "the ED frame that Info.cfg names", "there: frame 09", tmp_path / "ws")
    with pytest.raises(InvalidData, match="patient102_frame01"):
        Acdc().test_cases(acdc / "testing", 1)


def test_half_copied_acdc_empty_patient(acdc, converted, tmp_path):
    (acdc / "training" / "patient005").mkdir()
    refused(
        converted, Acdc(), acdc, "patient005", "Info.cfg with ED and ES", "0 frames and no Info.cfg", tmp_path / "ws"
    )


@pytest.mark.parametrize("folder", ["imagesTr", "imagesTs"])
def test_half_copied_decathlon_listed_files_missing(decathlon, converted, tmp_path, folder):
    files = sorted((decathlon / folder).glob("spleen*"))
    for path in files[-1:]:
        path.unlink()
    refused(
        converted,
        Decathlon(),
        decathlon,
        files[-1].name,
        "image files that dataset.json lists",
        "1 not there",
        tmp_path / "ws",
    )


def test_half_copied_decathlon_without_dataset_json(decathlon, converted, tmp_path):
    (decathlon / "dataset.json").unlink()
    refused(converted, Decathlon(), decathlon, "dataset.json", "beside imagesTr", "no such file", tmp_path / "ws")


def test_half_copied_decathlon_with_half_a_dataset_json(decathlon, converted, tmp_path):
    truncate(decathlon / "dataset.json")
    refused(converted, Decathlon(), decathlon, "dataset.json", "valid JSON", "", tmp_path / "ws")


def test_half_copied_decathlon_without_images(decathlon, converted, tmp_path):
    shutil.rmtree(decathlon / "imagesTr")
    refused(converted, Decathlon(), decathlon, "imagesTr", "beside dataset.json", "no such folder", tmp_path / "ws")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("modality", ["CT"], "modality as"),
        ("labels", {"spleen": 1}, "labels as"),
        ("training", [], "training as a list"),
        ("training", ["./imagesTr/spleen_2.nii.gz"], "training as a list"),
        (
            "training",
            [{"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_4.nii.gz"}],
            "the label of spleen_2.nii.gz",
        ),
        (
            "training",
            [{"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_2.nii.gz"}] * 2,
            "each file listed once",
        ),
    ],
)
def test_garbled_dataset_json(decathlon, converted, tmp_path, key, value, expected):
    file = decathlon / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    refused(converted, Decathlon(), decathlon, "dataset.json", expected, "", tmp_path / "ws")
