"""Choosing what to submit: the best configuration or pair of configurations by cross-validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.crossvalidation import CrossValidation, ensemble_labels, write_ensemble
from nnunet_box.evaluation.metrics import confusion_matrix
from nnunet_box.evaluation.postprocessing import Postprocessing, PostprocessingDecision, decide_postprocessing, optional
from nnunet_box.evaluation.summary import (
    Pair,
    Summary,
    case_entry,
    foreground_labels,
    read_label_map,
    summarise_cases,
    summarise_pairs,
    summary_dice,
    write_summary,
)
from nnunet_box.files import read_json, write_json
from nnunet_box.planning.fingerprint import describe_errors
from nnunet_box.planning.plan import MODELS
from nnunet_box.planning.variant import SEPARATOR, split_model_name
from nnunet_box.progress import track
from nnunet_box.workspace import VALIDATION

SCHEMA_VERSION: Literal[1] = 1
ENSEMBLES = "ensembles"


class Candidate(BaseModel):
    """One configuration, or two whose softmax is averaged.

    dice: per label, the mean over the validation cases; None where the label occurs in no case. mean_foreground_dice:
    over labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    configurations: tuple[str, ...]
    dice: dict[int, float | None]
    mean_foreground_dice: float | None

    @property
    def name(self) -> str:
        return ensemble_name(self.configurations)


