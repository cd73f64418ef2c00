"""One network of the cross-validation: train it, then predict the cases it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from nnunet_box.bundle import sha256
from nnunet_box.dataset.cases import read_image, read_label
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import Fold, load_or_make_folds
from nnunet_box.dataset.volumes import write_labels_like
from nnunet_box.disk import disk_errors
from nnunet_box.errors import UsageError
from nnunet_box.evaluation.summary import read_summary, summarise_pairs, summary_dice, write_summary
from nnunet_box.execution.folds import (
    fold_inputs,
    fold_key,
    is_of_this_plan,
    prediction_file,
    previous_predictions,
    run_key,
    training_name,
)
from nnunet_box.execution.prepare import existing_plan, prepare_previous_stage, preprocess_dataset
from nnunet_box.execution.stage import STAGE_FILE, is_done, stage
from nnunet_box.files import link_or_copy, read_json, remove_folder, write_text
from nnunet_box.inference.ensemble import InferenceOptions, Member, predict_case
from nnunet_box.inference.export import PROBABILITIES_SUFFIX
from nnunet_box.inference.torch_runtime import choose_device, plan_network
from nnunet_box.locks import held
from nnunet_box.planning.plan import Plan
from nnunet_box.progress import say, track
from nnunet_box.temporary import sweep_left
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trackers import TrackedRun, make_trackers
from nnunet_box.training.trainer import WEIGHTS, Trainer
from nnunet_box.workspace import VALIDATION, Workspace

RUN, TRAINED, PREDICTED = "run", "trained", "predicted"
"""Files that say of which run a fold's checkpoint, its weights and its validation predictions are."""


def train_fold(
    workspace: Workspace, dataset: Dataset, settings: TrainingSettings, resume: bool = True, restart: bool = False
) -> float:
    """Preprocess if need be, train, validate; returns the validation cases' mean foreground Dice.

    A finished fold with the same settings is left as it is; ``restart`` throws away what is there. A changed plan,
    split or data set trains it anew; an unfinished run of before is set aside then. Where another process trains the
    fold, this one waits for it.

    Raises
    ------
    UsageError: no such fold, one that is finished with other settings, an unfinished run that neither ``resume`` nor
    ``restart`` covers, or a cascade whose previous stage is not finished.
    InvalidData: a case or a file of the workspace that is not what it should be.
    """
    plan = existing_plan(workspace, dataset)
    folds = load_or_make_folds(workspace.splits, dataset)
    if not 0 <= settings.fold < len(folds):
        raise UsageError(f"--fold {settings.fold}: this data set has folds 0 to {len(folds) - 1}.")
    previous = previous_predictions(workspace, dataset, plan, settings.configuration, settings.variants)
    name = f"{settings.model} fold {settings.fold}"
    with held(workspace.lock(training_name(settings.model, settings.fold)), name):
        folder = workspace.fold(settings.model, settings.fold)
        for place in (folder, folder / VALIDATION):
            sweep_left(place)
        if restart and folder.exists():
            remove_folder(folder)
        if not fold_is_done(workspace, dataset, plan, settings, previous):
            if is_of_this_plan(workspace, dataset, plan, folder, previous):
                raise UsageError(
                    f"{folder} is finished, with other settings ({', '.join(_differences(folder, settings))}). Use "
                    f"those, another --workspace, or nnbox train {dataset.name} --configuration "
                    f"{settings.configuration} --fold {settings.fold} --restart, which throws it away."
                )
            _train_and_validate(workspace, dataset, plan, folds[settings.fold], settings, previous, resume)
        dice = summary_dice(read_summary(folder / VALIDATION / "summary.json"))
    say(f"{name}: mean foreground Dice {dice:.4f}")
    return dice


def _train_and_validate(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    fold: Fold,
    settings: TrainingSettings,
    previous: Mapping[str, Path] | None,
    resume: bool,
) -> None:
    folder = workspace.fold(settings.model, settings.fold)
    store = preprocess_dataset(workspace, dataset, plan, settings.configuration)
    before = None
    if previous is not None:
        before = prepare_previous_stage(workspace, dataset, plan, settings.model, previous)
    run = run_key(workspace, dataset, plan, settings, previous)
    if resume:
        _set_aside(folder, run)
    key, inputs = fold_key(workspace, dataset, plan, settings, previous), fold_inputs(workspace, dataset)
    with stage(folder, key, asdict(settings), inputs):
        trained = f"{key} {run}"
        weights = folder / WEIGHTS
        if not (weights.is_file() and _content(folder / TRAINED) == trained):
            if not (folder / "checkpoint").exists():
                write_text(folder / RUN, run)
            trackers = make_trackers(settings.trackers, _tracked_run(workspace, plan, settings, run))
            Trainer(plan, store, fold, folder, settings, before, trackers).run(resume)
            write_text(folder / TRAINED, trained)
        _keep_predictions_of(folder, f"{trained} {sha256(weights)}")
        validate_fold(dataset, plan, fold, settings, weights, previous)
        if (folder / "checkpoint").exists():
            remove_folder(folder / "checkpoint")


