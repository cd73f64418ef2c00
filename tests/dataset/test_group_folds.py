"""Folds deal out groups, never cases; what leaks is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import Fold, check_folds, group_folds, load_or_make_folds
from nnunet_box.errors import InvalidData

DIAGNOSES = ("NOR", "MINF", "DCM", "HCM", "RV")


def cohort(patients=20, phases=("ED", "ES")):
    return [
        SourceCase(
            f"patient{number:03d}_{phase}",
            f"patient{number:03d}",
            (ChannelFile(Path("x.nii.gz")),),
            stratum=DIAGNOSES[number % 5],
        )
        for number in range(patients)
        for phase in phases
    ]


def test_patients_stay_together_and_diagnoses_are_balanced():
    cases = cohort(patients=25)
    group = {case.id: case.group for case in cases}
    stratum = {case.id: case.stratum for case in cases}
    folds = group_folds(cases)
    assert len(folds) == 5
    for fold in folds:
        assert not {group[case] for case in fold.train} & {group[case] for case in fold.val}
        assert Counter(stratum[case] for case in fold.val) == dict.fromkeys(DIAGNOSES, 2)
    assert sorted(case for fold in folds for case in fold.val) == sorted(group)


def test_folds_are_the_same_each_time_and_whatever_the_order():
    cases = cohort()
    assert group_folds(cases) == group_folds(list(reversed(cases)))
    assert group_folds(cases) != group_folds(cases, seed=1)


def test_too_few_patients_are_refused_however_many_cases():
    with pytest.raises(InvalidData, match=r"at least 5 groups \(patients\); found 4"):
        group_folds(cohort(patients=4, phases=("a", "b", "c")))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda fold: Fold(train=[*fold.train, fold.val[0].replace("ED", "ES")], val=fold.val[:1]),
            "one side of a fold",
        ),
        (lambda fold: Fold(train=fold.train, val=["somebody"]), "ids of this data set"),
        (lambda fold: Fold(train=fold.train, val=[]), "an empty side"),
        (lambda fold: Fold(train=fold.train, val=fold.val[2:]), "validated exactly once"),
    ],
)
def test_folds_that_leak_or_do_not_fit_are_refused(damage, expected):
    cases = cohort()
    folds = group_folds(cases)
    check_folds(folds, cases)
    with pytest.raises(InvalidData, match=expected):
        check_folds([damage(folds[0]), *folds[1:]], cases)


def test_splits_file_is_written_once_and_checked_when_read(tmp_path):
    def dataset(cases):
        return Dataset(Path("d"), "d", ("MR",), {0: "background", 1: "x"}, ".nii.gz", None, tuple(cases), ())

    cases = cohort()
    file = tmp_path / "splits.json"
    folds = load_or_make_folds(file, dataset(cases))
    before = file.read_bytes()
    assert load_or_make_folds(file, dataset(cases)) == folds == group_folds(cases)
    assert file.read_bytes() == before
    with pytest.raises(InvalidData, match="ids of this data set"):
        load_or_make_folds(file, dataset(cohort(patients=19)))
