"""The most probable class without resampling every class: the same labels, a small part of the work."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_box.inference import export, largest_class
from nnunet_box.inference.export import Grid, labels_on_source
from nnunet_box.inference.predictor import softmax
from nnunet_box.preprocessing.pipeline import Placement

CLASSES = 7
SHAPE, BOX = (16, 30, 26), ((2, 14), (3, 25), (1, 25))


def grid(seed: int, dtype: Any, logits: bool, spacing: float = 1.0, scale: float = 20.0) -> Grid:
    """Smooth outputs on another grid, in axes of another order; along Z nearest where ``spacing`` is coarse."""
    random = np.random.default_rng(seed)
    target = tuple(int(edge) for edge in random.integers(5, 32, 3))
    order = tuple(int(axis) for axis in random.permutation(3))
    outputs = ndimage.gaussian_filter(random.normal(size=(CLASSES, *target)), (0, 2, 2, 2)).astype(np.float32) * scale
    if not logits:
        outputs = softmax(outputs[None])[0]
    placement = Placement(
        shape=SHAPE,
        box=BOX,
        spacing=(spacing, 1.0, 1.0),
        target_spacing=(1.0, 1.0, 1.0),
        target_shape=(target[0], target[1], target[2]),
        axis_order=(order[0], order[1], order[2]),
    )
    turned = np.ascontiguousarray(outputs.transpose(0, *(axis + 1 for axis in order))).astype(dtype)
    return turned, placement


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("spacing", [1.0, 5.0])
def test_equals_resampling_every_class_everywhere(dtype: Any, logits: bool, number: int, spacing: float) -> None:
    differing = []
    for seed in range(8):
        grids = [grid(100 * seed + one, dtype, logits, spacing) for one in range(number)]
        found, everywhere = labels_on_source(grids, logits=logits), export._resample(grids, None, logits)
        assert len(np.unique(found)) > 3
        inside = tuple(slice(*ends) for ends in BOX)
        assert not found[:2].any() and found[inside].any()
        differing.append(np.mean(found != everywhere))
    assert np.mean(differing) < 2e-4, "more than rounding explains"


def test_a_tie_in_float16_goes_to_the_first_class_as_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second class is a step of float16 above the first at every corner. Steps differ between numbers, so that what
    lies between is often rounded to the same number.
    """
    first = np.random.default_rng(0).uniform(0.1, 8, (12, 14, 13)).astype(np.float16)
    step = np.stack([first, np.nextafter(first, np.float16(9)), np.zeros_like(first)])
    placement = Placement((20, 25, 21), ((0, 20), (0, 25), (0, 21)), (1.0,) * 3, (1.0,) * 3, (12, 14, 13), (0, 1, 2))
    grids: list[Grid] = [(step, placement)]
    everywhere = export._resample(grids, None, True)
    assert np.mean(labels_on_source(grids, logits=True) != everywhere) < 2e-3
    whole = largest_class._largest
    monkeypatch.setattr(largest_class, "_largest", lambda scores, near_too=False: whole(scores, False))
    assert np.mean(labels_on_source(grids, logits=True) != everywhere) > 0.01, "the sample has no such ties"


def test_not_a_number_is_never_the_largest() -> None:
    outputs = np.stack([np.full((4, 5, 6), value, np.float32) for value in (0.5, 0.2, 0.4)])
    outputs[1, 2] = np.nan
    outputs[0, 1] = np.nan
    placement = Placement((4, 5, 6), ((0, 4), (0, 5), (0, 6)), (1.0,) * 3, (1.0,) * 3, (4, 5, 6), (0, 1, 2))
    np.testing.assert_array_equal(labels_on_source([(outputs, placement)])[:, 0, 0], [0, 2, 0, 0])


def blocks(target: tuple[int, int, int]) -> NDArray[np.float32]:
    """Scores of 12 classes with few borders: each largest in a slab along X."""
    centres = (np.arange(12) + 0.5) * target[2] / 12
    scores = -np.abs(np.arange(target[2]) - centres[:, None]).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(scores[:, None, None], (12, *target)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_and_work_do_not_grow_with_classes_times_volume(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # each thread has planes of its own
    source, target = (30, 120, 120), (40, 150, 160)
    outputs = blocks(source).astype(dtype)
    box = tuple((0, length) for length in target)
    placement = Placement(target, (box[0], box[1], box[2]), (1.0,) * 3, (1.0,) * 3, source, (0, 1, 2))
    interpolated: list[int] = []
    whole = largest_class._Grid.interpolated

    def counting(self: Any, index: int, corners: Any) -> NDArray[np.float32]:
        interpolated.append(len(corners.where))
        return whole(self, index, corners)

    labels_on_source([(outputs, placement)])
    monkeypatch.setattr(largest_class._Grid, "interpolated", counting)
    tracemalloc.start()
    labels = labels_on_source([(outputs, placement)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.nbytes + 1_700_000, f"{peak} bytes; all classes are {12 * 4 * labels.size}"
    assert 0 < sum(interpolated) < 0.15 * labels.size
    expected = (np.clip((np.arange(160) + 0.5) * 120 / 160 - 0.5, 0, 119) + 0.5) // 10
    sure = np.abs((np.clip((np.arange(160) + 0.5) * 120 / 160 - 0.5, 0, 119) + 0.5) / 10 % 1 - 0.5) < 0.45
    assert (labels[:, :, sure] == expected[sure]).all()
