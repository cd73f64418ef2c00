"""What a batch holds, and that augmentation keeps to its ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import Recipe
from nnunet_box.preprocessing.store import open_case, write_case
from nnunet_box.training.augmentation import FoldDepthIntoChannels, SpatialRanges, ZeroOutside, build_augmentation
from nnunet_box.training.batches import BatchSet, BatchSource, batch_loader
from nnunet_box.training.patches import forced_foreground, patch_start, read_patch, slice_with_foreground
from tests.training.toys import SLICES, VOLUME, toy_case, toy_store

FLAT = VOLUME.model_copy(update={"in_plane_augmentation": True})


@pytest.mark.parametrize(
    ("batch", "forced"), [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (9, 3), (12, 4), (40, 13), (50, 16)]
)
def test_about_a_third_is_guaranteed_foreground(batch: int, forced: int) -> None:
    flags = forced_foreground(batch)
    assert len(flags) == batch
    assert sum(flags) == forced
    assert flags == sorted(flags), "the last samples, as in the authors' code"


def test_forced_patches_hold_foreground_of_every_class(tmp_path: Path) -> None:
    case = open_case(tmp_path, toy_store(tmp_path, 1)[0])
    random = np.random.default_rng(0)
    centres = set()
    for _ in range(60):
        patch = read_patch(case, patch_start(case, (4, 6, 6), True, random), (4, 6, 6))
        assert (patch.labels > 0).any()
        centres.update(np.unique(patch.labels[patch.labels > 0]))
    assert centres == {1, 2}


def test_patches_stay_inside_or_surround_the_case(tmp_path: Path) -> None:
    case = open_case(tmp_path, toy_store(tmp_path, 1)[0])
    random = np.random.default_rng(0)
    for _ in range(50):
        start = patch_start(case, (4, 30, 18), False, random)
        assert 0 <= start[0] <= 6
        assert -10 <= start[1] <= 0
        assert start[2] == 0
    patch = read_patch(case, (0, -5, 0), (10, 30, 18))
    assert (patch.labels[:, :5] == -1).all() and (patch.labels[:, 25:] == -1).all()
    assert not patch.image[:, :, :5].any()
    np.testing.assert_array_equal(patch.image[:, :, 5:25], case.image[:])


def test_slices_with_foreground_have_some(tmp_path: Path) -> None:
    case = open_case(tmp_path, toy_store(tmp_path, 1)[0])
    random = np.random.default_rng(0)
    for _ in range(40):
        assert (case.labels[slice_with_foreground(case, random)] > 0).any()


CPU = torch.device("cpu")


def source(folder: Path, configuration: Configuration, names: list[str], **changes: object) -> BatchSource:
    values = {
        "store": folder,
        "cases": tuple(names),
        "configuration": configuration,
        "batch_size": configuration.batch_size,
        "mask_image": False,
        "seed": 1,
        "fold": 0,
        "classes": 3,
    }
    return BatchSource(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("configuration", [VOLUME, SLICES])
def test_batches_have_the_patch_and_integral_labels(tmp_path: Path, configuration: Configuration) -> None:
    batches = BatchSet(source(tmp_path, configuration, toy_store(tmp_path, 3)))
    forced = sum(forced_foreground(configuration.batch_size))
    for number in range(12):
        image, labels = batches[number]
        assert image.shape == (configuration.batch_size, 1, *configuration.patch_size)
        assert labels.shape == (configuration.batch_size, *configuration.patch_size)
        assert image.dtype == torch.float32 and labels.dtype == torch.int64
        assert set(labels.unique().tolist()) <= {0, 1, 2}
        assert torch.isfinite(image).all()
        assert int((labels[-forced:].flatten(1) > 0).any(1).sum()) == forced


def test_a_batch_follows_from_its_number_alone(tmp_path: Path) -> None:
    names = toy_store(tmp_path, 3)
    first = [BatchSet(source(tmp_path, VOLUME, names))[number] for number in (4, 0, 2)]
    again = list(batch_loader([source(tmp_path, VOLUME, names)], [(0, 4), (0, 0), (0, 2)], 0, CPU))
    for (image, labels), (image_again, labels_again) in zip(first, again, strict=True):
        assert torch.equal(image, image_again) and torch.equal(labels, labels_again)
    for change in ({"seed": 2}, {"fold": 1}, {"purpose": 1}):
        other = BatchSet(source(tmp_path, VOLUME, names, **change))[4][0]
        assert not torch.equal(first[0][0], other)


def test_every_voxel_of_a_case_is_trained_on_in_spite_of_the_margin(tmp_path: Path) -> None:
    """What is read is larger than the patch; it is the patch in its middle that must reach the borders."""
    shape = (10, 40, 36)
    prepared = toy_case(0, shape)
    prepared.image[0] = 5 + np.indices(shape)[1]
    write_case(tmp_path, "ramp", prepared, (8, 16, 16))
    batches = BatchSet(source(tmp_path, VOLUME, ["ramp"]))
    batches.transform = lambda **batch: batch
    margin = batches.margin
    seen = set()
    for number in range(60):
        image, _ = batches[number]
        middle = image[:, 0, margin[0] : margin[0] + 8, margin[1] : margin[1] + 16, margin[2] : margin[2] + 16]
        assert middle.min() >= 5, "the patch itself stays inside the case"
        seen.update(middle.unique().tolist())
    assert seen == set(range(5, 45))


@pytest.mark.slow
def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    names = toy_store(tmp_path, 3)
    keys = [(0, number) for number in range(5)]
    alone = list(batch_loader([source(tmp_path, VOLUME, names)], keys, 0, CPU))
    helped = list(batch_loader([source(tmp_path, VOLUME, names)], keys, 2, CPU))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, helped, strict=True))


def test_source_patch_covers_the_rotated_and_shrunk_patch() -> None:
    anisotropic = VOLUME.model_copy(update={"patch_size": (8, 32, 24), "in_plane_augmentation": True})
    assert SpatialRanges.of(anisotropic).source_size()[0] == 8
    assert min(SpatialRanges.of(anisotropic).source_size()[1:]) >= np.ceil(np.hypot(32, 24) / 0.85)
    assert SpatialRanges.of(VOLUME).rotation == pytest.approx(np.deg2rad(15))
    assert SpatialRanges.of(SLICES).rotation == pytest.approx(np.pi)
    elongated = SLICES.model_copy(update={"patch_size": (32, 16)})
    assert SpatialRanges.of(elongated).rotation == pytest.approx(np.deg2rad(15))
    for configuration in (VOLUME, SLICES, elongated):
        sizes = zip(SpatialRanges.of(configuration).source_size(), configuration.patch_size, strict=True)
        assert all(read > kept for read, kept in sizes)


def test_in_plane_augmentation_never_mixes_slices() -> None:
    configuration = VOLUME.model_copy(update={"patch_size": (8, 16, 16), "in_plane_augmentation": True})
    transform = build_augmentation(configuration, mask_image=False)
    size = SpatialRanges.of(configuration).source_size()
    # Each slice carries its own number; a mirrored depth reverses them, nothing else may change them.
    slices = np.arange(1, 9, dtype=np.float32)[:, None, None] * np.ones(size, np.float32)
    np.random.seed(0)
    for _ in range(10):
        batch = transform(data=np.stack([slices[None]] * 2), seg=np.zeros((2, 1, *size), np.float32))
        centre = batch["data"][:, 0, :, 6:10, 6:10]
        spread = centre.max(axis=(2, 3)) - centre.min(axis=(2, 3))
        assert spread.max() < 0.2
        order = np.argsort(centre.mean(axis=(2, 3)), axis=1)
        assert all(list(one) in (list(range(8)), list(range(8))[::-1]) for one in order)


def test_every_kind_of_augmentation_happens() -> None:
    transform = build_augmentation(VOLUME, mask_image=False)
    size = SpatialRanges.of(VOLUME).source_size()
    image = np.random.default_rng(0).normal(size=(1, 1, *size)).astype(np.float32)
    start = [(a - b) // 2 for a, b in zip(size, VOLUME.patch_size, strict=True)]
    window = tuple(slice(first, first + edge) for first, edge in zip(start, VOLUME.patch_size, strict=True))
    plain = np.sort(image[0, 0][window].ravel())
    np.random.seed(1)
    mirrored = resampled = 0
    for _ in range(60):
        data = transform(data=image.copy(), seg=np.zeros_like(image))["data"][0, 0]
        if np.allclose(np.sort(data.ravel()), plain):
            mirrored += not np.array_equal(data, image[0, 0][window])
        else:
            resampled += 1
    # Nothing but mirroring: (1 - 0.2)^3 * 0.7 = 0.36 of samples, 7 in 8 of them flipped.
    assert 8 <= mirrored <= 34
    assert resampled >= 25


def test_outside_becomes_background_and_the_image_zero_only_under_a_mask() -> None:
    labels = np.array([[-1, 0, 2]], np.float32)[None]
    image = np.ones((1, 1, 3), np.float32)[None]
    for mask, expected in ((True, [0, 1, 1]), (False, [1, 1, 1])):
        batch = ZeroOutside(mask)(data=image[0].copy()[None], seg=labels[0].copy()[None])
        assert batch["data"].ravel().tolist() == expected
        assert batch["seg"].ravel().tolist() == [0, 0, 2]


def test_folding_depth_is_undone() -> None:
    fold = FoldDepthIntoChannels(lambda **batch: batch)
    data = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    assert np.array_equal(fold(data=data.copy(), seg=data[:, :1].copy())["data"], data)


@pytest.mark.parametrize(
    ("configuration", "alpha", "rotation"),
    [(VOLUME, (0, 900), np.deg2rad(15)), (SLICES, (0, 200), np.pi), (FLAT, (0, 200), np.pi)],
)
def test_ranges_and_probabilities_are_those_of_the_2019_code(
    configuration: Configuration, alpha: tuple[int, int], rotation: float
) -> None:
    spatial, gamma, mirror, _ = build_augmentation(configuration, mask_image=False).transforms
    if configuration is FLAT:
        spatial = spatial.transform
    assert spatial.do_elastic_deform and spatial.alpha == alpha and spatial.sigma == (9, 13)
    assert spatial.angle_x == spatial.angle_y == spatial.angle_z == pytest.approx((-rotation, rotation))
    assert spatial.scale == (0.85, 1.25)
    assert spatial.p_el_per_sample == spatial.p_scale_per_sample == spatial.p_rot_per_sample == 0.2
    assert (spatial.order_data, spatial.order_seg) == (3, 1)
    assert (spatial.border_cval_data, spatial.border_cval_seg) == (0, -1)
    assert gamma.gamma_range == (0.7, 1.5) and gamma.p_per_sample == 0.3 and gamma.retain_stats and gamma.per_channel
    assert sorted(mirror.axes) == list(range(len(configuration.patch_size)))


def test_all_flips_occur() -> None:
    transform = build_augmentation(VOLUME, False, Recipe(augmentation="none"))
    image = np.arange(8 * 16 * 16, dtype=np.float32).reshape(1, 1, 8, 16, 16)
    np.random.seed(0)
    seen = {float(transform(data=image.copy(), seg=np.zeros_like(image))["data"][0, 0, 0, 0, 0]) for _ in range(100)}
    assert seen == {float(corner) for corner in image[0, 0, ::7, ::15, ::15].ravel()}