def _tracked_run(workspace: Workspace, plan: Plan, settings: TrainingSettings, run: str) -> TrackedRun:
    return TrackedRun(
        dataset=plan.dataset,
        model=settings.model,
        fold=settings.fold,
        folder=workspace.fold(settings.model, settings.fold),
        shared=workspace.logs,
        key=run,
        settings=asdict(settings),
        plan=plan.configuration_of(settings.configuration).model_dump(mode="json"),
        labels={value: name for value, name in plan.labels.items() if value},
    )


def fold_is_done(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    settings: TrainingSettings,
    previous: Mapping[str, Path] | None,
) -> bool:
    """Whether a fold is trained and validated with these settings, of this plan, split and data set.

    previous: see ``previous_predictions``.
    """
    key = fold_key(workspace, dataset, plan, settings, previous)
    return is_done(workspace.fold(settings.model, settings.fold), key, fold_inputs(workspace, dataset))


def _differences(folder: Path, settings: TrainingSettings) -> list[str]:
    """Settings of a finished fold that ``settings`` would change, as ``name value``."""
    before = TrainingSettings(**read_json(folder / STAGE_FILE)["parameters"]).of_the_result()
    return [
        f"{name} {before[name]}"
        for name, value in settings.of_the_result().items()
        if name != "variants" and before[name] != value
    ]


def _set_aside(folder: Path, run: str) -> None:
    """Rename a checkpoint of another run, so that this one begins anew and nothing is lost."""
    checkpoint, aside = folder / "checkpoint", folder / "checkpoint-before"
    if checkpoint.exists() and _content(folder / RUN) not in (None, run):
        if aside.exists():
            remove_folder(aside)
        checkpoint.rename(aside)
        say(f"{checkpoint} is of another plan, split or data set: training begins anew; it is kept as {aside.name}.")


def _keep_predictions_of(folder: Path, key: str) -> None:
    """Delete a fold's validation predictions unless they are of the network and the cases that ``key`` is of."""
    if _content(folder / PREDICTED) != key:
        if (folder / VALIDATION).exists():
            remove_folder(folder / VALIDATION)
        write_text(folder / PREDICTED, key)


def _content(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def validate_fold(
    dataset: Dataset,
    plan: Plan,
    fold: Fold,
    settings: TrainingSettings,
    weights: Path,
    previous: Mapping[str, Path] | None = None,
) -> None:
    """Predict the held-out cases as test cases would be, keep their probabilities for selection, and write
    ``summary.json``. Cases whose prediction is there are left as they are.

    previous: for a cascade, case id to the first stage's label map. It is that of the network that has not seen the
    case, not of the ensemble that predicts test cases, most of which has.
    """
    folder = weights.parent / VALIDATION
    cases = {case.id: case for case in dataset.cases}
    load = partial(plan_network, plan=plan, device=choose_device(settings.device))
    member = Member(settings.configuration, (weights,), settings.variants)
    held_out = [cases[case_id] for case_id in fold.val]
    ids = set(fold.val)
    for case in track(held_out, f"Validate {settings.model} fold {settings.fold}"):
        probabilities = folder / f"{case.id}{PROBABILITIES_SUFFIX}"
        # The label map is written last.
        if case.image_of in ids or (probabilities.is_file() and prediction_file(folder, case).is_file()):
            continue
        image, geometry = read_image(case)
        before = None if previous is None else read_label(previous[case.id], set(plan.labels), case.reference_file)
        labels = predict_case(
            image,
            geometry.spacing,
            plan,
            [member],
            load,
            InferenceOptions(),
            probabilities,
            before,
        )
        write_labels_like(prediction_file(folder, case), labels, case.reference_file)
    # Another rater's label of a scan: the same prediction, scored against it as well.
    for case in held_out:
        if case.image_of in ids:
            with disk_errors(folder / case.id):
                link_or_copy(prediction_file(folder, cases[case.image_of]), prediction_file(folder, case))
                shared = folder / f"{case.image_of}{PROBABILITIES_SUFFIX}"
                link_or_copy(shared, folder / f"{case.id}{PROBABILITIES_SUFFIX}")
    pairs = [(case.id, prediction_file(folder, case), case.label) for case in held_out if case.label is not None]
    write_summary(summarise_pairs(pairs, plan.labels), folder / "summary.json")