class Selection(BaseModel):
    """``selection.json``: everything that was compared, and what was chosen.

    labels: value to name. folds, cases: what cross-validation was over. candidates: simplest first.
    chosen: the configurations whose softmax is averaged, one or two. postprocessing: the decision, with Dice before and
    after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    dataset: str
    labels: dict[int, str]
    folds: tuple[int, ...]
    cases: int
    candidates: tuple[Candidate, ...]
    chosen: tuple[str, ...]
    postprocessing_decision: PostprocessingDecision

    @model_validator(mode="after")
    def _consistent(self) -> Selection:
        if not self.chosen or self.chosen not in {candidate.configurations for candidate in self.candidates}:
            raise ValueError(f"chosen: {self.chosen} is none of the candidates")
        for name in self.chosen:
            try:
                configuration, _ = split_model_name(name)
            except UsageError as error:
                raise ValueError(f"chosen: {error}") from error
            # The name is that of a folder, too.
            if configuration not in MODELS:
                raise ValueError(f"chosen: {name!r} is no model; there are {', '.join(MODELS)}")
        if min(self.folds, default=0) < 0:
            raise ValueError(f"folds: numbers from 0, not {self.folds}")
        steps = {label for step in self.postprocessing.steps for label in step}
        if not steps <= set(self.labels):
            raise ValueError(f"postprocessing: labels {sorted(steps)}, of which there are {sorted(self.labels)}")
        return self

    @property
    def postprocessing(self) -> Postprocessing:
        return self.postprocessing_decision.postprocessing

    @property
    def best(self) -> Candidate:
        """The chosen candidate."""
        return next(candidate for candidate in self.candidates if candidate.configurations == self.chosen)


def ensemble_name(configurations: Sequence[str]) -> str:
    """How a candidate is named: ``2d``, or ``2d+3d_fullres``."""
    return "+".join(configurations)


def simplest_first(configurations: Iterable[str]) -> list[str]:
    """Models in the order in which ties are broken: 2D before 3D, low before full resolution, cascade last; variants
    after what they depart from.
    """
    known = {name: index for index, name in enumerate(MODELS)}
    return sorted(set(configurations), key=lambda name: (known.get(name.split(SEPARATOR)[0], len(known)), name))


def best_candidate(candidates: Sequence[Candidate]) -> Candidate:
    """The highest mean foreground Dice; of exact ties the one that comes first, which is the simpler one.

    Raises
    ------
    InvalidData: no candidate has a defined Dice.
    """
    defined = [candidate for candidate in candidates if candidate.mean_foreground_dice is not None]
    if not defined:
        raise InvalidData(
            "validation predictions",
            "a structure in at least one case",
            "only background everywhere",
            "Check the labels.",
        )
    return max(defined, key=lambda candidate: candidate.mean_foreground_dice or 0.0)  # max keeps the first of equals


def select(
    cases: Sequence[SourceCase],
    models: Path,
    configurations: Sequence[str],
    folds: Mapping[int, Sequence[str]],
    labels: Mapping[int, str],
) -> Selection:
    """Compare every configuration and every pair on all validation cases of ``folds``, and decide on postprocessing.

    Preprint, "Ensembling and submission": the best single configuration or pair by mean foreground Dice of
    cross-validation. Writes ``<configuration>/summary.json``, for a chosen pair ``ensembles/<a>+<b>/`` (label maps and
    summary), and ``selection.json``.

    Parameters
    ----------
    cases: the data set's training cases, with their label files.
    models: folder of the data set's models; its name is the data set's.
    configurations: those to compare. folds: fold number to the ids of its validation cases.
    labels: value to name, background included.

    Raises
    ------
    UsageError: no configuration or no fold.
    InvalidData: a fold, a prediction, a pair's probabilities or a reference is missing or not what it has to be.
    """
    names = simplest_first(configurations)
    if not names or not folds:
        raise UsageError("Selection needs a configuration and a fold: nnbox train one, or name others.")
    validation = CrossValidation(models, folds, _references(cases, folds))
    pairs = {name: validation.pairs(name) for name in names}
    # Everything is looked for before anything is computed: a gap found after an hour of ensembling would be unkind.
    softmax = {name: validation.probabilities(name) for name in names} if len(names) > 1 else {}
    summaries: dict[tuple[str, ...], Summary] = {}
    for name in names:
        summaries[(name,)] = summarise_pairs(pairs[name], labels)
        write_summary(summaries[(name,)], models / name / "summary.json")
    for first, second in combinations(names, 2):
        summaries[(first, second)] = _pair_summary(validation, first, second, softmax, labels)
    candidates = tuple(_candidate(members, summary, labels) for members, summary in summaries.items())
    chosen = best_candidate(candidates).configurations
    if len(chosen) == 2:
        final = _write_pair(validation, chosen, softmax, pairs[chosen[0]], labels)
        write_summary(summaries[chosen], _ensemble_folder(models, chosen) / "summary.json")
    else:
        final = pairs[chosen[0]]
    selection = Selection(
        dataset=validation.dataset,
        labels=dict(labels),
        folds=tuple(sorted(folds)),
        cases=len(final),
        candidates=candidates,
        chosen=chosen,
        postprocessing_decision=decide_postprocessing(final, labels),
    )
    write_json(models / "selection.json", selection.model_dump(mode="json"))
    return selection


def load_selection(path: Path) -> Selection:
    """Read ``selection.json``.

    Raises
    ------
    InvalidData: missing, of another schema version, or not as ``select`` writes it.
    """
    try:
        return Selection.model_validate(read_json(path, schema_version=SCHEMA_VERSION))
    except ValidationError as error:
        raise InvalidData(
            path, "selection.json as nnbox select writes it", describe_errors(error), "Run nnbox select again."
        ) from error


def _references(cases: Sequence[SourceCase], folds: Mapping[int, Sequence[str]]) -> dict[str, Path]:
    labelled = {case.id: case.label for case in cases if case.label is not None}
    wanted = [case for fold in folds.values() for case in fold]
    missing = sorted(set(wanted) - set(labelled))
    if missing:
        raise InvalidData(
            "splits.json",
            "validation cases with a label",
            f"none for {missing[:3]}",
            "Restore the labels or split again.",
        )
    return {case: labelled[case] for case in wanted}


def _candidate(members: tuple[str, ...], summary: Summary, labels: Mapping[int, str]) -> Candidate:
    dice = {label: optional(summary_dice(summary, label)) for label in foreground_labels(labels)}
    return Candidate(configurations=members, dice=dice, mean_foreground_dice=optional(summary_dice(summary)))


def _ensemble_folder(models: Path, members: Sequence[str]) -> Path:
    return models / ENSEMBLES / ensemble_name(members)


def _pair_summary(
    validation: CrossValidation,
    first: str,
    second: str,
    softmax: Mapping[str, Mapping[str, Path]],
    labels: Mapping[int, str],
) -> Summary:
    foreground = foreground_labels(labels)
    folder = _ensemble_folder(validation.models, (first, second)) / VALIDATION
    entries = []
    for case, file in track(softmax[first].items(), f"averaging {first} and {second}", total=len(softmax[first])):
        predicted = ensemble_labels([file, softmax[second][case]], max(foreground) + 1)
        reference, _ = read_label_map(validation.references[case], foreground)
        if predicted.shape != reference.shape:
            raise InvalidData(
                file,
                f"shape {reference.shape} as {validation.references[case]}",
                f"{predicted.shape}",
                "Train the fold again.",
            )
        matrix = confusion_matrix(predicted, reference, max(foreground) + 1)
        entries.append(case_entry(folder / f"{case}.nii.gz", validation.references[case], matrix, foreground))
    return summarise_cases(entries, foreground)


def _write_pair(
    validation: CrossValidation,
    members: tuple[str, ...],
    softmax: Mapping[str, Mapping[str, Path]],
    grids: Sequence[Pair],
    labels: Mapping[int, str],
) -> list[Pair]:
    """Write the chosen pair's label maps; ``grids`` are the first member's pairs, whose headers are taken over."""
    classes = max(foreground_labels(labels)) + 1
    written: list[Pair] = []
    for case, like, reference in track(grids, f"writing {ensemble_name(members)}"):
        path = _ensemble_folder(validation.models, members) / VALIDATION / f"{case}.nii.gz"
        write_ensemble([softmax[member][case] for member in members], classes, like, path)
        written.append((case, path, reference))
    return written
