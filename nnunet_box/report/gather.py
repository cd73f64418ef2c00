"""Everything a report shows, read from a workspace: what is not there yet is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_box.bundle import BUNDLE_FILE, Bundle, load_bundle
from nnunet_box.dataset.challenge import Challenge, PublishedScore, challenge_names, load_challenge
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import Fold, load_or_make_folds
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.selection import Selection, ensemble_name, load_selection
from nnunet_box.execution.contents import dataset_key
from nnunet_box.files import read_json
from nnunet_box.means import mean_of
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.report.cohort import Cohort, measure_cohort
from nnunet_box.report.results import Run, Scored, read_ensemble, read_runs, read_scores, trained_models
from nnunet_box.submission.record import IMAGE_RECORD
from nnunet_box.workspace import Workspace

BEST, MEDIAN, WORST = 3, 3, 6
"""Cases shown as pictures."""


@dataclass(frozen=True)
class Facts:
    """What a report is made of. plan, selection, bundle: None where there is none yet. scores: of each model, and of
    the chosen pair, that has validated cases. images: records of images built of this data set. published: of the
    challenge.
    """

    dataset: Dataset
    challenge: Challenge | None
    cohort: Cohort
    plan: Plan | None
    folds: tuple[Fold, ...]
    runs: tuple[Run, ...]
    scores: tuple[Scored, ...]
    selection: Selection | None
    bundle: Bundle | None
    images: tuple[Mapping[str, Any], ...]
    published: tuple[PublishedScore, ...]

    @property
    def chosen(self) -> Scored | None:
        """The scores that count: the selection's, else the best mean so far."""
        if self.selection is not None:
            name = ensemble_name(self.selection.chosen)
            return next((scored for scored in self.scores if scored.name == name), None)
        labels = self.dataset.foreground_labels
        return max(self.scores, key=lambda scored: mean_of(scored.mean_dice(labels).values()) or 0.0, default=None)

    def fold_of(self, case: str) -> int | None:
        """The fold a case is held out of."""
        return next((number for number, fold in enumerate(self.folds) if case in fold.val), None)


def gather(workspace: Workspace, dataset: Dataset, processes: int | None = None) -> Facts:
    """Read a data set, its plan, trainings, selection, bundle and images.

    Raises
    ------
    InvalidData: one of the files is there and damaged. NnboxError: the disk is full.
    """
    cohort = measure_cohort(
        workspace.report / "cohort.json", dataset_key(workspace, dataset), dataset, processes=processes
    )
    plan = load_plan(workspace.plan) if workspace.plan.is_file() else None
    folds = tuple(load_or_make_folds(workspace.splits, dataset)) if workspace.splits.is_file() else ()
    models = trained_models(workspace)
    scores = [read_scores(workspace, model, folds) for model in models]
    selection = load_selection(workspace.selection) if workspace.selection.is_file() else None
    if selection is not None:
        pair = read_ensemble(workspace, selection, folds)
        scores += [pair] if pair is not None else []
    name = dataset.challenge
    challenge = load_challenge(name) if name is not None and name in challenge_names() else None
    bundle = load_bundle(workspace.bundle) if (workspace.bundle / BUNDLE_FILE).is_file() else None
    return Facts(
        dataset=dataset,
        challenge=challenge,
        cohort=cohort,
        plan=plan,
        folds=folds,
        runs=tuple(read_runs(workspace, models, len(folds))),
        scores=tuple(scored for scored in scores if scored.cases),
        selection=selection,
        bundle=bundle,
        images=tuple(_images(workspace)),
        published=_published(challenge, dataset),
    )


def shown_cases(facts: Facts) -> dict[str, list[str]]:
    """Ids of the worst, median and best cases by mean foreground Dice, each case once; ``worst`` comes first."""
    scored = facts.chosen
    if scored is None:
        return {}
    means = {case: scored.mean_of(case) for case in scored.cases}
    ranked = sorted((mean, case) for case, mean in means.items() if mean is not None)
    ids = [case for _, case in ranked]
    worst = ids[:WORST]
    rest = ids[len(worst) :]
    best = rest[::-1][:BEST]
    rest = rest[: len(rest) - len(best)]
    # The ones nearest to the median of all, of those that are not shown yet.
    middle = len(ids) // 2
    near = sorted(rest, key=lambda case: abs(ids.index(case) - middle))[:MEDIAN]
    return {"worst": worst, "median": sorted(near, key=ids.index), "best": best}


def _images(workspace: Workspace) -> list[Mapping[str, Any]]:
    """Records that ``build-submission image`` left, the latest last; those that cannot be read are not ours."""
    found: list[tuple[float, Mapping[str, Any]]] = []
    for file in (workspace.root / "submissions").glob(f"*{IMAGE_RECORD}"):
        try:
            record = read_json(file, schema_version=1)
        except InvalidData:
            continue
        if isinstance(record, dict) and record.get("dataset") == workspace.dataset:
            found.append((file.stat().st_mtime, record))
    return [record for _, record in sorted(found, key=lambda pair: pair[0])]


def _published(challenge: Challenge | None, dataset: Dataset) -> tuple[PublishedScore, ...]:
    """Of the task whose labels the data set has; a challenge with one task has no other."""
    if challenge is None:
        return ()
    tasks = [task for task in challenge.facts.tasks if list(task.labels.values()) == list(dataset.labels.values())]
    names = {task.name for task in tasks}
    return tuple(score for score in challenge.facts.published if score.task is None or score.task in names)
