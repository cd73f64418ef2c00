"""Drawn cases and single channels of cases: the same voxels whatever file they are put into."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.channels import put_channel, write_image
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.phantom import AIR_CT, Look, draw_phantom
from nnunet_box.dataset.volumes import read_volume, write_nifti
from nnunet_box.errors import UsageError
from nnunet_box.inference.trial import draw_cases, median_grid
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.planner import make_plan
from nnunet_box.preprocessing.crop import bounding_box, nonzero_mask

SHAPE = (6, 24, 20)
GRID = Geometry(SHAPE, (3.0, 1.5, 0.7), (-10.0, 20.5, 3.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))


def test_air_around_the_body_is_cropped_and_the_body_is_not():
    image = draw_phantom(SHAPE, [Look(), Look()], 3)
    assert image.shape == (2, *SHAPE)
    box = bounding_box(nonzero_mask(image))
    assert box[0] == (0, SHAPE[0])
    assert 0 < box[1][0] < 4
    inside = image[:, :, SHAPE[1] // 2, SHAPE[2] // 2]
    assert np.all(inside != 0)


def test_intensities_are_those_asked_for_and_whole_numbers():
    (image,) = draw_phantom((20, 60, 60), [Look(40, 30, AIR_CT)], 0)
    assert image.min() == AIR_CT
    body = image[image > AIR_CT]
    assert abs(body.mean() - 40) < 30
    assert 5 < body.std() < 60
    assert np.array_equal(image, np.rint(image))


def test_the_same_arguments_draw_the_same_and_another_seed_another():
    first, again, other = (draw_phantom(SHAPE, [Look()], seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("shape", "looks"), [((0, 4, 4), [Look()]), (SHAPE, [])])
def test_nothing_cannot_be_drawn(shape, looks):
    with pytest.raises(ValueError, match="a phantom of shape"):
        draw_phantom(shape, looks, 0)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8, np.int64, np.float64])
def test_voxels_and_grid_survive_both_formats(tmp_path, name, dtype):
    array = (np.random.default_rng(0).random(SHAPE) * 200).astype(dtype)
    write_image(tmp_path / name, array, GRID)
    volume = read_volume(tmp_path / name)
    assert np.allclose(volume.array, array, rtol=1e-6)
    assert np.allclose(volume.geometry.affine_ras(), GRID.affine_ras(), atol=1e-5)
    assert volume.array.dtype.kind == np.dtype(dtype).kind


def test_a_channel_of_a_file_with_four_axes(tmp_path):
    import nibabel

    both = np.stack([np.full(SHAPE, 3, np.int16), np.full(SHAPE, 7, np.int16)])
    nibabel.save(nibabel.Nifti1Image(both.transpose(3, 2, 1, 0), np.eye(4)), tmp_path / "both.nii.gz")
    channels = tuple(ChannelFile(tmp_path / "both.nii.gz", index) for index in (0, 1))
    for name in ("one.nii.gz", "one.mha"):
        put_channel(SourceCase("a", "a", channels), 1, tmp_path / name)
        assert np.all(read_volume(tmp_path / name).array == 7)


def test_a_copy_is_no_second_name_of_the_source(tmp_path):
    """Whoever makes the copy readable for a container must not change the person's own file."""
    write_nifti(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.int16), GRID)
    put_channel(SourceCase("a", "a", (ChannelFile(tmp_path / "a.nii.gz"),)), 0, tmp_path / "copy.nii.gz")
    assert (tmp_path / "copy.nii.gz").read_bytes() == (tmp_path / "a.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").stat().st_nlink == 1
    with pytest.raises(UsageError):
        write_image(tmp_path / "a.nrrd", np.zeros(SHAPE), GRID)


def test_drawn_cases_are_of_the_plans_median_size(tmp_path):
    fingerprint = Fingerprint(
        spacings=((3.0, 1.0, 1.0),),
        sizes=((12, 40, 32),),
        cases=5,
        modalities=("T1", "T2"),
        foreground_classes=1,
        size_after_crop_ratio=1.0,
    )
    plan = make_plan(fingerprint, "small", {0: "background", 1: "a"})
    cases = draw_cases(plan, tmp_path, 2)
    assert [case.id for case in cases] == ["drawn_0", "drawn_1"]
    for case in cases:
        assert len(case.channels) == 2
        geometry = read_volume(case.reference_file).geometry
        assert (geometry.shape, geometry.spacing) == ((12, 40, 32), (3.0, 1.0, 1.0))
    assert median_grid(plan).shape == (12, 40, 32)
