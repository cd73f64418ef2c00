"""The search for the nearest voxel, against scipy's distance transform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_box.evaluation import nearest
from nnunet_box.evaluation.nearest import nearest_mm


def scattered(seed, shape, count):
    mask = np.zeros(shape, bool)
    mask.ravel()[np.random.default_rng(seed).permutation(mask.size)[:count]] = True
    return mask


def by_scipy(voxels, targets, spacing):
    return ndimage.distance_transform_edt(~targets, sampling=spacing)[voxels]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8), (0.5, 2.0, 3.0), (1.1, 0.4, 1.3)])
@pytest.mark.parametrize("count", [1, 5, 60])
def test_equal_to_scipy_whichever_axis_is_the_finest(spacing, count):
    voxels, targets = scattered(1, (13, 17, 11), 300), scattered(2, (13, 17, 11), count)
    assert np.allclose(nearest_mm(voxels, targets, spacing), by_scipy(voxels, targets, spacing), rtol=1e-15, atol=0)


def test_a_tolerance_that_is_met_exactly_is_met():
    """0.8 mm as NIfTI stores it: five voxels are a little more than 4 mm, in 64 bits and for every scorer."""
    step = float(np.float32(0.8))
    voxels, targets = np.zeros((2, 1, 1, 9), bool)
    voxels[0, 0, 0] = targets[0, 0, 5] = True
    assert nearest_mm(voxels, targets, (1.0, 1.0, step))[0] == 5 * step > 4.0
    assert nearest_mm(voxels, targets, (1.0, 1.0, 0.8))[0] == 4.0


@pytest.mark.parametrize("limit", ["LINES_AROUND", "FREE_STEPS"])
def test_what_is_too_far_is_left_to_the_distance_transform(monkeypatch, limit):
    monkeypatch.setattr(nearest, limit, 1 if limit == "LINES_AROUND" else 0)
    asked = []
    transform = nearest._transform
    monkeypatch.setattr(nearest, "_transform", lambda *given: asked.append(1) or transform(*given))
    voxels, targets = scattered(1, (20, 21, 22), 500), scattered(2, (20, 21, 22), 12)
    found = nearest_mm(voxels, targets, (3.0, 0.7, 0.9))
    assert asked
    assert np.allclose(found, by_scipy(voxels, targets, (3.0, 0.7, 0.9)), rtol=1e-6)


def test_nothing_to_measure_to_and_nothing_to_measure_from():
    full, empty = scattered(1, (4, 4, 4), 7), np.zeros((4, 4, 4), bool)
    assert np.isinf(nearest_mm(full, empty, (1.0, 1.0, 1.0))).tolist() == [True] * 7
    assert nearest_mm(empty, full, (1.0, 1.0, 1.0)).size == 0
    assert nearest_mm(empty, empty, (1.0, 1.0, 1.0)).size == 0
