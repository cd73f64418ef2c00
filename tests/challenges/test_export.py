"""Predictions carry the source's header field by field: a scorer that compares headers must find no difference."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest
from tiny_downloads import SHAPE, gunzip, write_decathlon

from nnbox_challenges.acdc import Acdc
from nnbox_challenges.decathlon import Decathlon
from nnunet_box.errors import InvalidData

MAY_DIFFER = {"datatype", "bitpix", "dim", "pixdim", "scl_slope", "scl_inter", "cal_min", "cal_max", "vox_offset"}
SCL_SLOPE = slice(112, 120)
"""Bytes of scl_slope and scl_inter in a NIfTI-1 header; nibabel shows both as NaN once read."""


def raw_header(path):
    content = path.read_bytes()
    return gzip.decompress(content) if path.name.endswith(".gz") else content


def labels(seed=0):
    return np.random.default_rng(seed).integers(0, 2, SHAPE[::-1]).astype(np.uint8)


def same_header(source, written):
    before, after = nibabel.load(source).header, nibabel.load(written).header
    for field in before:
        if field not in MAY_DIFFER:
            assert np.array_equal(before[field], after[field]), field
    assert np.array_equal(before["pixdim"][:4], after["pixdim"][:4])
    assert np.array_equal(before["dim"][1:4], after["dim"][1:4])
    assert after["dim"][0] == 3
    assert np.array_equal(nibabel.load(source).affine, nibabel.load(written).affine)
    assert after.get_data_dtype() == np.uint8
    assert struct.unpack("<2f", raw_header(written)[SCL_SLOPE]) == (1.0, 0.0)


def test_acdc(acdc, tmp_path):
    for case in Acdc().test_cases(acdc, channels=1):
        file = Acdc().export(labels(), case, tmp_path / "out")
        assert file == tmp_path / "out" / f"{case.id}.nii.gz"
        same_header(case.reference_file, file)
        header, source = nibabel.load(file).header, nibabel.load(case.reference_file).header
        assert np.array_equal(header["pixdim"], source["pixdim"])
        assert (int(header["qform_code"]), int(header["sform_code"]), int(header["xyzt_units"])) == (0, 2, 0)
        assert np.allclose(header.get_zooms(), (1.5625, 1.25, 8.0))
        assert np.array_equal(np.asanyarray(nibabel.load(file).dataobj), labels().transpose(2, 1, 0))
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_decathlon(decathlon, tmp_path):
    case = Decathlon().test_cases(decathlon, channels=1)[0]
    file = Decathlon().export(labels(), case, tmp_path)
    assert file.name == "spleen_1.nii.gz"
    same_header(case.reference_file, file)


def test_uncompressed_source_is_still_exported_compressed(decathlon, tmp_path):
    gunzip(decathlon / "imagesTs" / "spleen_1.nii.gz")
    case = Decathlon().test_cases(decathlon, channels=1)[0]
    file = Decathlon().export(labels(), case, tmp_path)
    assert file.name == "spleen_1.nii.gz"
    same_header(case.reference_file, file)


def test_four_dimensional_source_gets_a_three_dimensional_prediction(tmp_path):
    root = write_decathlon(tmp_path / "Task05_Prostate", ["prostate_00"], ["prostate_03"], ("T2", "ADC"), ("PZ", "TZ"))
    (case,) = Decathlon().test_cases(root, channels=2)
    file = Decathlon().export(labels(), case, tmp_path / "out")
    same_header(case.reference_file, file)
    assert nibabel.load(file).shape == SHAPE


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_oblique_scaled_source_with_a_mirrored_axis(decathlon, tmp_path, byte_order):
    rotation = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.1)
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-0.8, 0.9, 2.5])
    affine[:3, 3] = (31.25, -20.5, 100.125)
    header = nibabel.Nifti1Header(endianness=byte_order)
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(0, 1000, SHAPE), affine, header)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"scanner 7"
    image.header["cal_max"] = 900
    path = decathlon / "imagesTs" / "spleen_1.nii.gz"
    nibabel.save(image, path)
    assert struct.unpack(f"{byte_order}2f", raw_header(path)[SCL_SLOPE])[0] != 1.0
    case = Decathlon().test_cases(decathlon, channels=1)[0]
    file = Decathlon().export(labels(), case, tmp_path)
    before, after = nibabel.load(path).header, nibabel.load(file).header
    for field in before:
        if field not in MAY_DIFFER:
            assert np.array_equal(before[field], after[field]), field
    assert np.array_equal(before["pixdim"], after["pixdim"])
    assert np.array_equal(nibabel.load(path).get_qform(), nibabel.load(file).get_qform())
    assert np.array_equal(nibabel.load(path).get_sform(), nibabel.load(file).get_sform())
    assert struct.unpack(f"{byte_order}2f", raw_header(file)[SCL_SLOPE]) == (1.0, 0.0)
    assert float(after["cal_max"]) == 0


def test_labels_of_another_shape_are_refused_and_nothing_is_written(acdc, tmp_path):
    case = Acdc().test_cases(acdc, channels=1)[0]
    with pytest.raises(InvalidData, match=r"labels of shape \(4, 7, 6\)"):
        Acdc().export(labels().transpose(0, 2, 1).copy(), case, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_converted_case_exports_to_the_converted_grid(acdc, converted, tmp_path):
    from nnunet_box.dataset.dataset import load_dataset

    case = load_dataset(converted(Acdc(), acdc)).test_cases[0]
    file = Acdc().export(labels(), case, tmp_path / "out")
    assert file.name == "patient101_ED.nii.gz"
    same_header(case.reference_file, file)
