"""Reading and writing volumes: axes, spacing, types, and files that are not what they say."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.untrusted import check_gzip
from nnunet_box.dataset.volumes import (
    is_volume,
    read_header,
    read_volume,
    save_nifti,
    strip_suffix,
    write_labels_like,
    write_nifti,
)
from nnunet_box.errors import InvalidData, UsageError

GRID = Geometry((3, 4, 5), (2.5, 0.8, 0.7), (10.0, -20.0, 30.0))
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def test_round_trip_keeps_axes_spacing_and_origin(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", VOXELS, GRID)
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.array, VOXELS)
    assert volume.array.dtype == np.int16
    assert volume.geometry.shape == GRID.shape
    assert volume.geometry.spacing == pytest.approx(GRID.spacing)
    assert volume.geometry.origin == pytest.approx(GRID.origin)


def test_itk_agrees_on_where_voxels_lie(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", VOXELS, GRID)
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert image.GetSpacing() == pytest.approx(GRID.spacing[::-1])
    assert image.GetOrigin() == pytest.approx(GRID.origin)
    assert image.GetDirection() == pytest.approx(GRID.direction)
    assert np.array_equal(sitk.GetArrayFromImage(image), VOXELS)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_other_formats_read_the_same(tmp_path, suffix):
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing(GRID.spacing[::-1])
    image.SetOrigin(GRID.origin)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    volume = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(volume.array, VOXELS)
    assert volume.geometry.spacing == pytest.approx(GRID.spacing)
    assert volume.header["format"] == suffix[1:]


def test_channels_on_the_fourth_axis_come_first(tmp_path):
    channels = np.random.default_rng(0).integers(0, 9, (5, 4, 3, 2)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(channels, np.eye(4)), tmp_path / "a.nii.gz")
    assert read_header(tmp_path / "a.nii.gz")[1] == 2
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, channels.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3, 2, 2)])
def test_other_dimensions_are_refused(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(InvalidData, match="3 axes, or 4"):
        read_header(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.int64, np.int32),
        (np.uint64, np.int32),
        (np.bool_, np.uint8),
        (np.uint16, np.uint16),
        (np.float32, np.float32),
    ],
)
def test_types_other_readers_trip_over_are_narrowed(tmp_path, stored, written):
    values = (VOXELS % 2).astype(stored)
    save_nifti(tmp_path / "a.nii.gz", values, GRID)
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == written
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, values)


def test_integers_beyond_32_bits_become_floats(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", VOXELS.astype(np.int64) + (1 << 40), GRID)
    assert nibabel.load(tmp_path / "a.nii.gz").get_data_dtype() == np.float32


def test_affine_that_is_no_affine_gives_the_identity_direction(tmp_path):
    for affine in (np.zeros((4, 4)), np.full((4, 4), np.nan)):
        grid = Geometry.from_affine_ras((3, 4, 5), affine, (1.0, 1.0, 1.0))
        assert np.array_equal(np.reshape(grid.direction, (3, 3)), np.eye(3))
        assert np.all(np.isfinite(grid.affine_ras()))


def test_whole_gzip_passes_and_cut_gzip_does_not(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(4000)))
    check_gzip(path)
    check_gzip(tmp_path / "not-compressed.nii")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InvalidData, match="a whole gzip file"):
        check_gzip(path)


def test_missing_and_foreign_files_are_told_apart(tmp_path):
    with pytest.raises(InvalidData, match="no such file"):
        read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_text("<html>Sign in to download</html>")
    with pytest.raises(InvalidData, match="do not open"):
        read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "a.mha").write_text("<html>")
    with pytest.raises(InvalidData, match="a MetaImage header"):
        read_volume(tmp_path / "a.mha")
    (tmp_path / "a.nrrd").write_text("<html>")
    with pytest.raises(InvalidData, match="an NRRD header"):
        read_volume(tmp_path / "a.nrrd")
    (tmp_path / "a.nrrd").write_text("NRRD0004\ntype: nothing\n\n")
    with pytest.raises(InvalidData, match="an image ITK can read"):
        read_volume(tmp_path / "a.nrrd")


@pytest.mark.parametrize("field", ["data file", "datafile", "Data File"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_nrrd_whose_voxels_are_elsewhere_is_not_followed(tmp_path, field, end):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(60))
    path = tmp_path / "in" / "a.nrrd"
    path.parent.mkdir()
    lines = ("NRRD0004", "type: uint8", "dimension: 3", "sizes: 5 4 3", "encoding: raw", f"{field}: {secret}", "")
    path.write_bytes(end.join(lines).encode())
    with pytest.raises(InvalidData, match="voxels in the file itself; found a header that names another"):
        read_volume(path)
    path.write_bytes(b"NRRD0004\n" + b"#\n" * (1 << 19) + end.join(lines[1:]).encode())
    with pytest.raises(InvalidData, match="an NRRD header"):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "volume"),
    [
        ("a.nii.gz", True),
        ("A.NII.GZ", True),
        ("a.nii", True),
        ("a.mhd", True),
        ("._a.nii.gz", False),
        (".nnbox-tmp-0123abcd-a.nii.gz", False),
        ("__MACOSX/a.nii.gz", False),
        ("a.json", False),
    ],
)
def test_what_counts_as_a_volume(name, volume):
    assert is_volume(Path("folder") / name) == volume


def test_suffixes_are_stripped_whole():
    assert [strip_suffix(Path(name)) for name in ("a.b.nii.gz", "a.nii", "a.mha")] == ["a.b", "a", "a"]


def test_labels_like_a_metaimage(tmp_path):
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing(GRID.spacing[::-1])
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    labels = (VOXELS % 3).astype(np.uint8)
    for name in ("out.mha", "out.nii.gz", "out.mhd"):
        write_labels_like(tmp_path / name, labels, tmp_path / "a.mha")
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array, labels)
        assert volume.geometry.spacing == pytest.approx(GRID.spacing)
    with pytest.raises(UsageError, match="takes its header from a MetaImage"):
        write_labels_like(tmp_path / "from.mhd", labels, tmp_path / "out.nii.gz")
    assert not list(tmp_path.glob("*from*"))
