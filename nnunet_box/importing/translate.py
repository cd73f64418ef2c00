"""From nnU-Net v2's plans to ours: the same network, preprocessing and prediction, said in ``plan.json``'s words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nnunet_box.errors import InvalidData
from nnunet_box.importing.nnunet_plans import (
    RETRAIN,
    Architecture,
    NnunetDataset,
    NnunetPlans,
    PerStage,
    ResamplingArguments,
    Stage,
)
from nnunet_box.planning.conventions import PAPER_RESAMPLING, Interpolation, Resampling
from nnunet_box.planning.fingerprint import ChannelIntensities, describe_errors
from nnunet_box.planning.plan import CASCADE, FIRST_STAGE, MIN_BATCH_SIZE, SECOND_STAGE, Blocks, Configuration, Plan

NORMALISATION = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale-01",
    "RGBTo01Normalization": "rgb-01",
}
NORM_EPS, LEAK = 1e-5, 0.01
MEMORY_GB = 8.0
"""What nnU-Net v2's planner plans for by default; nothing that is imported depends on it."""
TWO_D = "2d"


@dataclass(frozen=True)
class Origin:
    """Which configuration of which files a plan is made of, for messages."""

    plans: NnunetPlans
    dataset: NnunetDataset
    name: str

    @property
    def file(self) -> Path:
        return self.plans.file

    @property
    def place(self) -> str:
        return f"configurations.{self.name}"


def role(origin: Origin, stage: Stage) -> str:
    """Our name of a configuration, which may have any name in nnU-Net: by its axes and its neighbours in a cascade."""
    if len(stage.patch_size) == 2:
        return TWO_D
    if stage.previous_stage is not None:
        return CASCADE
    return FIRST_STAGE if stage.next_stage is not None or origin.name == FIRST_STAGE else SECOND_STAGE


def translate(origin: Origin, stage: Stage, mirror_axes: tuple[int, ...]) -> Plan:
    """A plan with the one configuration, under the entry its role takes.

    mirror_axes: the network's, from the checkpoint.

    Raises
    ------
    InvalidData: something of the network or of the preprocessing has no counterpart here; the message names it.
    """
    name = role(origin, stage)
    schemes, masked = _normalisation(origin, stage)
    try:
        return Plan(
            dataset=origin.plans.dataset_name,
            channel_names=origin.dataset.channel_names,
            labels=origin.dataset.labels,
            normalisation=schemes,  # type: ignore[arg-type]
            use_nonzero_mask=masked,
            intensities=_intensities(origin, schemes),
            memory_gb=MEMORY_GB,
            configurations={SECOND_STAGE if name == CASCADE else name: _configuration(origin, stage, mirror_axes)},
            conventions="nnunet-v2",
        )
    except ValidationError as error:
        expected = f"a plan nnunet_box can follow ({origin.place})"
        raise InvalidData(origin.file, expected, describe_errors(error), RETRAIN) from error


def _configuration(origin: Origin, stage: Stage, mirror_axes: tuple[int, ...]) -> Configuration:
    dimensions = len(stage.patch_size)
    order = origin.plans.transpose_forward
    spacing, median = list(stage.spacing), list(stage.median_image_size_in_voxels)
    if (len(spacing), len(median)) != (dimensions, dimensions):
        raise _refused(origin, f"spacing and median size of {dimensions} axes", f"{spacing} and {median}")
    if dimensions == 2:
        spacing.insert(0, origin.plans.original_median_spacing_after_transp[0])
        median.insert(0, origin.plans.original_median_shape_after_transp[0])
    kernels, pools = _kernels(origin, stage)
    # plan.json holds spacing and size in the file's axes.
    back = [order.index(axis) for axis in range(3)]
    all_axes = tuple(range(dimensions))
    resampling = _resampling(stage)
    return Configuration(
        patch_size=stage.patch_size,
        batch_size=max(MIN_BATCH_SIZE, stage.batch_size),
        num_pool_per_axis=tuple(_poolings([kernel[axis] for kernel in pools]) for axis in all_axes),
        pool_kernel_sizes=pools,
        conv_kernel_sizes=kernels,
        spacing=(spacing[back[0]], spacing[back[1]], spacing[back[2]]),
        median_shape=_voxels([median[axis] for axis in back]),
        in_plane_augmentation=False,
        axis_order=order if dimensions == 2 or order != (0, 1, 2) else None,
        blocks=_blocks(stage.architecture),
        resampling=None if resampling == PAPER_RESAMPLING else resampling,
        mirror_axes=None if tuple(sorted(mirror_axes)) == all_axes else mirror_axes,
    )


