from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from nnunet_box.evaluation.postprocessing import (
    Postprocessing,
    PostprocessingDecision,
    apply_postprocessing,
    decide_postprocessing,
    largest_component,
    largest_foreground,
)


@pytest.fixture
def make_pairs(labels_file):
    def make(*cases):
        return [
            (str(index), labels_file(f"pred/{index}.nii.gz", prediction), labels_file(f"ref/{index}.nii.gz", reference))
            for index, (prediction, reference) in enumerate(cases)
        ]

    return make


def organs():
    """Two bars that touch: label 1 in row 1, label 2 in row 2."""
    labels = np.zeros((3, 6, 12), dtype=np.uint8)
    labels[1, 1, 1:6] = 1
    labels[1, 2, 1:6] = 2
    return labels


def with_voxel(labels, where, value):
    changed = labels.copy()
    changed[where] = value
    return changed


def test_the_largest_component_by_connectivity():
    mask = np.zeros((3, 4, 6), dtype=bool)
    mask[0, 0, :2] = True
    mask[1, 1, 2] = True  # touches by a corner only
    mask[2, 3, 5] = True
    full, faces = largest_component(mask, 26), largest_component(mask, 6)
    assert np.argwhere(full).tolist() == [[0, 0, 0], [0, 0, 1], [1, 1, 2]]
    assert np.argwhere(faces).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_components_that_tie_all_stay_and_one_component_stays_whole():
    mask = np.zeros((1, 1, 9), dtype=bool)
    mask[0, 0, [0, 1, 4, 5, 8]] = True
    assert np.flatnonzero(largest_component(mask)).tolist() == [0, 1, 4, 5]
    alone = np.ones((1, 1, 4), dtype=bool)
    assert largest_component(alone).all()


def test_a_step_keeps_the_largest_component_of_the_union_of_its_labels():
    labels = organs()
    labels[1, 2, 9:11] = 2  # apart from both
    labels[0, 5, 11] = 3  # not of the step
    result = apply_postprocessing(labels, Postprocessing(steps=((1, 2),)))
    assert result[1, 2, 9:11].tolist() == [0, 0]
    assert result[0, 5, 11] == 3
    assert np.array_equal(result[1, :, 1:6], labels[1, :, 1:6])
    assert labels[1, 2, 9] == 2, "the input is left as it was"


def test_steps_follow_one_another():
    labels = np.zeros((1, 1, 12), dtype=np.uint8)
    labels[0, 0] = [1, 1, 1, 2, 0, 2, 2, 0, 0, 0, 0, 0]
    assert apply_postprocessing(labels, Postprocessing(steps=((2,),))).ravel()[:7].tolist() == [1, 1, 1, 0, 0, 2, 2]
    # The joint step goes first and takes the larger part of label 2 away, so the smaller one is all that is left.
    both = apply_postprocessing(labels, Postprocessing(steps=((1, 2), (2,))))
    assert both.ravel()[:7].tolist() == [1, 1, 1, 2, 0, 0, 0]


def test_no_steps_and_absent_labels_change_nothing():
    labels = organs()
    assert np.array_equal(apply_postprocessing(labels, Postprocessing()), labels)
    assert np.array_equal(apply_postprocessing(labels, Postprocessing(steps=((7,), (8, 9)))), labels)


def test_the_forced_rule_is_joint_foreground_with_face_connectivity():
    rule = largest_foreground({0: "background", 2: "tumour", 1: "liver"})
    assert rule.steps == ((1, 2),)
    assert rule.connectivity == 6
    labels = np.zeros((2, 2, 6), dtype=np.uint8)
    labels[0, 0, :3], labels[1, 1, 3], labels[0, 0, 3] = 1, 2, 2
    result = apply_postprocessing(labels, rule)
    assert result[0, 0].tolist() == [1, 1, 1, 2, 0, 0]
    assert result[1, 1, 3] == 0, "a corner is no face"


def test_joint_foreground_is_accepted_where_the_mean_rises_and_no_label_falls(make_pairs):
    speck = with_voxel(organs(), (0, 5, 11), 1)
    decision = decide_postprocessing(make_pairs((speck, organs()), (organs(), organs())), {0: "b", 1: "one", 2: "two"})
    joint = decision.trials[0]
    assert joint.labels == (1, 2) and joint.accepted
    assert joint.dice_before[1] == pytest.approx((10 / 11 + 1) / 2)
    assert joint.dice_after == {1: 1.0, 2: 1.0}
    assert joint.mean_after == 1.0
    assert [trial.accepted for trial in decision.trials] == [True, False, False]
    assert decision.postprocessing.steps == ((1, 2),)
    assert decision.cases == 2


