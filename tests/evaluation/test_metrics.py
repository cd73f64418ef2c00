from __future__ import annotations

import numpy as np
import pytest

from nnunet_box.evaluation import metrics
from nnunet_box.evaluation.metrics import (
    border,
    confusion_matrix,
    label_boxes,
    label_counts,
    structure_distances,
    surface_distances,
)


def cube(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def brute_force(prediction, reference, spacing):
    """Distances between all border voxels, by definition; the borders are found voxel by voxel too."""

    def surface(mask):
        padded = np.pad(mask, 1)
        points = []
        for z, y, x in np.argwhere(mask):
            neighbours = [
                padded[z + 1 + dz, y + 1 + dy, x + 1 + dx]
                for dz, dy, dx in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
            ]
            if not all(neighbours):
                points.append((z, y, x))
        return np.array(points) * np.asarray(spacing)

    ours, theirs = surface(prediction), surface(reference)
    table = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(-1))
    return table.min(1), table.min(0)


def test_counts_of_a_case_worked_by_hand():
    reference = np.array([[[0, 1, 1, 1, 2, 2]]], dtype=np.uint8)
    prediction = np.array([[[1, 1, 1, 2, 2, 0]]], dtype=np.uint8)
    matrix = confusion_matrix(prediction, reference, 3)
    assert matrix.tolist() == [[0, 1, 0], [0, 2, 1], [1, 0, 1]]
    one, two = label_counts(matrix, 1), label_counts(matrix, 2)
    assert (one.tp, one.fp, one.fn, one.tn, one.n_pred, one.n_ref) == (2, 1, 1, 2, 3, 3)
    assert one.dice == pytest.approx(2 / 3)
    assert one.iou == pytest.approx(2 / 4)
    assert (two.tp, two.fp, two.fn, two.tn) == (1, 1, 1, 3)


def test_a_label_that_neither_side_holds_has_no_dice_and_one_that_one_side_holds_has_zero():
    reference = np.zeros((2, 2, 2), dtype=np.uint8)
    prediction = reference.copy()
    prediction[0, 0, 0] = 1
    matrix = confusion_matrix(prediction, reference, 2)
    assert label_counts(matrix, 1).dice == 0
    assert label_counts(matrix, 1).iou == 0
    absent = label_counts(matrix, 7)
    assert np.isnan(absent.dice) and np.isnan(absent.iou)
    assert absent.tn == 8


def test_counting_in_pieces_equals_counting_at_once(monkeypatch):
    random = np.random.default_rng(3)
    prediction, reference = random.integers(0, 5, (2, 7, 6, 5), dtype=np.uint8)
    whole = confusion_matrix(prediction, reference, 5)
    monkeypatch.setattr(metrics, "VOXELS_AT_A_TIME", 60)
    assert np.array_equal(confusion_matrix(prediction, reference, 5), whole)
    by_hand = [[np.sum((reference == row) & (prediction == column)) for column in range(5)] for row in range(5)]
    assert whole.tolist() == by_hand


@pytest.mark.parametrize("side", [0, 1])
def test_a_value_beyond_the_classes_is_refused_instead_of_counted_as_another(side):
    pair = [np.zeros((1, 1, 2), dtype=np.uint8), np.zeros((1, 1, 2), dtype=np.uint8)]
    pair[side][0, 0, 0] = 3
    with pytest.raises(ValueError, match="below 3"):
        confusion_matrix(*pair, 3)


