"""The portable trained model: JSON and safetensors, nothing that runs code when it is read."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.files import read_json, write_beside, write_json
from nnunet_box.inference.ensemble import Member
from nnunet_box.planning.fingerprint import describe_errors
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.variant import VARIANTS, model_name, recipe, split_model_name

BUNDLE_FILE = "bundle.json"
NOT_OURS = "This bundle is not ours; do not use it."


class WeightsFile(BaseModel):
    """A weights' file below the bundle's folder, with what it must hash to."""

    model_config = ConfigDict(frozen=True)

    fold: int
    file: str
    sha256: str


class BundleMember(BaseModel):
    """One configuration of the ensemble. variants: how its recipe departs from the paper's. previous_stage: of a
    cascade, the ensemble that predicts the label map it takes as input.
    """

    model_config = ConfigDict(frozen=True)

    configuration: str
    variants: tuple[str, ...] = ()
    weights: Annotated[tuple[WeightsFile, ...], Field(min_length=1)]
    previous_stage: BundleMember | None = None

    @property
    def stages(self) -> tuple[BundleMember, ...]:
        """The previous stage, where there is one, and the member."""
        return (self,) if self.previous_stage is None else (*self.previous_stage.stages, self)


class Trial(BaseModel):
    """What was tried to fit a budget. seconds: of the trial case, measured or else estimated from those that were."""

    model_config = ConfigDict(frozen=True)

    mirroring: bool
    folds: int
    members: tuple[str, ...]
    seconds: float
    measured: bool


class BudgetRecord(BaseModel):
    """How a bundle came to be cut to a time. margin: share of the budget left free, for machines that are slower than
    the one measured on. start_seconds: allowed for a container's start. case: the one that was predicted.
    """

    model_config = ConfigDict(frozen=True)

    budget_seconds: float
    margin: float
    start_seconds: float
    case: str
    shape: tuple[int, ...]
    trials: tuple[Trial, ...]


class InferencePart(BaseModel):
    """How a bundle is run. Absent from ``bundle.json`` (every bundle before 0.2): mirrored, with all networks.

    folds: networks of each member, where a budget left some out; their weights are not in the bundle.
    """

    model_config = ConfigDict(frozen=True)

    mirroring: bool = True
    folds: int | None = None
    budget: BudgetRecord | None = None


class Bundle(BaseModel):
    """``bundle.json``."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    dataset: str
    challenge: str | None
    plan: Plan
    members: Annotated[tuple[BundleMember, ...], Field(min_length=1)]
    postprocessing: Postprocessing
    cross_validation_dice: float | None = None
    inference: InferencePart | None = None

    @property
    def mirroring(self) -> bool:
        """Whether predictions are averaged over mirrored copies, unless the caller says otherwise."""
        return self.inference is None or self.inference.mirroring

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.inference is None:
            values.pop("inference", None)
        return values

    @property
    def labels(self) -> dict[int, str]:
        return self.plan.labels

    @property
    def channel_names(self) -> tuple[str, ...]:
        return self.plan.channel_names

    @property
    def stages(self) -> tuple[BundleMember, ...]:
        """Every ensemble that runs: the members and, before each, its previous stage."""
        return tuple(stage for member in self.members for stage in member.stages)

    @property
    def weights_files(self) -> tuple[WeightsFile, ...]:
        """Every weights' file, each once, though two ensembles may share it."""
        return tuple(dict.fromkeys(entry for stage in self.stages for entry in stage.weights))

    def ensemble(self, folder: Path, folds: tuple[int, ...] | None = None) -> list[Member]:
        """The members' weights below ``folder``; with ``folds`` only theirs, in a previous stage too: a case held out
        of those folds is then new to every network.

        Raises
        ------
        InvalidData: a configuration has none of the folds asked for.
        """
        return [_member(member, folder, folds) for member in self.members]


def _member(member: BundleMember, folder: Path, folds: tuple[int, ...] | None) -> Member:
    chosen = tuple(folder / entry.file for entry in member.weights if folds is None or entry.fold in folds)
    if not chosen:
        have = sorted(entry.fold for entry in member.weights)
        raise InvalidData(
            folder / BUNDLE_FILE,
            f"folds {folds} of {member.configuration}",
            f"folds {have}",
            "Ask for folds it has.",
        )
    before = None if member.previous_stage is None else _member(member.previous_stage, folder, folds)
    return Member(member.configuration, chosen, member.variants, before)


