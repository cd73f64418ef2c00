"""Resampling against scipy's own zoom, and labels against a brute-force arg-max."""

from __future__ import annotations

import numpy as np
import pytest
from batchgenerators.augmentations.utils import resize_segmentation
from scipy import ndimage

from nnunet_box.preprocessing import resample
from nnunet_box.preprocessing.axis_weights import axis_matrix
from nnunet_box.preprocessing.resample import (
    axis_orders,
    low_resolution_axis,
    resample_image,
    resample_labels,
    resample_slab,
    resampled_shape,
    slabs,
)


def zoom(volume: np.ndarray, target: tuple[int, ...], order: int) -> np.ndarray:
    factors = [new / old for new, old in zip(target, volume.shape, strict=True)]
    return ndimage.zoom(volume, factors, order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("target", [(9, 30, 25), (20, 11, 40), (9, 17, 25)])
def test_equals_the_tensor_product_spline(order: int, target: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).normal(size=(13, 17, 19)).astype(np.float32)
    ours = resample_image(volume[None], target, (order, order, order))[0]
    np.testing.assert_allclose(ours, zoom(volume.astype(np.float64), target, order), atol=2e-5)


def test_nearest_axis_takes_whole_slices() -> None:
    volume = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 6, 6), np.float32)
    ours = resample_image(volume[None], (8, 12, 6), (0, 3, 3))[0]
    np.testing.assert_allclose(ours[:, 3, 3], [0, 0, 1, 1, 2, 2, 3, 3], atol=1e-5)


def test_rows_sum_to_one() -> None:
    for order in (0, 1, 3):
        np.testing.assert_allclose(axis_matrix(13, 29, order).sum(axis=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="order 2"):
        axis_matrix(3, 4, 2)


def brute_force(labels: np.ndarray, target: tuple[int, int, int], orders: tuple[int, int, int]) -> np.ndarray:
    values = np.arange(labels.max() + 1)
    shares = np.stack(
        [resample_image((labels == value).astype(np.float32)[None], target, orders)[0] for value in values]
    )
    shares[0] -= 1e-5  # foreground wins a tie with background
    return (len(values) - 1 - shares[::-1].argmax(axis=0)).astype(np.uint8)


@pytest.mark.parametrize("orders", [(1, 1, 1), (0, 1, 1)])
@pytest.mark.parametrize("slab_voxels", [10**9, 1000])
def test_labels_get_the_largest_share(
    orders: tuple[int, int, int], slab_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resample, "SLAB_VOXELS", slab_voxels)
    random = np.random.default_rng(1)
    labels = ndimage.zoom(random.integers(0, 4, (4, 5, 6)), (3, 4, 4), order=0).astype(np.uint8)
    target = (17, 31, 19)
    assert len(list(slabs(target))) == (1 if slab_voxels > 10**6 else 17)
    ours = resample_labels(labels, target, orders)
    expected = brute_force(labels, target, orders)
    assert (ours != expected).mean() < 2e-4  # float32 ties


def test_no_gap_between_touching_labels() -> None:
    labels = np.repeat(np.array([1, 2, 3], np.uint8), 4)[None, None].repeat(6, 0).repeat(6, 1)
    assert resample_labels(labels, (7, 9, 17), (1, 1, 1)).min() == 1


def test_a_label_absent_stays_absent_and_255_is_a_label() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[2:4, 2:4, 2:4] = 255
    assert set(np.unique(resample_labels(labels, (12, 12, 12), (1, 1, 1)))) == {0, 255}


def test_slab_equals_the_whole() -> None:
    volume = np.random.default_rng(2).random((7, 9, 8)).astype(np.float32)
    whole = resample_image(volume[None], (23, 12, 15), (1, 1, 1))[0]
    for start, stop in ((0, 5), (5, 22), (22, 23)):
        part = resample_slab(volume, (23, 12, 15), (1, 1, 1), slice(start, stop))
        np.testing.assert_allclose(part, whole[start:stop], atol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((10.0, 1.5, 1.5), (10.0, 1.5, 1.5), 0),
        ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 4.0), (1.0, 1.0, 1.0), 2),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),
        ((4.0, 4.0, 1.0), (1.0, 1.0, 1.0), None),
        ((1.0, 1.0, 4.0), (5.0, 1.0, 1.0), 2),
    ],
)
def test_which_axis_is_taken_apart(spacing: tuple[float, ...], target: tuple[float, ...], axis: int | None) -> None:
    assert low_resolution_axis(spacing, target) == axis
    expected = tuple(0 if index == axis else 3 for index in range(3))
    assert axis_orders(spacing, target, 3) == expected


def test_new_shape_rounds_and_never_vanishes() -> None:
    assert resampled_shape((10, 256, 216), (10.0, 1.3671875, 1.3671875), (10.0, 1.5625, 1.5625)) == (10, 224, 189)
    assert resampled_shape((1, 2, 2), (1.0, 1.0, 1.0), (9.0, 1.0, 1.0)) == (1, 2, 2)


@pytest.mark.parametrize("target", [(28, 52, 60), (7, 13, 15), (24, 31, 33), (14, 39, 45)])
def test_ties_may_go_to_the_nearest_voxel_as_in_nnunet_v2(target: tuple[int, int, int]) -> None:
    """Random labels, so that ties of two and more are everywhere; where nearest is not among them, rounding decides."""
    labels = np.random.default_rng(0).integers(0, 4, (14, 26, 30)).astype(np.uint8)
    expected = resize_segmentation(labels.astype(float), target, 1)
    assert np.mean(resample_labels(labels, target, (1, 1, 1), nearest_ties=True) != expected) < 1e-3
    assert np.mean(resample_labels(labels, target, (1, 1, 1)) != expected) > 1e-3
