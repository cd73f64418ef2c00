"""Surface elements: areas from geometry, distances by definition."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from nnunet_box.evaluation.surfels import (
    CORNERS,
    neighbourhood_codes,
    structure_surfels,
    surface_areas,
    surfel_distances,
)

SPACING = (2.5, 0.8, 1.3)


def code_of(corners):
    return sum(1 << CORNERS.index(corner) for corner in corners)


def triangle(*vertices):
    a, b, c = np.array(vertices, dtype=float)
    return np.linalg.norm(np.cross(b - a, c - a)) / 2


def test_areas_worked_by_hand():
    areas = surface_areas((1.0, 1.0, 1.0))
    corner = np.sqrt(3) / 8  # an equilateral triangle with sides of sqrt(1/2)
    assert areas[0] == areas[255] == 0
    assert areas[code_of([(0, 0, 0)])] == pytest.approx(corner)
    assert areas[code_of([(0, 0, 0), (0, 0, 1)])] == pytest.approx(np.sqrt(0.5))
    assert areas[code_of([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)])] == pytest.approx(1.0)
    assert areas[code_of([(0, 0, 0), (1, 1, 1)])] == pytest.approx(2 * corner)
    assert areas[code_of([(0, 0, 0), (0, 1, 1)])] == pytest.approx(2 * corner), "apart, though on one face"
    hexagon = 3 * np.sqrt(3) / 4  # regular, sides of sqrt(1/2)
    assert areas[code_of([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)])] == pytest.approx(hexagon)
    bend = triangle((0.5, 0, 0), (0.5, 1, 0), (0.5, 0, 1))
    trapezoid = (np.sqrt(2) + np.sqrt(0.5)) / 2 * np.sqrt(0.5**2 + 0.125)
    assert areas[code_of([(0, 0, 0), (0, 1, 0), (0, 0, 1)])] == pytest.approx(bend + trapezoid)


def test_areas_scale_with_the_spacing_of_each_axis():
    z, y, x = SPACING
    areas = surface_areas(SPACING)
    assert areas[code_of([c for c in CORNERS if c[0] == 0])] == pytest.approx(y * x)
    assert areas[code_of([c for c in CORNERS if c[1] == 0])] == pytest.approx(z * x)
    assert areas[code_of([c for c in CORNERS if c[2] == 0])] == pytest.approx(z * y)
    assert areas[code_of([(1, 0, 1)])] == pytest.approx(triangle((z / 2, 0, 0), (0, y / 2, 0), (0, 0, x / 2)))


def test_areas_do_not_depend_on_how_the_cube_is_turned_or_which_side_is_inside():
    areas = surface_areas((1.0, 1.0, 1.0))
    assert (areas[1:255] > 0).all()
    assert np.allclose(areas, areas[::-1])
    for order, flips in product(permutations(range(3)), product((0, 1), repeat=3)):
        for code in range(256):
            inside = [corner for bit, corner in enumerate(CORNERS) if code >> bit & 1]
            turned = [tuple(corner[axis] ^ flip for axis, flip in zip(order, flips, strict=True)) for corner in inside]
            assert areas[code_of(turned)] == pytest.approx(areas[code]), (code, order, flips)


def test_codes_say_which_of_the_eight_voxels_are_inside_and_beyond_the_array_is_outside():
    mask = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    codes = neighbourhood_codes(mask)
    assert codes.shape == (4, 5, 6)
    padded = np.pad(mask, 1)
    for place in np.ndindex(codes.shape):
        around = [corner for corner in CORNERS if padded[tuple(np.add(place, corner))]]
        assert codes[place] == code_of(around)


def test_area_of_a_ball():
    z, y, x = np.ogrid[:70, :90, :90]
    ball = ((z - 35) * 1.3) ** 2 + (y - 45) ** 2 + (x - 45) ** 2 < 40**2
    distances = surfel_distances(ball, ball, (1.3, 1.0, 1.0))
    assert distances.area_reference.sum() == pytest.approx(4 * np.pi * 40**2, rel=0.1)
    assert (distances.surface_dice(0.0), distances.hausdorff(), distances.assd) == (1.0, 0.0, 0.0)


def by_definition(prediction, reference, spacing):
    """Distances between all corners that see both sides, and their areas, corner by corner."""
    areas = surface_areas(spacing)
    sides = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        places, area = [], []
        for place in np.ndindex(*(size + 1 for size in mask.shape)):
            around = [corner for corner in CORNERS if padded[tuple(np.add(place, corner))]]
            if 0 < len(around) < 8:
                places.append(np.array(place) * spacing)
                area.append(areas[code_of(around)])
        sides.append((np.array(places), np.array(area)))
    table = np.sqrt(((sides[0][0][:, None] - sides[1][0][None]) ** 2).sum(-1))
    return table.min(1), table.min(0), sides[0][1], sides[1][1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_equal_their_definition_up_to_the_edge_of_the_array(seed):
    random = np.random.default_rng(seed)
    prediction, reference = np.zeros((2, 5, 6, 7), dtype=bool)
    for mask in (prediction, reference):
        for _ in range(3):
            corner = random.integers(0, 4, 3)
            mask[tuple(slice(c, c + s) for c, s in zip(corner, random.integers(1, 4, 3), strict=True))] = True
    to_reference, to_prediction, area_prediction, area_reference = by_definition(prediction, reference, SPACING)
    found = surfel_distances(prediction, reference, SPACING)
    assert np.allclose(found.to_reference, to_reference) and np.allclose(found.to_prediction, to_prediction)
    assert np.allclose(found.area_prediction, area_prediction) and np.allclose(found.area_reference, area_reference)
    for tolerance in (0.0, 0.9, 2.7):
        within = area_prediction[to_reference <= tolerance].sum() + area_reference[to_prediction <= tolerance].sum()
        expected = within / (area_prediction.sum() + area_reference.sum())
        assert found.surface_dice(tolerance) == pytest.approx(expected)
    assert found.hausdorff() == pytest.approx(max(to_reference.max(), to_prediction.max()))
    means = np.average(to_reference, weights=area_prediction), np.average(to_prediction, weights=area_reference)
    assert found.assd == pytest.approx(np.mean(means))


def test_a_percentile_counts_area_and_takes_the_worse_direction():
    reference = np.zeros((1, 1, 12), dtype=bool)
    reference[..., :4] = True
    prediction = np.ones((1, 1, 12), dtype=bool)
    found = surfel_distances(prediction, reference, (1.0, 1.0, 1.0))
    # The rod's corners: a third within the reference's surface, the rest 1, 2, ... 8 mm from its end.
    assert found.hausdorff(100) == 8
    order = np.argsort(found.to_reference)
    share = np.cumsum(found.area_prediction[order]) / found.area_prediction.sum()
    for percent in (50, 80, 95):
        assert found.hausdorff(percent) == found.to_reference[order][share >= percent / 100][0]
    assert found.hausdorff(20) == 0 < found.hausdorff(50) < found.hausdorff(95)


def test_both_empty_is_undefined_and_one_empty_is_infinitely_far_with_no_surface_in_common():
    empty, full = np.zeros((4, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool)
    nothing = surfel_distances(empty, empty, (1, 1, 1))
    assert np.isnan([nothing.hausdorff(), nothing.hausdorff(95), nothing.assd, nothing.surface_dice(1)]).all()
    for pair in ((empty, full), (full, empty)):
        missed = surfel_distances(*pair, (1, 1, 1))
        assert np.isinf([missed.hausdorff(), missed.hausdorff(95), missed.assd]).all()
        assert missed.surface_dice(1000) == 0


def test_structures_are_measured_each_against_its_own_and_shapes_must_agree():
    reference, prediction = np.zeros((2, 6, 6, 12), dtype=np.uint8)
    reference[2, 2, 2], prediction[2, 2, 5] = 1, 1
    reference[4, 4, 4], prediction[4, 4, 4] = 2, 2
    found = structure_surfels(prediction, reference, [1, 2, 3], (1.0, 1.0, 2.0))
    assert found[1].hausdorff() == pytest.approx(6)
    assert found[2].surface_dice(0) == 1
    assert np.isnan(found[3].surface_dice(1))
    with pytest.raises(ValueError, match="shape"):
        structure_surfels(prediction, reference[1:], [1], (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="shape"):
        surfel_distances(prediction > 0, reference[1:] > 0, (1.0, 1.0, 1.0))
