"""Distances beside the packages the challenges score with: ``pip install surface-distance medpy``."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_box.evaluation.metrics import surface_distances
from nnunet_box.evaluation.surfels import CORNERS, surface_areas, surfel_distances

pytestmark = pytest.mark.peer

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (1.3, 0.7, 2.9), (0.3, 1.0, 1.5)]


def organs(seed, shape=(20, 34, 30)):
    """Two smooth shapes that overlap and touch the array's edge."""
    random = np.random.default_rng(seed)
    for smooth in (3.0, 2.5):
        yield ndimage.gaussian_filter(random.normal(size=shape), smooth) + 0.02 * (seed % 3) > 0.01


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_are_those_of_surface_distance(spacing):
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = np.asarray(tables.create_table_neighbour_code_to_surface_area(spacing))
    bits = np.asarray(tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL)
    ours = surface_areas(spacing)
    for code in range(256):
        their_code = sum(int(bits[corner]) for bit, corner in enumerate(CORNERS) if code >> bit & 1)
        assert ours[code] == pytest.approx(theirs[their_code], abs=1e-12), code


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_surfels_agree_with_surface_distance(seed, spacing):
    peer = pytest.importorskip("surface_distance.metrics")
    prediction, reference = organs(seed)
    theirs = peer.compute_surface_distances(reference, prediction, spacing)
    ours = surfel_distances(prediction, reference, spacing)
    for tolerance in (0.0, 0.8, 1.0, 2.0, 4.0, 5.0):
        expected = peer.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.surface_dice(tolerance) == pytest.approx(expected, abs=1e-6)
    for percent in (50, 95, 100):
        assert ours.hausdorff(percent) == pytest.approx(peer.compute_robust_hausdorff(theirs, percent), abs=1e-6)
    assert ours.assd == pytest.approx(np.mean(peer.compute_average_surface_distance(theirs)), abs=1e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_border_voxels_agree_with_medpy(seed, spacing):
    peer = pytest.importorskip("medpy.metric.binary")
    prediction, reference = organs(seed)
    ours = surface_distances(prediction, reference, spacing)
    assert ours.hausdorff == pytest.approx(peer.hd(prediction, reference, spacing, connectivity=1), abs=1e-6)
    assert ours.hausdorff_95 == pytest.approx(peer.hd95(prediction, reference, spacing, connectivity=1), abs=1e-6)
    assert ours.to_reference.mean() == pytest.approx(peer.asd(prediction, reference, spacing), abs=1e-6)
    assert ours.to_prediction.mean() == pytest.approx(peer.asd(reference, prediction, spacing), abs=1e-6)
    pooled = np.mean([*ours.to_reference, *ours.to_prediction])
    assert ours.assd == pytest.approx(pooled)
    assert peer.assd(prediction, reference, spacing) in (
        pytest.approx(ours.assd, abs=1e-6),
        pytest.approx((ours.to_reference.mean() + ours.to_prediction.mean()) / 2, abs=1e-6),  # before 0.5
    )
