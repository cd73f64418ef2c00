"""From nnU-Net v2's model folders to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from nnunet_box.bundle import Bundle, write_bundle
from nnunet_box.disk import disk_errors, existing, hidden_disk_errors
from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.importing.checkpoint import Checkpoint, our_weights, read_checkpoint
from nnunet_box.importing.nnunet_plans import PLANS_FILE, read_dataset, read_plans, stage
from nnunet_box.importing.translate import Origin, role, translate
from nnunet_box.planning.plan import Plan
from nnunet_box.progress import track
from nnunet_box.temporary import recover_replaced, temporary_place

SCRATCH = "import"
CheckpointKind = Literal["final", "best"]
FOLD_OF_ALL = 0
"""The number a bundle gives to ``fold_all``, the network trained on every case."""


@dataclass(frozen=True)
class TrainedFolder:
    """A model folder, read but for its weights. model: our name of its configuration. plan: with that one only. folds:
    number to checkpoint. convolution_biases: whether its convolutions have them. previous: of a cascade, the folder of
    the stage before.
    """

    folder: Path
    model: str
    plan: Plan
    folds: dict[int, Path]
    convolution_biases: bool
    previous: TrainedFolder | None


def import_models(
    folders: Sequence[Path],
    output: Path,
    folds: Sequence[int] | Literal["all"] | None = None,
    kind: CheckpointKind = "final",
    challenge: str | None = None,
    previous_stage: Path | None = None,
) -> Bundle:
    """Write a bundle that predicts as nnU-Net v2 does with the model of a folder; of several, with their ensemble.

    folders: ``TRAINER__PLANS__CONFIGURATION`` each. folds: numbers, ``all`` for the network trained on all cases, or
    those that are there. previous_stage: folder of a cascade's first stage; beside the cascade's by default.

    Raises
    ------
    InvalidData: a file is missing, damaged, or of a model that is not supported; the message names what of it.
    UsageError: two of the folders hold the same configuration, or their models do not belong together.
    NnboxError: the output cannot be written.
    """
    read = [_read_folder(folder, folds, kind, previous_stage) for folder in folders]
    plan = _joint_plan(read)
    beside = existing(output.resolve().parent)  # scratch files must be on a disk with room
    recover_replaced(beside / SCRATCH)
    with disk_errors(output), temporary_place(beside, SCRATCH) as scratch, hidden_disk_errors(scratch):
        stages = {one.model: one for folder in read for one in (folder.previous, folder) if one is not None}
        work = [(one, fold, file) for one in stages.values() for fold, file in one.folds.items()]
        converted: dict[str, dict[int, Path]] = {}
        for one, fold, file in track(work, "Convert weights"):
            target = scratch / f"{one.model}-{fold}.safetensors"
            weights = our_weights(read_checkpoint(file), plan, one.model, one.convolution_biases)
            save_file(weights, target)
            converted.setdefault(one.model, {})[fold] = target
        return write_bundle(
            output,
            dataset=plan.dataset,
            challenge=challenge,
            plan=plan,
            weights={folder.model: converted[folder.model] for folder in read},
            postprocessing=Postprocessing(),
            previous_weights={
                folder.previous.model: converted[folder.previous.model] for folder in read if folder.previous
            },
        )


def _read_folder(
    folder: Path, folds: Sequence[int] | Literal["all"] | None, kind: CheckpointKind, previous_stage: Path | None
) -> TrainedFolder:
    plans, dataset = read_plans(folder), read_dataset(folder)
    files = _fold_files(folder, folds, kind)
    checkpoints = {fold: read_checkpoint(file) for fold, file in files.items()}
    first = _agreeing(list(checkpoints.values()))
    origin = Origin(plans, dataset, first.configuration)
    found = stage(plans, first.configuration)
    previous = None
    if found.previous_stage is not None:
        # nnU-Net names folders TRAINER__PLANS__CONFIGURATION; a name with a path in it stays a name.
        beside = f"{first.trainer}__{plans.plans_name}__{found.previous_stage}".replace("/", "_")
        where = previous_stage or folder.resolve().parent / beside
        if not (where / PLANS_FILE).is_file():
            raise InvalidData(
                where,
                f"the model of {found.previous_stage}, whose label map {first.configuration} takes as input",
                "no plans.json there",
                "Name its folder with --previous-stage.",
            )
        previous = _read_folder(where, folds, kind, None)
    return TrainedFolder(
        folder=folder,
        model=role(origin, found),
        plan=translate(origin, found, first.mirror_axes),
        folds=files,
        convolution_biases=found.architecture.conv_bias,
        previous=previous,
    )


def _fold_files(folder: Path, folds: Sequence[int] | Literal["all"] | None, kind: CheckpointKind) -> dict[int, Path]:
    name = f"checkpoint_{kind}.pth"
    if folds == "all":
        return {FOLD_OF_ALL: folder / "fold_all" / name}
    if folds is not None:
        return {fold: folder / f"fold_{fold}" / name for fold in folds}
    there = {
        int(file.parent.name.removeprefix("fold_")): file
        for file in sorted(folder.glob(f"fold_*/{name}"))
        if file.parent.name.removeprefix("fold_").isdecimal()
    }
    if not there and (folder / "fold_all" / name).is_file():
        return {FOLD_OF_ALL: folder / "fold_all" / name}
    if not there:
        raise InvalidData(
            folder,
            f"folds with {name}",
            f"{', '.join(sorted(path.name for path in folder.glob('fold_*'))) or 'no fold'}",
            "Let a training end, or take checkpoint_best with --checkpoint best.",
        )
    return dict(sorted(there.items()))


def _agreeing(checkpoints: list[Checkpoint]) -> Checkpoint:
    """The first checkpoint; the others must be of the same configuration and mirroring."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if (other.configuration, other.mirror_axes) != (first.configuration, first.mirror_axes):
            raise InvalidData(
                other.file,
                f"{first.configuration} mirrored along {first.mirror_axes}, as {first.file.parent.name}",
                f"{other.configuration} along {other.mirror_axes}",
                "Import folds of one training recipe.",
            )
    return first


def _joint_plan(read: Sequence[TrainedFolder]) -> Plan:
    """One plan with the configurations of every folder and of the stages before them."""
    first = read[0].plan
    configurations = dict(first.configurations)
    models: set[str] = set()
    for folder in read:
        if folder.model in models:
            raise UsageError(f"{folder.folder}: a second model of {folder.model}; an ensemble takes one of each.")
        models.add(folder.model)
        for one in (folder.previous, folder):
            if one is None:
                continue
            if one.plan.model_copy(update={"configurations": {}}) != first.model_copy(update={"configurations": {}}):
                raise UsageError(
                    f"{one.folder}: another data set or normalisation than {read[0].folder}; an ensemble, or a "
                    "cascade, is made of models of one plans.json."
                )
            for name, configuration in one.plan.configurations.items():
                if configurations.setdefault(name, configuration) != configuration:
                    raise UsageError(
                        f"{one.folder}: its {name} is planned otherwise than another folder's; name models "
                        "of one plans.json."
                    )
    return first.model_copy(update={"configurations": configurations})