def sha256(file: Path) -> str:
    """Hex digest of a file, read in pieces.

    Raises
    ------
    InvalidData: it is missing, or no regular file: a pipe would be waited for without end.
    """
    if not file.is_file():
        raise InvalidData(file, "a regular file", "none", "Restore it, or run the step that writes it again.")
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_bundle(
    folder: Path,
    *,
    dataset: str,
    challenge: str | None,
    plan: Plan,
    weights: dict[str, dict[int, Path]],
    postprocessing: Postprocessing,
    cross_validation_dice: float | None = None,
    previous_weights: dict[str, dict[int, Path]] | None = None,
) -> Bundle:
    """Copy weights (model -> fold -> file) and write ``bundle.json``; the folder is put in place as a whole.

    previous_weights: the same of the models whose label maps cascades among ``weights`` take as input.

    Raises
    ------
    InvalidData: a weights' file is missing.
    NnboxError: the disk is full.
    """
    copied = {file for folds in (weights | (previous_weights or {})).values() for file in folds.values()}
    with write_beside(folder, sum(file.stat().st_size for file in copied if file.is_file())) as temporary:
        members = []
        for model, folds in weights.items():
            configuration, variants = split_model_name(model)
            before = plan.previous_stage_of(configuration)
            previous = None
            if before is not None:
                lower = model_name(before, variants)
                entries = _copy_weights(temporary, lower, (previous_weights or {}).get(lower, {}))
                if not entries:
                    raise InvalidData(
                        folder,
                        f"weights of {lower}, {model}'s previous stage",
                        "none",
                        f"Train its folds: nnbox train --configuration {lower} --fold 0, and so on.",
                    )
                previous = BundleMember(configuration=before, variants=variants, weights=entries)
            entries = _copy_weights(temporary, model, folds)
            members.append(
                BundleMember(configuration=configuration, variants=variants, weights=entries, previous_stage=previous)
            )
        entries_kept = (plan.entry_of(stage.configuration) for member in members for stage in member.stages)
        kept = {name: plan.configurations[name] for name in entries_kept}
        used = plan.model_copy(update={"configurations": kept})
        bundle = Bundle(
            dataset=dataset,
            challenge=challenge,
            plan=used,
            members=tuple(members),
            postprocessing=postprocessing,
            cross_validation_dice=cross_validation_dice,
        )
        write_json(temporary / BUNDLE_FILE, bundle.model_dump(mode="json"))
    return bundle


def _copy_weights(bundle: Path, model: str, folds: dict[int, Path]) -> tuple[WeightsFile, ...]:
    """Copy a model's weights into a bundle that is being written.

    Raises
    ------
    InvalidData: one is missing.
    """
    configuration, variants = split_model_name(model)
    entries = []
    for fold, source in sorted(folds.items()):
        if not source.is_file():
            raise InvalidData(
                source,
                f"weights of {model} fold {fold}",
                "no such file",
                f"Train it: nnbox train --configuration {configuration} --fold {fold}"
                + (f" --variant {','.join(variants)}." if variants else "."),
            )
        file = f"weights/{model}/fold_{fold}.safetensors"
        (bundle / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, bundle / file)
        entries.append(WeightsFile(fold=fold, file=file, sha256=sha256(bundle / file)))
    return tuple(entries)


def load_bundle(folder: Path, check_weights: bool = False) -> Bundle:
    """Read ``bundle.json``; with ``check_weights`` also hash every weights' file.

    Raises
    ------
    InvalidData: missing, another schema version, contradictory, a path that leaves the folder, or weights that do
    not match.
    """
    file = Path(folder) / BUNDLE_FILE
    try:
        bundle = Bundle.model_validate(read_json(file, schema_version=1))
    except ValidationError as error:
        fix = "Build it again: nnbox build-submission bundle."
        raise InvalidData(file, "a bundle", describe_errors(error), fix) from error
    stray = sorted({label for step in bundle.postprocessing.steps for label in step} - set(bundle.labels))
    if stray:
        raise InvalidData(
            file, f"postprocessing of labels {sorted(bundle.labels)}", f"{stray}", "Build the bundle again."
        )
    for stage in bundle.stages:
        if stage.configuration not in bundle.plan.models:
            raise InvalidData(file, f"a plan for {stage.configuration}", "none", "Build the bundle again.")
        before = bundle.plan.previous_stage_of(stage.configuration)
        found = None if stage.previous_stage is None else stage.previous_stage.configuration
        if found != before:
            expected = f"{before or 'nothing'} as the previous stage of {stage.configuration}"
            raise InvalidData(file, expected, found or "nothing", "Build the bundle again.")
        unknown = sorted(set(stage.variants) - set(VARIANTS))
        if unknown:
            raise InvalidData(file, "variants this version knows", ", ".join(unknown), "Install a newer nnunet_box.")
        try:
            recipe(stage.variants)
        except UsageError as error:
            raise InvalidData(file, "variants that go together", str(error), "Build the bundle again.") from error
    for entry in bundle.weights_files:
        try:
            path = (Path(folder) / entry.file).resolve()
            present = path.is_file()
        except (OSError, RuntimeError, ValueError) as error:
            # No name a file can have, or a link to itself.
            raise InvalidData(file, "weights inside the bundle", f"{entry.file!r}", NOT_OURS) from error
        if not path.is_relative_to(Path(folder).resolve()):
            raise InvalidData(file, "weights inside the bundle", entry.file, NOT_OURS)
        if not present:
            raise InvalidData(path, "weights", "no such file", "Copy the whole bundle folder.")
        if check_weights and sha256(path) != entry.sha256:
            raise InvalidData(path, f"sha256 {entry.sha256}", "another", "The file is damaged; copy it again.")
    return bundle
