"""Our interpolation moves patches exactly as batchgenerators' does from the same random numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from batchgenerators.augmentations.utils import interpolate_img
from batchgenerators.transforms.spatial_transforms import SpatialTransform
from scipy import ndimage

from nnunet_box.planning.variant import Recipe
from nnunet_box.training import warp_kernels
from nnunet_box.training.augmentation import FoldDepthIntoChannels, SpatialRanges, build_augmentation
from nnunet_box.training.spatial import WarpTransform
from nnunet_box.training.spline_kernels import EDGE, prefilter
from nnunet_box.training.warp import displacements, warp
from tests.training.toys import SLICES, VOLUME

FLAT = VOLUME.model_copy(update={"in_plane_augmentation": True})


def batch_for(configuration, samples, channels, seed):
    size = SpatialRanges.of(configuration).source_size()
    random = np.random.default_rng(seed)
    data = random.normal(size=(samples, channels, *size)).astype(np.float32)
    noise = ndimage.gaussian_filter(random.normal(size=(samples, 2, *size)), (0, 0, *[2] * len(size)))
    seg = (np.digitize(noise, [-0.05, 0.0, 0.05]) - 1).astype(np.float32)
    return data, seg


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(augmentation="more")], ids=["paper", "more"])
@pytest.mark.parametrize("configuration", [VOLUME, SLICES, FLAT], ids=["3d", "2d", "in-plane"])
def test_the_same_seed_gives_batchgenerators_own_patches(configuration, recipe) -> None:
    """Every combination of deformation, rotation and scaling occurs among 30 samples with a chance of one half each."""
    ours = build_augmentation(configuration, mask_image=False, recipe=recipe).transforms[0]
    inner = ours.transform if isinstance(ours, FoldDepthIntoChannels) else ours
    inner.p_el_per_sample = inner.p_rot_per_sample = inner.p_scale_per_sample = 0.5
    assert type(inner) is WarpTransform
    data, seg = batch_for(configuration, 30, 2, 1)
    np.random.seed(3)
    mine = ours(data=data.copy(), seg=seg.copy())
    state = np.random.get_state()[1].copy()
    # The same object, called as the class it comes from.
    peer = SpatialTransform.__new__(SpatialTransform)
    peer.__dict__.update(inner.__dict__)
    theirs_of = FoldDepthIntoChannels(peer) if isinstance(ours, FoldDepthIntoChannels) else peer
    np.random.seed(3)
    theirs = theirs_of(data=data.copy(), seg=seg.copy())
    assert np.array_equal(np.random.get_state()[1], state)
    assert mine["data"].shape == theirs["data"].shape
    assert np.abs(mine["data"] - theirs["data"]).max() < 3e-5 * data.std()
    assert np.mean(mine["seg"] != theirs["seg"]) < 1e-5
    assert len(np.unique(theirs["seg"])) == 4


def moved(image, labels, affine, offsets, shape, outside=-1):
    """One channel and one label map through ``warp``."""
    patch, patch_labels = np.full((1, *shape), np.nan, np.float32), np.full((1, *shape), 99, labels.dtype)
    warp(image[None], labels[None], affine, offsets, outside, patch, patch_labels)
    return patch[0], patch_labels[0]


@pytest.mark.parametrize(
    "size", [(9, 17, 14), (40, 34, 66), (1, 12, 12), (2, 3, 30), (1, 23, 16), (1, 3, 2), (1, 1, 5)]
)
def test_the_prefilter_is_that_of_scipy(size) -> None:
    images = np.random.default_rng(0).normal(size=(2, *size)).astype(np.float32)
    edges = [EDGE if axis or size[0] > 1 else 0 for axis in range(3)]
    found = np.full((2, *np.add(size, np.multiply(edges, 2))), np.nan, np.float32)
    prefilter(images, np.zeros(3, dtype=np.int64), found)
    for image, coefficients in zip(images, found, strict=True):
        expected = ndimage.spline_filter(image.astype(float), order=3, mode="mirror")
        expected = np.pad(expected, [(edge, edge) for edge in edges], mode="reflect")
        assert np.abs(coefficients - expected).max() < 2e-6 * 6**3


@pytest.mark.parametrize("size", [(12, 17, 14), (1, 12, 12), (2, 3, 30), (23, 16), (40, 2)])
def test_identity_gives_the_image_back(size) -> None:
    image = np.random.default_rng(0).normal(size=size).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 4, size=size).astype(np.int8)
    found, found_labels = moved(image, labels, np.identity(len(size)), None, size)
    assert np.abs(found - image).max() < 1e-5
    assert np.array_equal(found_labels, labels) and found_labels.dtype == np.int8


def test_outside_is_zero_in_the_image_and_the_given_label_in_labels() -> None:
    image = np.ones((8, 8, 8), dtype=np.float32)
    found, labels = moved(image, image, 2 * np.identity(3), None, (8, 8, 8))
    inside = np.zeros((8, 8, 8), dtype=bool)
    inside[2:6, 2:6, 2:6] = True
    assert np.allclose(found[inside], 1) and np.all(found[~inside] == 0)
    assert np.all(labels[inside] == 1) and np.all(labels[~inside] == -1)


@pytest.mark.parametrize("shape", [(20, 31, 26), (40, 24), (24, 300), (300, 24)])
def test_displacements_are_smoothed_as_scipy_smooths(shape) -> None:
    noise = np.random.default_rng(0).random((len(shape), *shape))
    expected = [ndimage.gaussian_filter(one * 2 - 1, 9.3, mode="constant", cval=0) * 700 for one in noise]
    assert np.abs(displacements(noise, shape, 9.3, 700.0) - expected).max() < 1e-4


def test_a_long_axis_is_smoothed_by_blocks_of_the_filter(monkeypatch) -> None:
    """The matrix of an axis of 600 voxels is zero but for 75 to a row."""
    products = []
    matmul = np.matmul

    def counted(left, right, out):
        products.append(2 * left.shape[-1] * out.size)
        return matmul(left, right, out=out)

    monkeypatch.setattr(np, "matmul", counted)
    displacements(np.random.default_rng(0).random((2, 600, 600)), (600, 600), 9.3, 700.0)
    assert sum(products) < 0.25 * 2 * 2 * 2 * 600**3


def test_a_label_between_three_others_goes_to_the_largest_share() -> None:
    labels = np.array([[0, 1], [2, 2]], dtype=np.float32)
    _, shifted = moved(labels, labels, np.identity(2), np.full((2, 1, 1), 0.0, np.float32), (1, 1))
    assert shifted.item() == 2


@pytest.mark.parametrize("shift", [0.5, 0.25])
@pytest.mark.parametrize("size", [(12, 13, 14), (23, 16)])
def test_ties_between_labels_are_broken_as_batchgenerators_breaks_them(size, shift) -> None:
    """Half a voxel aside nearly every voxel is a tie, of up to 8 labels."""
    labels = np.random.default_rng(0).integers(-1, 3, size=size).astype(np.float32)
    patch = tuple(length - 4 for length in size)
    _, found = moved(labels, labels, np.identity(len(size)), np.full((len(size), *patch), shift, np.float32), patch)
    grid = np.stack(np.meshgrid(*(np.arange(length) + 2.0 + shift for length in patch), indexing="ij"))
    assert np.array_equal(found, interpolate_img(labels, grid, 1, "constant", -1, is_seg=True))
    assert len(np.unique(found)) == 4


@pytest.mark.parametrize("size", [(60, 70, 80), (90, 80)])
def test_what_is_read_is_cut_to_the_patch_and_nothing_changes(size, monkeypatch) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=size), 1).astype(np.float32)
    affine = np.random.default_rng(1).normal(0, 0.1, size=(len(size),) * 2) + 0.9 * np.identity(len(size))
    patch = (16,) * len(size)
    taken = []
    monkeypatch.setattr(
        "nnunet_box.training.warp.prefilter", lambda *args: (taken.append(args[2].shape), prefilter(*args))
    )
    found, _ = moved(image, np.zeros(size, np.int8), affine, None, patch)
    assert len(taken) == 1 and max(taken[0][-len(size) :]) < 16 * 1.6 + 2 * 12 + 4 < min(size)
    offset = (np.array(size) - 1) / 2 - affine @ ((np.array(patch) - 1) / 2)
    expected = ndimage.affine_transform(image.astype(float), affine, offset, patch, order=3, mode="constant")
    assert np.abs(found - expected).max() < 1e-5 * image.std()


def test_all_channels_and_label_maps_move_alike() -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 20, 24, 28)).astype(np.float32)
    labels = random.integers(0, 3, size=(2, 20, 24, 28)).astype(np.int8)
    affine, offsets = random.normal(0, 1.5, size=(3, 3)), random.normal(size=(3, 8, 9, 10)).astype(np.float32)
    found, maps = np.empty((3, 8, 9, 10), np.float32), np.empty((2, 8, 9, 10), np.int8)
    warp(images, labels, affine, offsets, -1, found, maps)
    for image, one in zip(images, found, strict=True):
        assert np.array_equal(moved(image, labels[0], affine, offsets, (8, 9, 10))[0], one)
    for label_map, one in zip(labels, maps, strict=True):
        assert np.array_equal(moved(images[0], label_map, affine, offsets, (8, 9, 10))[1], one)
        assert np.array_equal(moved(images[0], label_map.astype(np.float32), affine, offsets, (8, 9, 10))[1], one)
    assert 0.05 < np.mean(maps == -1) < 0.95


@pytest.mark.parametrize(("channels", "maps"), [(1, 1), (4, 2)])
def test_a_position_is_worked_out_once_for_all_channels_and_label_maps(channels, maps, monkeypatch) -> None:
    """The outer loop runs uncompiled here, so that its calls can be counted."""
    rows = []
    positions = warp_kernels._positions
    monkeypatch.setattr(warp_kernels, "_positions", lambda *args: (rows.append(len(args[-1])), positions(*args)))
    monkeypatch.setattr(warp_kernels, "warp", warp_kernels.warp.py_func)
    found, found_maps = np.empty((channels, 4, 5, 6), np.float32), np.empty((maps, 4, 5, 6), np.int8)
    source = (8, 10, 12)
    affine = np.identity(3)
    warp(
        np.ones((channels, *source), np.float32), np.ones((maps, *source), np.int8), affine, None, -1, found, found_maps
    )
    assert sum(rows) == 3 * found[0].size
    assert np.allclose(found, 1) and (found_maps == 1).all()


def peak_bytes(work) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture
def spatial():
    return WarpTransform(
        (32, 32, 32), None, random_crop=False, p_el_per_sample=0, p_rot_per_sample=0, p_scale_per_sample=0
    )


def test_where_nothing_is_drawn_the_middle_is_copied_once_and_no_kernel_runs(spatial, monkeypatch) -> None:
    monkeypatch.setattr("nnunet_box.training.spatial.warp", None)
    monkeypatch.setattr("nnunet_box.training.spatial.displacements", None)
    data, seg = np.ones((2, 1, 48, 48, 48), np.float32), np.ones((2, 1, 48, 48, 48), np.int8)
    patches = 2 * 32**3 * (4 + 1)
    assert peak_bytes(lambda: spatial(data=data, seg=seg)) < 1.1 * patches


def test_memory_of_a_deformation(spatial) -> None:
    """The patches, and of one sample at a time three fields of offsets and the spline's coefficients."""
    spatial.p_el_per_sample, spatial.alpha, spatial.sigma = 1, (0.0, 100.0), (9.0, 13.0)
    data, seg = np.ones((2, 1, 48, 48, 48), np.float32), np.ones((2, 1, 48, 48, 48), np.int8)
    spatial(data=data, seg=seg)
    most = 2 * 32**3 * 5 + 32**3 * 4 * 3 + 50**3 * 4
    assert peak_bytes(lambda: spatial(data=data, seg=seg)) < 1.1 * most
