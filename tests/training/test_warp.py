"""Our interpolation moves patches exactly as batchgenerators' does from the same random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from batchgenerators.transforms.spatial_transforms import SpatialTransform
from scipy import ndimage

from nnunet_box.planning.variant import Recipe
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
    assert np.abs(mine["data"] - theirs["data"]).max() < 1e-3 * data.std()
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


def test_displacements_are_smoothed_as_scipy_smooths() -> None:
    noise = np.random.default_rng(0).random((3, 20, 31, 26))
    expected = [ndimage.gaussian_filter(one * 2 - 1, 9.3, mode="constant", cval=0) * 700 for one in noise]
    assert np.abs(displacements(noise, 9.3, 700.0) - expected).max() < 1e-3


def test_a_label_between_three_others_goes_to_the_largest_share() -> None:
    labels = np.array([[0, 1], [2, 2]], dtype=np.float32)
    _, shifted = moved(labels, labels, np.identity(2), np.full((2, 1, 1), 0.0, np.float32), (1, 1))
    assert shifted.item() == 2
