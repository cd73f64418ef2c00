"""From trained folds to a bundle: selection by cross-validation, then everything a submission needs in one folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import nnunet_box
from nnunet_box.bundle import Bundle, load_bundle, sha256, write_bundle
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.errors import UsageError
from nnunet_box.evaluation.selection import Selection, load_selection, select
from nnunet_box.execution.folds import finished_folds
from nnunet_box.execution.stage import STAGE_FILE, is_done, key_of, stage
from nnunet_box.files import read_json
from nnunet_box.inference.ensemble import Member
from nnunet_box.inference.torch_runtime import choose_device, plan_network
from nnunet_box.locks import held
from nnunet_box.planning.plan import Plan, load_plan
from nnunet_box.planning.variant import model_name, split_model_name
from nnunet_box.temporary import sweep_left
from nnunet_box.training.trainer import WEIGHTS
from nnunet_box.workspace import Workspace


def select_dataset(
    workspace: Workspace,
    dataset: Dataset,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
) -> Selection:
    """Choose by cross-validation over ``folds`` (those that every configuration has finished, if None); writes
    ``selection.json``.

    Raises
    ------
    UsageError: nothing is trained yet. InvalidData: a fold asked for is not there.
    """
    names, wanted = _resolved(workspace, dataset, configurations, folds)
    (workspace.models / STAGE_FILE).unlink(missing_ok=True)
    splits = load_or_make_folds(workspace.splits, dataset)
    labels = load_plan(workspace.plan).labels
    return select(dataset.cases, workspace.models, names, {fold: splits[fold].val for fold in wanted}, labels)


def _resolved(
    workspace: Workspace, dataset: Dataset, configurations: Sequence[str] | None, folds: Sequence[int] | None
) -> tuple[list[str], list[int]]:
    """Models and folds that selection is over."""
    plan = load_plan(workspace.plan)
    splits = load_or_make_folds(workspace.splits, dataset)
    done = {name: finished_folds(workspace, name, len(splits)) for name in configurations or plan.models}
    names = list(configurations) if configurations else [name for name, finished in done.items() if finished]
    if not names:
        raise UsageError(
            f"No fold of {dataset.name} is trained yet: nnbox train {dataset.name} --configuration 3d_fullres --fold 0."
        )
    common = sorted(set.intersection(*(set(done[name]) for name in names)))
    wanted = list(folds) if folds is not None else common
    if not wanted:
        held = "; ".join(f"{name}: folds {done[name]}" for name in names)
        raise UsageError(
            f"No fold is finished for every configuration ({held}). Train the missing ones or name --configurations."
        )
    unknown = [fold for fold in wanted if not 0 <= fold < len(splits)]
    if unknown:
        raise UsageError(f"--folds {unknown}: this data set has folds 0 to {len(splits) - 1}.")
    return names, wanted


def bundle_dataset(workspace: Workspace, dataset: Dataset) -> Bundle:
    """Write the bundle of what ``selection.json`` chose.

    Raises
    ------
    InvalidData: no selection yet, or weights are missing, damaged or of another network.
    """
    selection = load_selection(workspace.selection)
    plan = load_plan(workspace.plan)
    weights = {name: _weights(workspace, name, selection.folds) for name in selection.chosen}
    previous = {}
    for name in selection.chosen:
        configuration, variants = split_model_name(name)
        before = plan.previous_stage_of(configuration)
        if before is not None:
            # Whatever folds were selected over: a cascade was trained on the predictions of all of them.
            folds = range(len(load_or_make_folds(workspace.splits, dataset)))
            model = model_name(before, variants)
            previous[model] = _weights(workspace, model, folds)
    _check_weights(plan, weights | previous)
    return write_bundle(
        workspace.bundle,
        dataset=dataset.name,
        challenge=dataset.challenge,
        plan=plan,
        weights=weights,
        postprocessing=selection.postprocessing,
        cross_validation_dice=selection.best.mean_foreground_dice,
        previous_weights=previous,
    )


def _check_weights(plan: Plan, weights: Mapping[str, Mapping[int, Path]]) -> None:
    """Load every network once: what is wrong with one is better seen here than on the organiser's machine."""
    cpu = choose_device("cpu")
    for name, folds in weights.items():
        configuration, variants = split_model_name(name)
        for file in folds.values():
            if file.is_file():  # Else bundling says how to make it.
                plan_network(Member(configuration, (file,), variants), file, plan, cpu)


def select_and_bundle(
    workspace: Workspace,
    dataset: Dataset,
    models: Sequence[str] | None = None,
    folds: Sequence[int] | None = None,
) -> tuple[Selection, Bundle]:
    """``select_dataset`` and ``bundle_dataset``, unless what they make is there and of the same folds as they are now.

    Raises
    ------
    UsageError, InvalidData: as they do.
    """
    with held(workspace.lock("select"), f"the selection of {dataset.name}"):
        sweep_left(workspace.models)
        names, wanted = _resolved(workspace, dataset, models, folds)
        key = _selection_key(workspace, names, wanted)
        if not _is_selected(workspace, key):
            with stage(workspace.models, key, {"folds": wanted}):
                select_dataset(workspace, dataset, names, wanted)
                bundle_dataset(workspace, dataset)
    return load_selection(workspace.selection), load_bundle(workspace.bundle)


def is_selected(workspace: Workspace, models: Sequence[str], folds: Sequence[int]) -> bool:
    """Whether the selection and the bundle are those of these folds as they are now."""
    return _is_selected(workspace, _selection_key(workspace, models, folds))


def _is_selected(workspace: Workspace, key: str) -> bool:
    there = workspace.selection.is_file() and (workspace.bundle / "bundle.json").is_file()
    return there and is_done(workspace.models, key)


def _selection_key(workspace: Workspace, models: Sequence[str], folds: Sequence[int]) -> str:
    """Of the folds' own keys and weights."""
    names = [(model, fold) for model in sorted(models) for fold in sorted(folds)]
    facts: list[object] = [nnunet_box.__version__]
    for model, fold in names:
        folder = workspace.fold(model, fold)
        if not (folder / STAGE_FILE).is_file():
            return ""
        facts.append(
            [model, fold, read_json(folder / STAGE_FILE, schema_version=1).get("key"), sha256(folder / WEIGHTS)]
        )
    return key_of(facts)


def _weights(workspace: Workspace, model: str, folds: Iterable[int]) -> dict[int, Path]:
    return {fold: workspace.fold(model, fold) / WEIGHTS for fold in folds}