def _kernels(origin: Origin, stage: Stage) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Kernel sizes a stage, and strides without the first stage's, after a look at all that has one form only here."""
    network, dimensions = stage.architecture, len(stage.patch_size)
    norm = (network.norm_op or "none").rsplit(".", 1)[-1]
    if norm != f"InstanceNorm{dimensions}d":
        raise _refused(origin, f"norm_op InstanceNorm{dimensions}d", norm)
    options = network.norm_op_kwargs or {}
    if options.get("eps", NORM_EPS) != NORM_EPS or options.get("track_running_stats"):
        raise _refused(origin, f"norm_op_kwargs with eps {NORM_EPS} and no running statistics", f"{options}")
    activation = (network.nonlin or "none").rsplit(".", 1)[-1]
    if activation != "LeakyReLU" or (network.nonlin_kwargs or {}).get("negative_slope", LEAK) != LEAK:
        raise _refused(origin, f"nonlin LeakyReLU with slope {LEAK}", f"{activation} {network.nonlin_kwargs or {}}")
    if network.nonlin_first:
        raise _refused(origin, "norm before nonlin", "nonlin_first")
    kernels = _per_axis(origin, "kernel_sizes", network.kernel_sizes, network.n_stages, dimensions)
    if any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise _refused(origin, "odd kernel_sizes", f"{kernels}")
    strides = _per_axis(origin, "strides", network.strides, network.n_stages, dimensions)
    if any(size != 1 for size in strides[0]):
        raise _refused(origin, "a first stage at full resolution", f"strides {strides[0]}")
    return kernels, strides[1:]


def _per_axis(origin: Origin, name: str, given: PerStage, stages: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    """One number for all, one a stage, or one a stage and axis, to the last."""
    listed = (given,) * stages if isinstance(given, int) else given
    full = tuple((entry,) * dimensions if isinstance(entry, int) else entry for entry in listed)
    if len(full) != stages or any(len(entry) != dimensions or min(entry) < 1 for entry in full):
        raise _refused(origin, f"{name} for {stages} stages of {dimensions} axes", f"{given}")
    return full


def _blocks(network: Architecture) -> Blocks:
    def each(given: int | tuple[int, ...], count: int) -> tuple[int, ...]:
        return (given,) * count if isinstance(given, int) else given

    return Blocks(
        features=each(network.features_per_stage, network.n_stages),
        encoder_convolutions=each(network.n_conv_per_stage, network.n_stages),
        decoder_convolutions=each(network.n_conv_per_stage_decoder, network.n_stages - 1),
        biases=True,
    )


def _resampling(stage: Stage) -> Resampling:
    def kind(given: ResamplingArguments) -> Interpolation:
        rules: dict[bool | None, Any] = {None: "auto", True: "always", False: "never"}
        return Interpolation(order=given.order, order_apart=given.order_z, apart=rules[given.force_separate_z])

    return Resampling(
        image=kind(stage.resampling_fn_data_kwargs),
        labels=kind(stage.resampling_fn_seg_kwargs),
        outputs=kind(stage.resampling_fn_probabilities_kwargs),
    )


def _normalisation(origin: Origin, stage: Stage) -> tuple[tuple[str, ...], bool]:
    unknown = sorted(set(stage.normalization_schemes) - set(NORMALISATION))
    if unknown:
        raise _refused(origin, f"normalization_schemes among {', '.join(NORMALISATION)}", ", ".join(unknown))
    channels = len(origin.dataset.channel_names)
    if (len(stage.normalization_schemes), len(stage.use_mask_for_norm)) != (channels, channels):
        found = f"{len(stage.normalization_schemes)} and {len(stage.use_mask_for_norm)}"
        raise _refused(origin, f"normalization_schemes and use_mask_for_norm of {channels} channels", found)
    schemes = tuple(NORMALISATION[scheme] for scheme in stage.normalization_schemes)
    # The mask matters to z-scores only.
    flags = {flag for scheme, flag in zip(schemes, stage.use_mask_for_norm, strict=True) if scheme == "zscore"}
    if len(flags) > 1:
        raise _refused(origin, "one use_mask_for_norm for all z-scored channels", f"{stage.use_mask_for_norm}")
    return schemes, flags == {True}


def _intensities(origin: Origin, schemes: tuple[str, ...]) -> tuple[ChannelIntensities, ...] | None:
    if "ct" not in schemes:
        return None
    given = origin.plans.foreground_intensity_properties_per_channel
    try:
        return tuple(
            ChannelIntensities(
                mean=facts["mean"],
                sd=facts["std"],
                percentile_00_5=facts["percentile_00_5"],
                percentile_99_5=facts["percentile_99_5"],
                median=facts["median"],
                minimum=facts["min"],
                maximum=facts["max"],
            )
            for facts in (given[str(index)] for index in range(len(schemes)))
        )
    except (KeyError, ValidationError) as error:
        found = describe_errors(error) if isinstance(error, ValidationError) else f"no {error}"
        expected = "foreground_intensity_properties_per_channel for the CT channels"
        raise InvalidData(origin.file, expected, found, "Restore the file.") from error


def _poolings(strides: list[int]) -> int:
    """How often an axis is halved; a stride that is no power of 2 is found out by ``Configuration``."""
    factor = 1
    for stride in strides:
        factor *= stride
    return factor.bit_length() - 1


def _voxels(sizes: list[float]) -> tuple[int, int, int]:
    z, y, x = (max(1, round(size)) for size in sizes)
    return (z, y, x)


def _refused(origin: Origin, expected: str, found: str) -> InvalidData:
    return InvalidData(origin.file, f"{origin.place}: {expected}", found, f"Models with it are not imported. {RETRAIN}")
