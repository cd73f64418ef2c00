"""How much resampling does: multiplications, voxels weighed, bytes. Counted, not timed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_box.preprocessing import planes, resample
from nnunet_box.preprocessing.axis_weights import axis_matrix, bands
from nnunet_box.preprocessing.resample import resample_image, resample_labels, resample_slab
from nnunet_box.preprocessing.within_range import resample_within_range

LARGEST_IN_ONE_THREAD = 2**19
"""Multiplications that OpenBLAS does without waking its threads (0.3.31, interface/gemm.c)."""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is counted does not depend on the machine: each thread has planes of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Multiplications of each product of matrices from here on."""
    done: list[int] = []
    whole = np.matmul

    def counting(first: NDArray[Any], second: NDArray[Any], **more: Any) -> NDArray[Any]:
        assert first.dtype == second.dtype == np.float32, "twice the work"
        done.append(first.shape[-2] * first.shape[-1] * second.shape[-1])
        return whole(first, second, **more)

    monkeypatch.setattr(planes.np, "matmul", counting)
    return done


def peak_bytes(work: Callable[[], Any]) -> tuple[int, Any]:
    """The most that is allocated while ``work`` runs, its result included; and that."""
    work()  # matrices are kept
    tracemalloc.start()
    result = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, result


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("source", "target"), [(300, 320), (150, 400), (400, 150), (20, 31), (1, 5), (7, 1)])
def test_bands_are_the_whole_matrix(source: int, target: int, order: int) -> None:
    whole, together = axis_matrix(source, target, order), np.zeros((target, source), np.float32)
    for band in bands(source, target, order):
        together[band.target, band.source] += band.weights
    assert np.abs(whole - together).sum(axis=1).max() < 6e-8, "half a step of float32 below 1"


def test_a_plane_costs_a_fraction_of_dense_products_and_a_nearest_one_is_copied(products: list[int]) -> None:
    image = np.random.default_rng(0).normal(size=(1, 4, 300, 310)).astype(np.float32)
    result = resample_image(image, (8, 320, 330), (0, 3, 3))
    dense = 4 * (320 * 300 * 310 + 320 * 310 * 330)
    assert 0 < sum(products) < dense / 5
    np.testing.assert_array_equal(result[0, ::2], result[0, 1::2])


@pytest.mark.parametrize("target", [(8, 320, 330), (50, 320, 330), (10, 320, 330), (40, 90, 800), (50, 300, 310)])
def test_every_product_is_small_enough_for_one_thread(target: tuple[int, int, int], products: list[int]) -> None:
    resample_image(np.zeros((1, 40, 300, 310), np.float32), target, (3, 3, 3))
    assert products and max(products) <= LARGEST_IN_ONE_THREAD


def test_fewer_planes_are_mixed_first_and_more_last(products: list[int]) -> None:
    """Each in-plane product is done for the fewer planes; other ways round it is done for all of the more."""
    resample_image(np.zeros((1, 60, 100, 100), np.float32), (20, 110, 110), (3, 3, 3))
    fewer = sum(products)
    products.clear()
    resample_image(np.zeros((1, 20, 100, 100), np.float32), (60, 110, 110), (3, 3, 3))
    in_planes = 20 * 16 * 45 * (7 * 100 + 7 * 110)
    assert sum(products) < 1.2 * in_planes + 60 * 40 * 110 * 110
    assert fewer < 1.2 * in_planes + 20 * 90 * 100 * 100


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("depth", "orders"), [(150, (0, 3, 3)), (300, (3, 3, 3)), (100, (3, 3, 3))])
def test_an_image_takes_its_result_and_some_planes(depth: int, orders: tuple[int, int, int], within: bool) -> None:
    image = np.random.default_rng(0).normal(size=(2, 200, 50, 52)).astype(np.float32)
    target = (depth, 66, 67)

    def work() -> NDArray[np.float32]:
        return resample_within_range(image, target, orders, 0) if within else resample_image(image, target, orders)

    peak, result = peak_bytes(work)
    plane = 4 * 66 * 67
    assert peak < result.nbytes + 75 * plane, f"{(peak - result.nbytes) / plane} planes"


@pytest.mark.parametrize("orders", [(1, 1, 1), (0, 1, 1)])
def test_labels_are_weighed_between_unlike_ones_only(
    orders: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    z, y, x = np.ogrid[:60, :90, :80]
    distance = np.sqrt((z - 30) ** 2 + (y - 45) ** 2 + (x - 40) ** 2)
    labels = np.digitize(-distance, [-25, -20, -10]).astype(np.uint8)
    target = (80, 120, 110)
    weighed: list[int] = []
    whole = resample._largest_share

    def counting(layers: Any, corners: Any, nearest: Any) -> NDArray[np.uint8]:
        weighed.append(len(corners.where))
        return whole(layers, corners, nearest)

    monkeypatch.setattr(resample, "_largest_share", counting)
    peak, result = peak_bytes(lambda: resample_labels(labels, target, orders))
    share = sum(weighed) / 2 / result.size
    assert 0 < share < 0.1, f"{share:.3f} of the voxels weighed"
    assert peak < result.nbytes + 1_500_000, f"{peak - result.nbytes} bytes above the result"
    resample_labels(np.ones((9, 9, 9), np.uint8), (20, 20, 20), orders)
    assert sum(weighed) / 2 / result.size == share, "one label only: nothing to weigh"


def test_of_float16_only_the_planes_at_work_become_float32() -> None:
    volume = np.random.default_rng(0).normal(size=(200, 60, 60)).astype(np.float16)
    peak, result = peak_bytes(lambda: resample_slab(volume, (200, 70, 70), (1, 1, 1), slice(3, 6)))
    assert peak < result.nbytes + 6 * 4 * 70 * 70
