"""Fitting a bundle into a time a case may take, by measurement: mirroring goes first, then folds, then members.

In that order because of what a second of each buys. Mirroring runs every window 8 times in 3D (4 in 2D) for an average
over flips that the network was trained not to depend on; a fold is one more network trained on other cases, at an
eighth of that; another member of a pair, or a cascade's second stage, was put in by selection because it was measured
to help, and is kept longest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nnunet_box.bundle import BudgetRecord, Bundle, BundleMember, InferencePart, Trial
from nnunet_box.errors import NnboxError
from nnunet_box.inference.ensemble import InferenceOptions, LoadNetwork, Member, predict_case
from nnunet_box.inference.predictor import mirror_axes
from nnunet_box.inference.runtime import Runtime
from nnunet_box.planning.variant import recipe
from nnunet_box.progress import say

MARGIN = 0.2
"""Share of the budget left free: the organiser's machine is another one, and busy with others."""

START_SECONDS = 3.0
"""Allowed for a container's start and for reading and writing the case."""

HOPELESS = 1.3
"""What is estimated this much over the limit is not tried: an estimate knows nothing of caches."""


class OverBudget(NnboxError):
    """Not even one network without mirroring fits."""


@dataclass(frozen=True)
class Choice:
    """What of a bundle runs. folds: of each ensemble. members: how many, the first ones."""

    mirroring: bool
    folds: int
    members: int


@dataclass
class _Spent:
    """Seconds in networks: loading them, and running them, by configuration."""

    loading: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)

    def add(self, spent: dict[str, float], name: str, began: float) -> None:
        spent[name] = spent.get(name, 0.0) + time.monotonic() - began


class Predict(Protocol):
    """A bundle and a way to load its networks to the seconds of one case."""

    def __call__(self, bundle: Bundle, load_network: LoadNetwork) -> float: ...


def choices(bundle: Bundle) -> Iterator[Choice]:
    """What may run, from everything down, in the order it is given up."""
    folds, members = max(len(stage.weights) for stage in bundle.stages), len(bundle.members)
    if bundle.mirroring:
        yield Choice(True, folds, members)
    for count in range(folds, 0, -1):
        yield Choice(False, count, members)
    for count in range(members - 1, 0, -1):
        yield Choice(False, 1, count)


def cut(bundle: Bundle, choice: Choice, budget: BudgetRecord | None = None) -> Bundle:
    """The bundle with no more than a choice says; what is left out is not among its weights either.

    The networks kept are those of the lowest folds. The first members are selection's, the best by cross-validation
    first.
    """
    members = tuple(_cut_member(member, choice.folds) for member in bundle.members[: choice.members])
    whole = choice.members == len(bundle.members) and members == bundle.members
    if whole and choice.mirroring and budget is None:
        return bundle
    folds = None if whole else choice.folds
    inference = InferencePart(mirroring=choice.mirroring, folds=folds, budget=budget)
    return bundle.model_copy(update={"members": members, "inference": inference})


def _cut_member(member: BundleMember, folds: int) -> BundleMember:
    before = None if member.previous_stage is None else _cut_member(member.previous_stage, folds)
    kept = tuple(sorted(member.weights, key=lambda entry: entry.fold)[:folds])
    return member.model_copy(update={"weights": kept, "previous_stage": before})


