"""Which folds of a model are finished, what a finished fold follows from, and what a cascade takes from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunet_box.bundle import sha256
from nnunet_box.dataset.cases import SourceCase
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.errors import UsageError
from nnunet_box.execution.contents import dataset_key
from nnunet_box.execution.stage import STAGE_FILE, is_done, key_of
from nnunet_box.files import read_json
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.variant import model_name
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.workspace import VALIDATION, Workspace


def training_name(model: str, fold: int) -> str:
    """What the task of a fold, and its lock, are called."""
    return f"train-{model}-{fold}"


def finished_folds(workspace: Workspace, model: str, folds: int) -> list[int]:
    """Folds of a model that are trained and validated."""
    return [fold for fold in range(folds) if (workspace.fold(model, fold) / STAGE_FILE).is_file()]


def fold_key(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    settings: TrainingSettings,
    previous: Mapping[str, Path] | None = None,
) -> str:
    """What a fold's result follows from; equal keys mean that it need not be made again.

    previous: for a cascade, the label maps of its first stage (see ``previous_predictions``).
    """
    # The three that say nothing are those that stood in the keys of folds trained by version 0.1.
    values = {**settings.of_the_result(), "device": "", "workers": None, "checkpoint_seconds": 0}
    before = [] if previous is None else [content_key(previous)]
    return key_of([values, *_network_and_cases(workspace, dataset, plan, settings), *before])


def run_key(
    workspace: Workspace,
    dataset: Dataset,
    plan: Plan,
    settings: TrainingSettings,
    previous: Mapping[str, Path] | None = None,
) -> str:
    """What must stay the same for an unfinished fold to be continued."""
    before = None if previous is None else content_key(previous)
    design = _network_and_cases(workspace, dataset, plan, settings)
    return key_of([settings.identity(), *design, before, dataset_key(workspace, dataset)])


def _network_and_cases(
    workspace: Workspace, dataset: Dataset, plan: Plan, settings: TrainingSettings
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network's configuration, and the cases it is trained and validated on."""
    fold = load_or_make_folds(workspace.splits, dataset)[settings.fold]
    return plan.configuration_of(settings.configuration).model_dump(mode="json"), fold.model_dump()


def fold_inputs(workspace: Workspace, dataset: Dataset) -> dict[str, str]:
    """Keys of what a fold is made from, beside its own. Folds of version 0.1 have noted none and are taken as they
    are.
    """
    return {"dataset": dataset_key(workspace, dataset)}


def content_key(predictions: Mapping[str, Path]) -> str:
    """What says that label maps changed: their content, so that a copied workspace stays as it is."""
    return key_of({case: sha256(file) for case, file in predictions.items()})


def prediction_file(folder: Path, case: SourceCase) -> Path:
    """Where a case's predicted label map lies."""
    return folder / f"{case.id}.nii.gz"


def previous_predictions(
    workspace: Workspace, dataset: Dataset, plan: Plan, configuration: str, variants: Iterable[str]
) -> dict[str, Path] | None:
    """Case id to the label map that a model takes as input while it is trained; None where it takes none.

    Each is the previous stage's validation prediction, of the one fold whose network has not seen the case (authors'
    code of April 2019); hence all folds are needed. The previous stage has the same variants.

    Raises
    ------
    UsageError: folds that are not finished, or are of another plan or split; the message names them and the command.
    """
    before = plan.previous_stage_of(configuration)
    if before is None:
        return None
    variants = tuple(variants)
    model = model_name(before, variants)
    cases = {case.id: case for case in dataset.cases}
    missing: list[int] = []
    found: dict[str, Path] = {}
    for number, fold in enumerate(load_or_make_folds(workspace.splits, dataset)):
        folder = workspace.fold(model, number)
        files = {case: prediction_file(folder / VALIDATION, cases[case]) for case in fold.val}
        if is_of_this_plan(workspace, dataset, plan, folder) and all(file.is_file() for file in files.values()):
            found |= files
        else:
            missing.append(number)
    if missing:
        command = f"nnbox train {dataset.name} --configuration {before} --fold {missing[0]}"
        command += f" --variant {','.join(variants)}" if variants else ""
        others = f", likewise {', '.join(map(str, missing[1:]))}" if missing[1:] else ""
        raise UsageError(
            f"{configuration} takes the validation predictions of all folds of {model} as input; of this plan and "
            f"split, fold{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} of it "
            f"{'are' if len(missing) > 1 else 'is'} not finished. Train first: {command}{others}."
        )
    return found


def is_of_this_plan(
    workspace: Workspace, dataset: Dataset, plan: Plan, folder: Path, previous: Mapping[str, Path] | None = None
) -> bool:
    """Whether a fold is finished and was trained with this plan and split, whatever its other settings.

    previous: for a cascade, the label maps it would be trained on now.
    """
    if not (folder / STAGE_FILE).is_file():
        return False
    try:
        settings = TrainingSettings(**read_json(folder / STAGE_FILE, schema_version=1)["parameters"])
        key = fold_key(workspace, dataset, plan, settings, previous)
    except (KeyError, IndexError, TypeError, UsageError):
        # Another version's, or damaged: its result is not known to be the same.
        return False
    return is_done(folder, key, fold_inputs(workspace, dataset))