def test_joint_foreground_is_refused_where_a_label_falls_though_the_mean_rises(make_pairs):
    reference = organs()
    reference[1, 5, 10] = 2  # truly apart
    prediction = reference.copy()
    prediction[0, 5, 0:5] = 1  # wrong, and worth more than the voxel of label 2
    decision = decide_postprocessing(make_pairs((prediction, reference)), [1, 2])
    joint, first, second = decision.trials
    assert joint.mean_after > joint.mean_before
    assert joint.dice_after[2] < joint.dice_before[2]
    assert not joint.accepted and joint.reason == "falls for labels [2]"
    assert first.labels == (1,) and second.labels == (2,)
    assert not second.accepted


def test_a_label_by_itself_is_accepted_where_it_rises_and_refused_where_it_falls(make_pairs):
    reference = organs()
    reference[1, 5, 10] = 2  # label 2 really has two parts
    prediction = with_voxel(reference, (1, 1, 9), 1)  # label 1 has a speck
    prediction[0, 4:6, 9:12] = 0
    decision = decide_postprocessing(make_pairs((prediction, reference)), [1, 2])
    joint, first, second = decision.trials
    assert not joint.accepted
    assert first.accepted and not second.accepted
    assert first.dice_before == {1: pytest.approx(10 / 11), 2: 1.0}
    assert first.dice_after == {1: 1.0, 2: 1.0}
    assert second.dice_after[2] == pytest.approx(10 / 11)
    assert decision.postprocessing.steps == ((1,),)


def test_what_was_decided_gives_the_dice_that_was_promised(make_pairs):
    random = np.random.default_rng(5)
    cases = []
    for _ in range(3):
        prediction = organs()
        noise = random.random(prediction.shape) < 0.05
        prediction[noise] = random.integers(1, 3, int(noise.sum()))
        cases.append((prediction, organs()))
    decision = decide_postprocessing(make_pairs(*cases), [1, 2], connectivity=6)
    assert decision.postprocessing.steps
    accepted = [trial for trial in decision.trials if trial.accepted][-1]
    for label in (1, 2):
        dice = []
        for prediction, reference in cases:
            result = apply_postprocessing(prediction, decision.postprocessing)
            overlap = np.sum((result == label) & (reference == label))
            dice.append(2 * overlap / (np.sum(result == label) + np.sum(reference == label)))
        assert accepted.dice_after[label] == pytest.approx(np.mean(dice))


def test_labels_by_themselves_are_tried_on_what_the_joint_step_leaves(make_pairs):
    prediction = organs()
    prediction[1, 5, 6:12] = 2  # longer than label 2's bar, shorter than both bars: only the joint step takes it away
    prediction[1, 0, 1] = 2  # hangs on label 1, so only label 2's own step takes it away
    decision = decide_postprocessing(make_pairs((prediction, organs())), [1, 2])
    assert decision.postprocessing.steps == ((1, 2), (2,))
    assert decision.trials[0].dice_after[2] == decision.trials[2].dice_before[2] == pytest.approx(10 / 11)
    assert decision.trials[2].dice_after[2] == 1.0


def test_perfect_predictions_are_left_alone(make_pairs):
    decision = decide_postprocessing(make_pairs((organs(), organs())), [1, 2])
    assert decision.postprocessing == Postprocessing()
    assert {trial.reason for trial in decision.trials} == {"the mean does not rise"}


def test_one_label_is_tried_once(make_pairs):
    reference = (organs() == 1).astype(np.uint8)
    decision = decide_postprocessing(make_pairs((with_voxel(reference, (0, 5, 11), 1), reference)), {0: "b", 1: "one"})
    assert [trial.labels for trial in decision.trials] == [(1,)]
    assert decision.postprocessing.steps == ((1,),)


def test_a_label_that_occurs_nowhere_neither_helps_nor_hinders(make_pairs):
    decision = decide_postprocessing(make_pairs((with_voxel(organs(), (0, 5, 11), 1), organs())), [1, 2, 3])
    assert decision.trials[0].accepted
    assert decision.trials[0].dice_before[3] is None
    assert not decision.trials[3].accepted


def test_a_decision_goes_through_standard_json(make_pairs):
    decision = decide_postprocessing(make_pairs((with_voxel(organs(), (0, 5, 11), 1), organs())), [1, 2, 3])
    text = json.dumps(decision.model_dump(mode="json"), allow_nan=False)
    assert PostprocessingDecision.model_validate(json.loads(text)) == decision


def test_a_connectivity_that_is_none_is_refused():
    with pytest.raises(ValidationError):
        Postprocessing(steps=((1,),), connectivity=8)