def fit_budget(
    bundle: Bundle, load_network: LoadNetwork, predict: Predict, budget_seconds: float, case: str, shape: Sequence[int]
) -> Bundle:
    """The bundle cut to what one case's time allows, with the record of what was tried.

    predict: runs the trial case and returns its seconds. case, shape: which it is, for the record. The cheapest choice
    is measured first; the others are estimated from it, and the first that may fit is measured too, so that what is
    chosen has always been measured.

    Raises
    ------
    OverBudget: with the seconds that the cheapest needs.
    """
    limit = budget_seconds * (1 - MARGIN) - START_SECONDS
    order = list(choices(bundle))
    trials: list[Trial] = []

    def measure(choice: Choice) -> tuple[float, _Spent]:
        spent, shipped = _Spent(), cut(bundle, choice)
        say(f"Measuring {_words(choice, shipped)} on {case}")
        seconds = predict(shipped, _timed(load_network, spent))
        trials.append(_trial(choice, shipped, seconds, True))
        say(f"{seconds:.1f} s; at most {max(0.0, limit):.1f} s of {budget_seconds:g} s are for prediction")
        return seconds, spent

    # One fold of every member tells what each costs; where that is too much, fewer members.
    cheap = Choice(False, 1, len(bundle.members))
    least, spent = measure(cheap)
    fixed = least - sum(spent.running.values()) - sum(spent.loading.values())
    for choice in order:
        if choice == cheap:
            if least <= limit:
                return _chosen(bundle, choice, budget_seconds, case, shape, trials)
            continue
        guess = fixed + _network_seconds(bundle, choice, spent)
        # What is not in networks is a member's too, and nobody knows which one's: fewer members are always tried.
        if choice.members == cheap.members and guess > HOPELESS * limit:
            trials.append(_trial(choice, cut(bundle, choice), guess, False))
            continue
        seconds, _ = measure(choice)
        if seconds <= limit:
            return _chosen(bundle, choice, budget_seconds, case, shape, trials)
    cheapest = min(trials, key=lambda trial: trial.seconds)
    needed = (cheapest.seconds + START_SECONDS) / (1 - MARGIN)
    raise OverBudget(
        f"--budget-per-case {budget_seconds:g}s: one network of {' and '.join(cheapest.members)} without mirroring "
        f"takes {cheapest.seconds:.1f} s here, so a case needs a budget of {needed:.0f} s with start and margin. "
        "Ask for that, use a faster runtime, or train a smaller configuration."
    )


def _chosen(
    bundle: Bundle, choice: Choice, budget: float, case: str, shape: Sequence[int], trials: Sequence[Trial]
) -> Bundle:
    record = BudgetRecord(
        budget_seconds=budget,
        margin=MARGIN,
        start_seconds=START_SECONDS,
        case=case,
        shape=tuple(int(length) for length in shape),
        trials=tuple(trials),
    )
    return cut(bundle, choice, record)


def _words(choice: Choice, shipped: Bundle) -> str:
    names = " and ".join(member.configuration for member in shipped.members)
    folds = f"{choice.folds} fold{'s' * (choice.folds > 1)}"
    return f"{names}, {folds}, {'with' if choice.mirroring else 'without'} mirroring"


def _trial(choice: Choice, shipped: Bundle, seconds: float, measured: bool) -> Trial:
    names = tuple(member.configuration for member in shipped.members)
    return Trial(
        mirroring=choice.mirroring, folds=choice.folds, members=names, seconds=round(seconds, 2), measured=measured
    )


def _network_seconds(bundle: Bundle, choice: Choice, spent: _Spent) -> float:
    """Seconds in networks for a choice, from those that one fold of each ensemble took without mirroring."""
    total = 0.0
    shipped = cut(bundle, choice)
    for stage in dict.fromkeys(shipped.stages):
        axes = bundle.plan.configuration_of(stage.configuration).mirrors
        flips = len(mirror_axes(axes, choice.mirroring and recipe(stage.variants).mirroring))
        running = spent.running.get(stage.configuration, 0.0)
        total += len(stage.weights) * (spent.loading.get(stage.configuration, 0.0) + running * flips)
    return total


def _timed(load_network: LoadNetwork, spent: _Spent) -> LoadNetwork:
    def load(member: Member, weights: Path) -> Runtime:
        name, began = member.configuration, time.monotonic()
        network = load_network(member, weights)
        spent.add(spent.loading, name, began)

        def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            began = time.monotonic()
            logits = network(batch)
            spent.add(spent.running, name, began)
            return logits

        return run

    return load


def case_timer(image: NDArray[np.float32], spacing: tuple[float, float, float], folder: Path) -> Predict:
    """Predicts an image (C, Z, Y, X) of that spacing (mm) with weights below ``folder``, and returns the seconds."""

    def predict(bundle: Bundle, load_network: LoadNetwork) -> float:
        began = time.monotonic()
        options = InferenceOptions(mirroring=bundle.mirroring)
        predict_case(image, spacing, bundle.plan, bundle.ensemble(folder), load_network, options)
        return time.monotonic() - began

    return predict
