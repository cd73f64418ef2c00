"""Volumes that were found to end in a traceback, in silence or in all memory: each is refused with its file named."""

from __future__ import annotations

import gzip
import struct
import warnings
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_box.dataset.forms import form_problems
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import read_header, read_volume, write_nifti
from nnunet_box.errors import InvalidData

GRID = Geometry((3, 4, 5), (2.5, 0.8, 0.7))
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
DIM, DATATYPE, BITPIX, PIXDIM, FORMS, QUATERNION = 40, 70, 72, 76, 252, 256
"""Where NIfTI-1 keeps them."""


def nifti(tmp_path, *fields, name="a.nii.gz", voxels=VOXELS):
    """A good file with fields put into its header."""
    path = tmp_path / name
    write_nifti(path, voxels, Geometry(voxels.shape, GRID.spacing))
    raw = bytearray(gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes())
    for at, layout, *values in fields:
        struct.pack_into(layout, raw, at, *values)
    path.write_bytes(gzip.compress(bytes(raw)) if name.endswith(".gz") else bytes(raw))
    return path


def refused(path, match):
    with pytest.raises(InvalidData, match=match) as raised:
        read_volume(path)
    assert raised.value.file == path


@pytest.mark.parametrize("code", [10, 9999, -1])
def test_a_type_nobody_knows(tmp_path, code):
    refused(nifti(tmp_path, (DATATYPE, "<h", code)), f"datatype {code}")


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.complex128, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])], ids=str
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_voxels_that_are_several_numbers(tmp_path, dtype, name):
    path = tmp_path / name
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), dtype), np.eye(4), dtype=dtype), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(path, "one number each")


def test_a_claim_made_small_by_the_bits_of_a_voxel(tmp_path):
    fields = (DIM, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1), (BITPIX, "<h", 0)
    refused(nifti(tmp_path, *fields), "a header that claims")


def test_a_header_of_another_length_that_claims_much(tmp_path):
    fields = (0, "<i", -1), (DIM, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1)
    refused(nifti(tmp_path, *fields), "sizeof_hdr|do not open")
    refused(nifti(tmp_path, (0, "<i", -1), name="b.nii"), "sizeof_hdr")


def test_a_quaternion_that_is_no_rotation_beside_an_sform(tmp_path):
    path = nifti(tmp_path, (QUATERNION, "<3f", 0.9, 0.9, 0.9))
    geometry, _, header = read_header(path)
    assert form_problems(geometry, header) == ["qform and sform disagreed; both set from sform"]


def test_damage_that_keeps_the_length_is_seen_when_a_case_is_read(tmp_path):
    # Long enough for its end not to be reached with the header.
    noise = np.random.default_rng(0).integers(0, 900, (20, 60, 60)).astype(np.int16)
    path = nifti(tmp_path, voxels=noise)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum
    path.write_bytes(content)
    refused(path, "CRC|corrupt")
    whole = gzip.decompress(nifti(tmp_path, name="b.nii.gz", voxels=noise).read_bytes())
    other = bytearray(whole)
    other[-1] ^= 1
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(bytes(other)) + packer.flush()
    (tmp_path / "b.nii.gz").write_bytes(packed[:-8] + struct.pack("<II", zlib.crc32(whole), len(whole)))
    refused(tmp_path / "b.nii.gz", "CRC|corrupt")


def test_a_compressed_file_reads_as_an_uncompressed_one(tmp_path):
    for scale in ((1.0, 0.0), (2.0, -3.0)):
        for dtype in (np.int16, np.float32, ">i2", np.uint8):
            image = nibabel.Nifti1Image(VOXELS.astype(dtype).T, np.eye(4))
            image.header.set_slope_inter(*scale)
            for name in ("c.nii", "c.nii.gz"):
                nibabel.save(image, tmp_path / name)
            plain, packed = (read_volume(tmp_path / name).array for name in ("c.nii", "c.nii.gz"))
            assert plain.dtype == packed.dtype and np.array_equal(plain, packed)


def nrrd(path, voxels=VOXELS, compressed=True, **lines):
    image = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    head, _, rest = path.read_bytes().partition(b"\n\n")
    kept = [line for line in head.decode().split("\n") if line.partition(":")[0] not in lines]
    kept += [f"{key}: {value}" for key, value in lines.items() if value is not None]
    path.write_bytes("\n".join(kept).encode() + b"\n\n" + rest)
    return path


def test_nrrd_of_several_numbers_a_voxel(tmp_path):
    refused(nrrd(tmp_path / "a.nrrd", np.zeros((3, 4, 5, 3), np.uint8)), "one number each")
    complex_image = sitk.GetImageFromArray(VOXELS.astype(np.complex64))
    sitk.WriteImage(complex_image, str(tmp_path / "b.nrrd"))
    refused(tmp_path / "b.nrrd", "one number each")


@pytest.mark.parametrize("compressed", [True, False])
def test_nrrd_that_claims_more_than_it_holds(tmp_path, compressed):
    path = nrrd(tmp_path / "a.nrrd", compressed=compressed, sizes="20000 20000 20000")
    refused(path, "a header that claims 16000000000000 bytes")


def test_nrrd_cut_short_by_less_than_its_header(tmp_path):
    path = nrrd(tmp_path / "a.nrrd", compressed=False)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "ends early")


def test_nrrd_whose_stream_is_damaged(tmp_path):
    path = nrrd(tmp_path / "a.nrrd")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(path, "ends early")
    path.write_bytes(content[:-8] + bytes(8))
    refused(path, "incorrect data check|whole gzip stream")


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ({"encoding": "bzip2"}, "an encoding of raw"),
        ({"space directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "NRRD|ITK|spacing|directions"),
        ({"space directions": "(1,0,0) (1,0,0) (0,0,1)"}, "ITK|directions"),
        ({"space origin": "(nan,0,0)"}, "ITK|origin"),
    ],
)
def test_nrrd_headers_that_say_nothing_of_space(tmp_path, lines, match):
    refused(nrrd(tmp_path / "a.nrrd", **lines), match)
