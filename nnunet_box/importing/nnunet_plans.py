"""nnU-Net v2's ``plans.json`` and ``dataset.json``, read as values: what is used of them, and refused where it is not
what nnunet_box can run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json
from nnunet_box.planning.conventions import Order
from nnunet_box.planning.fingerprint import Length, Voxels, describe_errors

PLANS_FILE, DATASET_FILE = "plans.json", "dataset.json"
OLD_FILES = ("plans.pkl", "plan.pkl")
NETWORK = "PlainConvUNet"
READERS = ("SimpleITKIO", "NibabelIO")
"""Readers that give a file's voxels as they are stored, (Z, Y, X), as nnunet_box does."""
RESAMPLING = "resample_data_or_seg_to_shape"
RETRAIN = "Train it with nnunet_box, or with nnU-Net's default planner and trainer."

PerAxis = int | tuple[int, ...]
PerStage = int | tuple[PerAxis, ...]


Model = TypeVar("Model", bound=BaseModel)


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ResamplingArguments(_Read):
    """Keyword arguments of ``resample_data_or_seg_to_shape``."""

    order: Order
    order_z: Order = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: Literal[3] = 3


class Architecture(_Read):
    """``arch_kwargs`` of a PlainConvUNet. Dropout does nothing when predicting and is not looked at."""

    n_stages: Annotated[int, Field(ge=2)]
    features_per_stage: int | tuple[int, ...]
    kernel_sizes: PerStage
    strides: PerStage
    n_conv_per_stage: int | tuple[int, ...]
    n_conv_per_stage_decoder: int | tuple[int, ...]
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    nonlin_first: bool = False


class _OldArchitecture(_Read):
    UNet_base_num_features: Annotated[int, Field(ge=1)]
    unet_max_num_features: Annotated[int, Field(ge=1)]
    n_conv_per_stage_encoder: Annotated[tuple[int, ...], Field(max_length=32)]
    n_conv_per_stage_decoder: tuple[int, ...]
    conv_kernel_sizes: PerStage
    pool_op_kernel_sizes: PerStage
    patch_size: tuple[int, ...]


