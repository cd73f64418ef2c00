"""Cases: channels in order, grids that agree, labels that are declared, voxels that are numbers."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_box.dataset.cases import ChannelFile, SourceCase, case_volumes, check_finite, read_image, read_label
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.volumes import save_nifti
from nnunet_box.errors import InvalidData

GRID = Geometry((3, 4, 5), (2.5, 0.8, 0.7))


@pytest.fixture
def write(tmp_path):
    def run(name, array, grid=GRID):
        save_nifti(tmp_path / name, np.asarray(array), grid)
        return tmp_path / name

    return run


def case_of(*files):
    return SourceCase("case", "case", tuple(ChannelFile(file) for file in files))


def test_channels_keep_their_order(write):
    files = [write(f"{index}.nii.gz", np.full(GRID.shape, 10 + index, np.int16)) for index in (0, 1, 2)]
    image, grid = read_image(case_of(*reversed(files)))
    assert image.shape == (3, 3, 4, 5)
    assert image.dtype == np.float32
    assert image[:, 0, 0, 0].tolist() == [12, 11, 10]
    assert grid.spacing == pytest.approx(GRID.spacing)


def test_one_file_twice_is_not_two_channels(write):
    file = write("a.nii.gz", np.zeros(GRID.shape, np.int16))
    with pytest.raises(InvalidData, match="expected 2 channels; found 1 along"):
        read_image(case_of(file, file))


@pytest.mark.parametrize(
    "grid", [Geometry((3, 4, 6), GRID.spacing), Geometry(GRID.shape, (2.5, 0.8, 0.75))], ids=["shape", "spacing"]
)
def test_channels_on_different_grids_are_refused(write, grid):
    one = write("one.nii.gz", np.zeros(GRID.shape, np.int16))
    two = write("two.nii.gz", np.zeros(grid.shape, np.int16), grid)
    with pytest.raises(InvalidData, match=r"two\.nii\.gz.*as one\.nii\.gz"):
        read_image(case_of(one, two))


def test_a_case_without_images_is_refused():
    with pytest.raises(InvalidData, match="at least one channel"):
        case_volumes(case_of())


def test_bad_voxels_are_counted_and_placed():
    array = np.zeros(GRID.shape, np.float32)
    array[1, 2, 3] = array[2, 0, 0] = np.nan
    with pytest.raises(InvalidData, match=r"2 NaN or infinite, the first at \(1, 2, 3\)"):
        check_finite(array, "a.nii.gz")
    check_finite(np.zeros(3, np.int16), "integers.nii.gz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_labels_come_back_as_uint8(write, dtype):
    image = write("image.nii.gz", np.zeros(GRID.shape, np.int16))
    labels = np.random.default_rng(0).integers(0, 3, GRID.shape).astype(dtype)
    read = read_label(write("label.nii.gz", labels), {0, 1, 2}, image)
    assert read.dtype == np.uint8
    assert np.array_equal(read, labels)


@pytest.mark.parametrize(
    ("value", "dtype", "found"),
    [(3, np.uint8, r"undeclared \[3\]"), (-2, np.int16, r"undeclared \[-2\]"), (0.5, np.float32, "0.5")],
)
def test_labels_that_mean_nothing_are_refused(write, value, dtype, found):
    image = write("image.nii.gz", np.zeros(GRID.shape, np.int16))
    labels = np.zeros(GRID.shape, dtype)
    labels[0, 0, 0] = value
    with pytest.raises(InvalidData, match=found):
        read_label(write("label.nii.gz", labels), {0, 1, 2}, image)


def test_label_that_is_not_there(write, tmp_path):
    image = write("image.nii.gz", np.zeros(GRID.shape, np.int16))
    with pytest.raises(InvalidData, match=r"the label of image\.nii\.gz; found no such file"):
        read_label(tmp_path / "label.nii.gz", {0, 1}, image)
