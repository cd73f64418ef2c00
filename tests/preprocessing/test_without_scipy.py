"""What preprocessing once asked scipy for: the same numbers without it, since an image does not hold it."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from nnunet_box.boxes import label_boxes
from nnunet_box.preprocessing.axis_weights import SPLINE_MARGIN, _spline_coefficients
from nnunet_box.preprocessing.crop import fill_holes


@pytest.mark.parametrize("length", [1, 2, 17, 300])
def test_spline_coefficients_are_scipys(length):
    padded = np.pad(np.eye(length), ((SPLINE_MARGIN, SPLINE_MARGIN), (0, 0)), mode="edge")
    before = padded.copy()
    expected = ndimage.spline_filter1d(padded, order=3, axis=0, mode="mirror")
    found = _spline_coefficients(padded)
    assert np.abs(found - expected).max() < 1e-14
    assert (padded == before).all()
    # What is kept of them is the same to the last bit.
    assert (found.astype(np.float32) == expected.astype(np.float32)).all()


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 9, 9), (9, 1, 9), (24, 30, 31)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.8, 0.95])
def test_holes_are_filled_as_scipy_fills_them(shape, share):
    mask = np.random.default_rng(int(100 * share)).random(shape) < share
    before = mask.copy()
    assert (fill_holes(mask) == ndimage.binary_fill_holes(mask)).all()
    assert (mask == before).all()


def test_a_hole_that_leaks_through_an_edge_only_is_a_hole():
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    mask[2, 2, 2] = False
    assert fill_holes(mask)[2, 2, 2]
    mask[1, 1, 2] = False  # an edge of the cube: it touches the hole by an edge, not by a face
    assert fill_holes(mask)[2, 2, 2]
    mask[1, 2, 2] = False
    assert not fill_holes(mask)[2, 2, 2]
    assert (fill_holes(mask) == ndimage.binary_fill_holes(mask)).all()


def test_filling_is_not_slower():
    mask = np.zeros((60, 120, 120), dtype=bool)
    mask[5:55, 10:110, 10:110] = True
    mask[20:30, 50:60, 50:60] = False
    started = time.process_time()
    expected = ndimage.binary_fill_holes(mask)
    theirs = time.process_time() - started
    started = time.process_time()
    found = fill_holes(mask)
    assert time.process_time() - started < theirs
    assert (found == expected).all()


@pytest.mark.parametrize("shape", [(0, 3, 3), (1, 1, 1), (4, 5, 6), (20, 30, 25)])
def test_boxes_are_scipys(shape):
    random = np.random.default_rng(sum(shape))
    labels = random.choice(np.array([0, 0, 0, 1, 2, 7, 255], dtype=np.uint8), shape)
    labels[: shape[0] // 2][labels[: shape[0] // 2] == 7] = 0
    labels[:, 1:][labels[:, 1:] == 255] = 0
    expected = ndimage.find_objects(labels) if labels.size else []
    assert label_boxes(labels) == {label: box for label, box in enumerate(expected, start=1) if box is not None}
    assert label_boxes(np.zeros(shape, dtype=np.uint8)) == {}