class Stage(_Read):
    """One entry of ``configurations``, what it inherits filled in. Axes are the network's."""

    patch_size: Annotated[tuple[Voxels, ...], Field(min_length=2, max_length=3)]
    batch_size: int = 2
    spacing: Annotated[tuple[Length, ...], Field(min_length=2, max_length=3)]
    median_image_size_in_voxels: tuple[FiniteFloat, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    preprocessor_name: str = "DefaultPreprocessor"
    resampling_fn_data: str
    resampling_fn_seg: str
    resampling_fn_probabilities: str
    resampling_fn_data_kwargs: ResamplingArguments
    resampling_fn_seg_kwargs: ResamplingArguments
    resampling_fn_probabilities_kwargs: ResamplingArguments
    previous_stage: str | None = None
    next_stage: str | tuple[str, ...] | None = None
    architecture: Architecture


class NnunetPlans(_Read):
    """``plans.json``. configurations: as they stand there; ``stage`` reads one."""

    file: Path
    dataset_name: str
    plans_name: str = "nnUNetPlans"
    original_median_spacing_after_transp: tuple[Length, Length, Length] = (1.0, 1.0, 1.0)
    original_median_shape_after_transp: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (1.0, 1.0, 1.0)
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    label_manager: str = "LabelManager"
    configurations: dict[str, dict[str, Any]]
    foreground_intensity_properties_per_channel: dict[str, dict[str, Any]] = {}


class NnunetDataset(_Read):
    """``dataset.json``. channel_names: in channel order. labels: value to name, the ignore label left out."""

    channel_names: tuple[str, ...]
    labels: dict[int, str]


def read_plans(folder: Path) -> NnunetPlans:
    """A model folder's ``plans.json``.

    Raises
    ------
    InvalidData: missing, of nnU-Net 1, malformed, or it asks for a reader or label manager that is not supported.
    """
    file = folder / PLANS_FILE
    if not file.is_file():
        for old in OLD_FILES:
            if (folder / old).is_file():
                raise InvalidData(
                    folder / old, "a model of nnU-Net 2", "plans of nnU-Net 1", f"Those are not imported. {RETRAIN}"
                )
        advice = "Give the folder TRAINER__PLANS__CONFIGURATION that nnUNetv2_train made, not one above or below it."
        raise InvalidData(file, "nnU-Net v2's plans", "no such file", advice)
    values = _json_object(file)
    by_modality = values.get("foreground_intensity_properties_by_modality")
    values.setdefault("foreground_intensity_properties_per_channel", by_modality or {})
    plans = _checked(NnunetPlans, values | {"file": file}, file)
    if plans.image_reader_writer not in READERS:
        raise _unsupported(file, "image_reader_writer", " or ".join(READERS), plans.image_reader_writer)
    if plans.label_manager != "LabelManager":
        raise _unsupported(file, "label_manager", "LabelManager", plans.label_manager)
    forward, backward = plans.transpose_forward, plans.transpose_backward
    if sorted(forward) != [0, 1, 2] or [forward[axis] for axis in backward] != [0, 1, 2]:
        raise InvalidData(
            file,
            "transpose_forward, a permutation of 0, 1, 2, and transpose_backward, its inverse",
            f"{forward} and {backward}",
            "Restore the file from the training's results.",
        )
    return plans


def read_dataset(folder: Path) -> NnunetDataset:
    """A model folder's ``dataset.json``.

    Raises
    ------
    InvalidData: missing, malformed, or its labels are regions or not 0, 1, 2, ...
    """
    file = folder / DATASET_FILE
    if not file.is_file():
        advice = "nnUNetv2_train puts it beside plans.json; copy it from the raw or preprocessed data set."
        raise InvalidData(file, "nnU-Net v2's dataset.json", "no such file", advice)
    values = _json_object(file)
    channels, labels = values.get("channel_names", values.get("modality")), values.get("labels")
    if not isinstance(channels, dict) or not isinstance(labels, dict):
        found = f"keys {sorted(map(str, values))}"
        raise InvalidData(file, "channel_names and labels", found, "Restore the file from the training's results.")
    if sorted(channels) != sorted(str(index) for index in range(len(channels))) or not channels:
        raise InvalidData(file, "channel_names 0, 1, 2, ...", f"{sorted(channels)}", "Correct the file.")
    regions = sorted(name for name, value in labels.items() if isinstance(value, list))
    if regions:
        raise InvalidData(
            file,
            "one integer a label",
            f"regions: {', '.join(regions)}",
            f"Region-based models are not imported. {RETRAIN}",
        )
    named = {name: value for name, value in labels.items() if name != "ignore"}
    whole = [value for value in named.values() if isinstance(value, int) and not isinstance(value, bool)]
    if sorted(whole) != list(range(len(named))) or labels.get("background") != 0 or len(named) < 2:
        expected = "labels 0 (background), 1, 2, ... without gaps"
        raise InvalidData(file, expected, f"{labels}", "Restore the file from the training's results.")
    names = tuple(str(channels[str(index)]) for index in range(len(channels)))
    return NnunetDataset(channel_names=names, labels={value: name for name, value in named.items()})


def stage(plans: NnunetPlans, name: str) -> Stage:
    """One configuration, what it inherits filled in, the older form of its architecture translated.

    Raises
    ------
    InvalidData: it is not there, inherits in a circle, is malformed, or its network, preprocessor or resampling is one
    that is not supported; the message names it.
    """
    values = _inherited(plans, name)
    where = f"configurations.{name}"
    network = _network_class(values)
    if network != NETWORK:
        raise _unsupported(plans.file, f"{where}: network", NETWORK, network or "none")
    found = _checked(Stage, values | {"architecture": _architecture(values, plans.file, where)}, plans.file, where)
    if found.preprocessor_name != "DefaultPreprocessor":
        raise _unsupported(plans.file, f"{where}: preprocessor_name", "DefaultPreprocessor", found.preprocessor_name)
    for kind in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        if getattr(found, kind) != RESAMPLING:
            raise _unsupported(plans.file, f"{where}: {kind}", RESAMPLING, getattr(found, kind))
    return found


def _inherited(plans: NnunetPlans, name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    visited: list[str] = []
    following: Any = name
    while following is not None:
        if not isinstance(following, str) or following not in plans.configurations or following in visited:
            raise InvalidData(
                plans.file,
                f"a configuration {name} with everything it inherits",
                f"{following!r} {'twice' if following in visited else 'missing'}; there are "
                f"{', '.join(plans.configurations)}",
                "Restore the file from the training's results.",
            )
        visited.append(following)
        values = plans.configurations[following] | values
        following = plans.configurations[following].get("inherits_from")
    return values


def _network_class(values: dict[str, Any]) -> str:
    architecture = values.get("architecture", {"network_class_name": values.get("UNet_class_name")})
    named = architecture.get("network_class_name") if isinstance(architecture, dict) else None
    return str(named or "").rsplit(".", 1)[-1]


def _architecture(values: dict[str, Any], file: Path, where: str) -> Any:
    """``arch_kwargs``, or the same made from the keys plans had before there was ``architecture``, as 2.8.1 does."""
    if "architecture" in values:
        return values["architecture"].get("arch_kwargs", {})
    old = _checked(_OldArchitecture, values, file, where)
    return {
        "n_stages": len(old.n_conv_per_stage_encoder),
        "features_per_stage": tuple(
            min(old.UNet_base_num_features * 2**index, old.unet_max_num_features)
            for index in range(len(old.n_conv_per_stage_encoder))
        ),
        "kernel_sizes": old.conv_kernel_sizes,
        "strides": old.pool_op_kernel_sizes,
        "n_conv_per_stage": old.n_conv_per_stage_encoder,
        "n_conv_per_stage_decoder": old.n_conv_per_stage_decoder,
        "conv_bias": True,
        "norm_op": f"InstanceNorm{len(old.patch_size)}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def _json_object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise InvalidData(file, "a JSON object", type(value).__name__, "Restore the file.")
    return value


def _checked(model: type[Model], values: dict[str, Any], file: Path, where: str = "") -> Model:
    try:
        return model.model_validate(values)
    except (ValidationError, RecursionError) as error:
        found = describe_errors(error) if isinstance(error, ValidationError) else str(error)
        place = f" of {where}" if where else ""
        raise InvalidData(file, f"nnU-Net v2's fields{place}", found, "Restore the file.") from error


def _unsupported(file: Path, what: str, supported: str, found: str) -> InvalidData:
    return InvalidData(file, f"{what} {supported}", found, f"Models with it are not imported. {RETRAIN}")
