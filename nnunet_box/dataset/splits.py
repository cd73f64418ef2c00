"""Cross-validation splits that cannot leak: groups, never cases, are dealt out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from nnunet_box.dataset.cases import SourceCase, SplitRule
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.files import read_json, write_json

FOLDS = 5
SEED = 12345


class Fold(BaseModel):
    """Case ids of one fold."""

    model_config = ConfigDict(frozen=True)

    train: list[str]
    val: list[str]


def group_folds(cases: Sequence[SourceCase], folds: int = FOLDS, seed: int = SEED) -> list[Fold]:
    """Five-fold cross-validation over groups (paper, Method: patients stay together), balanced over strata.

    Groups of each stratum are shuffled and dealt to the fold that holds the fewest of that stratum, then the fewest
    cases.

    Raises
    ------
    InvalidData: fewer groups than folds.
    """
    _require_groups(cases, folds)
    strata: dict[str, list[str]] = {}
    sizes = Counter(case.group for case in cases)
    stratum_of = {case.group: case.stratum or "" for case in cases}
    for group in sorted(stratum_of):
        strata.setdefault(stratum_of[group], []).append(group)
    random = np.random.default_rng(seed)
    held_out: list[list[str]] = [[] for _ in range(folds)]
    load = [0] * folds
    for stratum in sorted(strata):
        dealt = [0] * folds
        for group in random.permutation(strata[stratum]):
            fold = min(range(folds), key=lambda index: (dealt[index], load[index], index))
            dealt[fold] += 1
            load[fold] += sizes[str(group)]
            held_out[fold].append(str(group))
    return _folds(cases, held_out)


def leave_one_group_out(cases: Sequence[SourceCase]) -> list[Fold]:
    """As many folds as groups; fold f validates the f-th group by name (paper: the five patients of the MS lesion
    challenge).

    Raises
    ------
    InvalidData: one group only.
    """
    _require_groups(cases, 2)
    return _folds(cases, [[group] for group in sorted({case.group for case in cases})])


def nnunet_folds(cases: Sequence[SourceCase], folds: int = FOLDS) -> list[Fold]:
    """nnU-Net's own split, fold for fold: scikit-learn's ``KFold(5, shuffle=True, random_state=12345)``.

    Over the sorted case ids; where a group has several cases, over the sorted groups, as nnU-Net v1 does for ACDC's
    patients, since over the cases it would leak.

    Raises
    ------
    InvalidData: fewer groups than folds.
    """
    _require_groups(cases, folds)
    by_id = {case.id: case.group for case in cases}
    groups = sorted(set(by_id.values()))
    if len(groups) == len(cases):
        groups = [by_id[case_id] for case_id in sorted(by_id)]
    order = np.arange(len(groups))
    np.random.RandomState(SEED).shuffle(order)
    # KFold's sizes: the first n % k folds hold one more.
    return _folds(cases, [[groups[index] for index in part] for part in np.array_split(order, folds)])


def _require_groups(cases: Sequence[SourceCase], least: int) -> None:
    groups = len({case.group for case in cases})
    if groups < least:
        raise InvalidData("splits", f"at least {least} groups (patients)", f"{groups}", "Add cases or use fewer folds.")


def _folds(cases: Sequence[SourceCase], held_out: Sequence[Sequence[str]]) -> list[Fold]:
    """A fold for each list of groups that is held out; ids sorted."""
    result = []
    for groups in held_out:
        val = sorted(case.id for case in cases if case.group in groups)
        train = sorted(case.id for case in cases if case.group not in groups)
        result.append(Fold(train=train, val=val))
    return result


def rule_for(wanted: str, of_challenge: SplitRule) -> SplitRule:
    """The rule a person's word stands for. nnU-Net leaves one patient out where the challenge's rule says so: that rule
    is then its own split.

    Raises
    ------
    UsageError: neither ``groups`` nor ``nnunet``.
    """
    if wanted == "nnunet":
        return of_challenge if of_challenge == "leave-one-group-out" else "nnunet"
    if wanted == "groups":
        return "groups"
    raise UsageError(f"splits {wanted!r}: groups or nnunet.")


def make_folds(dataset: Dataset) -> list[Fold]:
    """New folds, by the rule of the data set's ``cases.json``; raises as the rule's function."""
    rules = {"groups": group_folds, "leave-one-group-out": leave_one_group_out, "nnunet": nnunet_folds}
    return rules[dataset.splits](dataset.cases)


def check_folds(folds: Sequence[Fold], cases: Sequence[SourceCase], file: Path | str = "splits.json") -> None:
    """Refuse folds that leak or do not fit the data set.

    Raises
    ------
    InvalidData: a group on both sides of a fold, an unknown case, a case never or twice validated, an empty side.
    """
    group = {case.id: case.group for case in cases}
    for index, fold in enumerate(folds):
        unknown = sorted(set(fold.train + fold.val) - set(group))
        if unknown:
            raise InvalidData(
                file, "ids of this data set", f"{unknown[:3]} in fold {index}", "Delete the file to make new splits."
            )
        shared = sorted({group[case] for case in fold.train} & {group[case] for case in fold.val})
        if shared:
            raise InvalidData(
                file,
                "each group (patient) on one side of a fold",
                f"{shared[:3]} on both sides of fold {index}",
                "Keep a group's cases together.",
            )
        if not fold.train or not fold.val:
            raise InvalidData(
                file, "training and validation cases in each fold", f"an empty side in fold {index}", "Add cases."
            )
    validated = Counter(case for fold in folds for case in fold.val)
    if set(validated) != set(group) or max(validated.values()) > 1:
        odd = sorted((set(group) ^ set(validated)) | {case for case, times in validated.items() if times > 1})
        raise InvalidData(
            file, "each case validated exactly once", f"not so for {odd[:3]}", "Delete the file to make new splits."
        )


def read_folds(file: Path) -> list[Fold]:
    """Folds from ``splits.json`` or nnU-Net's ``splits_final.json``, as they stand there.

    Raises
    ------
    InvalidData: not a list of ``train`` and ``val``.
    """
    try:
        return TypeAdapter(list[Fold]).validate_python(read_json(file))
    except ValidationError as error:
        found = f"{error.errors()[0]['msg']} at {error.errors()[0]['loc']}"
        raise InvalidData(
            file, "a list of folds with train and val", found, "Delete the file to make new splits."
        ) from error


def load_or_make_folds(file: Path, dataset: Dataset) -> list[Fold]:
    """Read ``splits.json`` (nnU-Net's ``splits_final.json`` has the same shape) or write a new one; always checked."""
    if file.exists():
        folds = read_folds(file)
        check_folds(folds, dataset.cases, file)
        return folds
    folds = make_folds(dataset)
    check_folds(folds, dataset.cases, file)
    write_json(file, [fold.model_dump() for fold in folds])
    return folds
