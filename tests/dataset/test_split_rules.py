"""Folds by a data set's own rule: leave one patient out, nnU-Net's split; what would leak is dealt out by patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import (
    check_folds,
    leave_one_group_out,
    load_or_make_folds,
    nnunet_folds,
    rule_for,
)
from nnunet_box.errors import InvalidData, UsageError


def cases(ids, group=lambda case_id: case_id):
    return [SourceCase(case_id, group(case_id), (ChannelFile(Path("x.nii.gz")),)) for case_id in ids]


def dataset(splits, of):
    return Dataset(Path("d"), "d", ("MR",), {0: "background", 1: "x"}, ".nii.gz", None, tuple(of), (), splits)


def known_algorithm(ids):
    """nnU-Net's: scikit-learn's KFold(n_splits=5, shuffle=True, random_state=12345) over the sorted ids, as published:
    shuffled indices, the first n % 5 folds one longer, masks over all indices.
    """
    keys = np.sort(ids)
    indices = np.arange(len(keys))
    np.random.RandomState(12345).shuffle(indices)
    sizes = np.full(5, len(keys) // 5)
    sizes[: len(keys) % 5] += 1
    current = 0
    for size in sizes:
        mask = np.zeros(len(keys), dtype=bool)
        mask[indices[current : current + size]] = True
        current += size
        yield list(keys[~mask]), list(keys[mask])


@pytest.mark.parametrize("count", [5, 30, 41, 131, 208])
def test_nnunets_split_fold_for_fold(count):
    ids = [f"liver_{number}" for number in range(count)]  # unpadded: sorted as text, as nnU-Net does
    folds = nnunet_folds(cases(reversed(ids)))
    assert [(fold.train, fold.val) for fold in folds] == list(known_algorithm(ids))
    check_folds(folds, cases(ids))


def test_nnunets_split_of_thirty_cases_as_scikit_learn_gives_it():
    # Written down once from scikit-learn 1.9.1's KFold(5, shuffle=True, random_state=12345) on range(30).
    validation = [
        [3, 8, 12, 15, 18, 26],
        [0, 6, 7, 20, 21, 24],
        [10, 11, 13, 19, 22, 23],
        [14, 16, 17, 25, 27, 29],
        [1, 2, 4, 5, 9, 28],
    ]
    folds = nnunet_folds(cases([f"{number:02d}" for number in range(30)]))
    assert [[int(case) for case in fold.val] for fold in folds] == validation


def test_nnunets_split_beside_scikit_learn():
    selection = pytest.importorskip("sklearn.model_selection")
    for count in (5, 23, 30, 263):
        ids = np.array([f"case{number:03d}" for number in range(count)])
        expected = selection.KFold(n_splits=5, shuffle=True, random_state=12345).split(ids)
        folds = nnunet_folds(cases(ids.tolist()))
        assert [(fold.train, fold.val) for fold in folds] == [
            (ids[train].tolist(), ids[val].tolist()) for train, val in expected
        ]


def test_patients_with_several_cases_are_dealt_out_whole():
    ids = [f"patient{number:03d}_{phase}" for number in range(1, 101) for phase in ("ED", "ES")]
    of = cases(ids, lambda case_id: case_id[:10])
    folds = nnunet_folds(of)
    check_folds(folds, of)
    patients = sorted({case_id[:10] for case_id in ids})
    assert [sorted({case[:10] for case in fold.val}) for fold in folds] == [val for _, val in known_algorithm(patients)]


def test_too_few_groups_are_refused():
    with pytest.raises(InvalidData, match="at least 5 groups"):
        nnunet_folds(cases("abcd"))
    with pytest.raises(InvalidData, match="at least 2 groups"):
        leave_one_group_out(cases("ab", lambda _: "one"))


def test_leave_one_group_out():
    of = cases(["b1", "a1", "c1", "a2"], lambda case_id: case_id[0])
    folds = leave_one_group_out(of)
    assert [fold.val for fold in folds] == [["a1", "a2"], ["b1"], ["c1"]]
    assert folds[0].train == ["b1", "c1"]
    check_folds(folds, of)


@pytest.mark.parametrize(("rule", "first"), [("leave-one-group-out", ["case0"]), ("nnunet", None), ("groups", None)])
def test_the_data_sets_rule_makes_the_file(tmp_path, rule, first):
    of = cases([f"case{number}" for number in range(7)])
    folds = load_or_make_folds(tmp_path / "splits.json", dataset(rule, of))
    assert len(folds) == (7 if rule == "leave-one-group-out" else 5)
    if rule == "nnunet":
        assert folds == nnunet_folds(of)
    if first is not None:
        assert folds[0].val == first
    assert json.loads((tmp_path / "splits.json").read_text())[0]["val"] == folds[0].val
    # A file that is there is kept, whatever the rule.
    assert load_or_make_folds(tmp_path / "splits.json", dataset("groups", of)) == folds


def test_a_persons_word_for_the_rule():
    assert rule_for("nnunet", "groups") == "nnunet"
    assert rule_for("nnunet", "leave-one-group-out") == "leave-one-group-out"
    assert rule_for("groups", "leave-one-group-out") == "groups"
    with pytest.raises(UsageError, match="groups or nnunet"):
        rule_for("random", "groups")