def test_shapes_must_agree():
    small, large = np.zeros((2, 2, 2), dtype=np.uint8), np.zeros((2, 2, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(small, large, 2)
    with pytest.raises(ValueError, match="shape"):
        surface_distances(small > 0, large > 0, (1, 1, 1))
    with pytest.raises(ValueError, match="shape"):
        structure_distances(small, large, [1], (1, 1, 1))


def test_boxes_of_all_labels():
    labels = np.zeros((4, 5, 6), dtype=np.uint8)
    labels[1:3, 2, 4] = 3
    labels[0, 0, 0] = 1
    assert label_boxes(labels) == {
        1: (slice(0, 1), slice(0, 1), slice(0, 1)),
        3: (slice(1, 3), slice(2, 3), slice(4, 5)),
    }


def test_border_of_a_cube_is_its_shell_and_touches_the_edge_of_the_array():
    assert np.count_nonzero(border(cube((6, 6, 6), (1, 1, 1), (5, 5, 5)))) == 4**3 - 2**3
    assert np.count_nonzero(border(np.ones((4, 4, 4), dtype=bool))) == 4**3 - 2**3
    assert border(np.ones((2, 9, 9), dtype=bool)).all()


def test_a_shifted_cube_is_as_far_as_it_was_shifted_by_the_axis_spacing():
    reference = cube((10, 10, 10), (2, 2, 2), (5, 5, 5))
    for axis, spacing_mm in enumerate((5.0, 0.7, 1.25)):
        moved = np.roll(reference, 2, axis=axis)
        distances = surface_distances(moved, reference, (5.0, 0.7, 1.25))
        assert distances.hausdorff == pytest.approx(2 * spacing_mm, rel=1e-5)


def test_two_single_voxels():
    prediction, reference = cube((5, 5, 5), (0, 0, 0), (1, 1, 1)), cube((5, 5, 5), (1, 2, 0), (2, 3, 1))
    distances = surface_distances(prediction, reference, (3.0, 2.0, 1.0))
    assert distances.hausdorff == distances.hausdorff_95 == distances.assd == pytest.approx(5.0)  # 3-4-5
    assert distances.rmsd == distances.hd95 == pytest.approx(5.0)


def test_metrics_pool_the_border_voxels_of_both_sides():
    reference = cube((1, 1, 8), (0, 0, 0), (1, 1, 4))
    prediction = cube((1, 1, 8), (0, 0, 0), (1, 1, 8))
    distances = surface_distances(prediction, reference, (1.0, 1.0, 1.0))
    # Flat objects are all border: to the reference 0 0 0 0 1 2 3 4, back 0 0 0 0.
    assert distances.hausdorff == 4
    assert distances.assd == pytest.approx(10 / 12)
    assert distances.rmsd == pytest.approx(np.sqrt((1 + 4 + 9 + 16) / 12))
    assert distances.hausdorff_95 == pytest.approx(np.percentile([0] * 8 + [1, 2, 3, 4], 95))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 1.3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_distances_equal_brute_force(seed, spacing):
    random = np.random.default_rng(seed)
    prediction, reference = np.zeros((2, 9, 10, 11), dtype=bool)
    for mask in (prediction, reference):
        for _ in range(3):
            corner = random.integers(0, 6, 3)
            mask[tuple(slice(c, c + s) for c, s in zip(corner, random.integers(1, 6, 3), strict=True))] = True
    to_reference, to_prediction = brute_force(prediction, reference, spacing)
    found = surface_distances(prediction, reference, spacing)
    assert np.allclose(found.to_reference, to_reference, atol=1e-12), "in the order of the voxels"
    assert np.allclose(found.to_prediction, to_prediction, atol=1e-12)
    both = np.r_[to_reference, to_prediction]
    assert found.hausdorff == pytest.approx(both.max())
    assert found.hausdorff_95 == pytest.approx(np.percentile(both, 95))
    assert found.assd == pytest.approx(both.mean())
    assert found.rmsd == pytest.approx(np.sqrt((both**2).mean()))


def test_both_empty_is_undefined_and_one_empty_is_infinitely_far():
    empty, full = np.zeros((4, 4, 4), dtype=bool), cube((4, 4, 4), (1, 1, 1), (3, 3, 3))
    nothing = surface_distances(empty, empty, (1, 1, 1))
    values = [nothing.hausdorff, nothing.hausdorff_95, nothing.assd, nothing.rmsd]
    assert np.isnan(values).all()
    for pair in ((empty, full), (full, empty)):
        missed = surface_distances(*pair, (1, 1, 1))
        assert np.isinf([missed.hausdorff, missed.hausdorff_95, missed.assd, missed.rmsd]).all()


def test_structures_are_measured_each_against_its_own():
    reference, prediction = np.zeros((2, 6, 6, 12), dtype=np.uint8)
    reference[2, 2, 2], prediction[2, 2, 5] = 1, 1
    reference[4, 4, 4], prediction[4, 4, 4] = 2, 2
    prediction[0, 0, 0] = 3
    found = structure_distances(prediction, reference, [1, 2, 3, 4], (1.0, 1.0, 2.0))
    assert found[1].hausdorff == pytest.approx(6)
    assert found[2].hausdorff == 0
    assert np.isinf(found[3].hausdorff)
    assert np.isnan(found[4].hausdorff)
