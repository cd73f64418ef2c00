"""Volumes on their way to the browser: every format as NIfTI, with the grid that is read here."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_box.dataset.cases import ChannelFile
from nnunet_box.dataset.volumes import open_volume
from nnunet_box.errors import InvalidData
from nnunet_box.view.voxels import image_stream, labels_stream


def sent(file, index=None):
    stream = image_stream(ChannelFile(file, index), open_volume(file).geometry)
    content = b"".join(stream.parts)
    assert len(content) == stream.length
    return nibabel.Nifti1Image.from_bytes(content)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nii", ".nii.gz"])
def test_every_format_comes_with_its_grid(tmp_path, ending):
    array = np.random.default_rng(1).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.25, 1.5, 7.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    sitk.WriteImage(image, str(tmp_path / "itk.nii.gz"))
    got = sent(tmp_path / f"a{ending}")
    assert np.array_equal(got.get_fdata().T, array) and got.get_data_dtype() == np.int16
    assert np.allclose(got.affine, nibabel.load(tmp_path / "itk.nii.gz").affine, atol=1e-5)


def test_spacing_is_pixdim_s_where_the_affine_says_one_millimetre(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_qform(None, 0)
    image.header["pixdim"][1:4] = 1.5625, 1.5625, 10
    nibabel.save(image, tmp_path / "acdc.nii.gz")
    got = sent(tmp_path / "acdc.nii.gz")
    assert np.allclose(got.header.get_zooms(), (1.5625, 1.5625, 10))
    assert np.allclose(np.abs(np.diag(got.get_sform())[:3]), (1.5625, 1.5625, 10))
    assert np.allclose(got.get_sform(), got.get_qform(), atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (np.uint8, np.uint8), (np.int8, np.int16), (">i2", np.int16), (np.uint16, np.uint16), (np.int32, np.float32),
        (np.uint32, np.float32), (np.int64, np.float32), (np.float64, np.float32), (">f4", np.float32),
    ],
)  # fmt: skip
def test_types_the_viewer_does_not_draw_are_changed_on_the_way(tmp_path, stored, shown):
    array = np.arange(60).reshape(5, 4, 3).astype(stored)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), dtype=np.dtype(stored)), tmp_path / "a.nii")
    got = sent(tmp_path / "a.nii")
    assert got.get_data_dtype() == shown and np.array_equal(got.dataobj, array)


def test_scale_factors_are_applied_and_holes_are_filled(tmp_path):
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert np.allclose(sent(tmp_path / "a.nii.gz").dataobj, nibabel.load(tmp_path / "a.nii.gz").dataobj)
    holes = np.ones((5, 4, 3), np.float32)
    holes[0, 0, 0], holes[1, 0, 0] = np.nan, np.inf
    nibabel.save(nibabel.Nifti1Image(holes, np.eye(4)), tmp_path / "b.nii.gz")
    got = np.asarray(sent(tmp_path / "b.nii.gz").dataobj)
    assert got[0, 0, 0] == got[1, 0, 0] == 0 and got.sum() == 58


def test_one_channel_of_several(tmp_path):
    array = np.arange(120, dtype=np.int16).reshape(5, 4, 3, 2)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    assert np.array_equal(sent(tmp_path / "a.nii.gz", 1).dataobj, array[..., 1])


def test_label_maps_are_bytes_whatever_they_are_stored_as(tmp_path):
    array = (np.arange(60).reshape(5, 4, 3) % 4).astype(np.float64)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    grid = open_volume(tmp_path / "a.nii.gz").geometry
    got = nibabel.Nifti1Image.from_bytes(b"".join(labels_stream(tmp_path / "a.nii.gz", grid).parts))
    assert got.get_data_dtype() == np.uint8 and np.array_equal(got.dataobj, array)
    nibabel.save(nibabel.Nifti1Image(array + 0.5, np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(InvalidData, match="integral"):
        labels_stream(tmp_path / "b.nii.gz", grid)


def test_a_channel_of_another_shape_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 2), np.int16), np.eye(4)), tmp_path / "b.nii.gz")
    with pytest.raises(InvalidData, match=r"\(2, 4, 5\)"):
        image_stream(ChannelFile(tmp_path / "b.nii.gz"), open_volume(tmp_path / "a.nii.gz").geometry)


def test_no_second_copy_of_a_volume_is_made(tmp_path):
    import tracemalloc

    array = np.zeros((200, 256, 256), np.int16)
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), tmp_path / "a.nii")
    grid = open_volume(tmp_path / "a.nii").geometry
    tracemalloc.start()
    sizes = [len(part) for part in image_stream(ChannelFile(tmp_path / "a.nii"), grid).parts]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(sizes) > array.nbytes and most < 1.2 * array.nbytes
