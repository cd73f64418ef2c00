"""The plan: everything about preprocessing, network and patches that follows from a data set's fingerprint."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from nnunet_box.errors import InvalidData, UsageError
from nnunet_box.files import read_json
from nnunet_box.planning.conventions import CONVENTIONS, PAPER_RESAMPLING, Conventions, ConventionsName, Resampling
from nnunet_box.planning.fingerprint import ChannelIntensities, Length, Voxels, describe_errors

BASE_FEATURES = 30
"""Feature maps of the first stage (paper, Method); doubled with each pooling."""

MAX_FEATURES = {2: 480, 3: 320}
"""Where doubling stops, by dimensions (authors' code of April 2019)."""

MIN_BATCH_SIZE = 2
"""Paper, Method: large patches before large batches, but never a batch of one."""

CASCADE = "3d_cascade_fullres"
"""The second stage of a cascade: the network of ``3d_fullres``, which also sees the label map of the first."""

FIRST_STAGE, SECOND_STAGE = "3d_lowres", "3d_fullres"
"""Whose label map the cascade takes as input, and whose entry of the plan it shares."""

MODELS = ("2d", FIRST_STAGE, SECOND_STAGE, CASCADE)
"""All configurations there are, the simplest first; a cascade comes after both of its stages."""

Axes = Annotated[tuple[Annotated[int, Field(ge=0, le=127)], ...], Field(min_length=2, max_length=3)]

MOST_PATCH_VOXELS = 1 << 28
MOST_FEATURES = 1 << 14
MOST_CONVOLUTIONS = 64
MOST_LABELS = 256
MOST_STAGES = 32
"""Far beyond any plan; a file that asks for more would take all memory or never end. Labels are bytes."""

Normalisation = Literal["ct", "zscore", "none", "rescale-01", "rgb-01"]
"""What ``preprocessing/normalise.py`` does to a channel. The last three only in models imported from nnU-Net v2."""


class Blocks(BaseModel):
    """What a U-Net from elsewhere has otherwise than the paper's.

    features: maps of each stage of the encoder, bottleneck last. encoder_convolutions: a number a stage, bottleneck
    last. decoder_convolutions: a number a stage of the decoder, the finest last. biases: transposed convolutions and
    the head have them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_FEATURES)], ...], Field(min_length=1)]
    encoder_convolutions: tuple[Annotated[int, Field(ge=1, le=MOST_CONVOLUTIONS)], ...]
    decoder_convolutions: tuple[Annotated[int, Field(ge=1, le=MOST_CONVOLUTIONS)], ...]
    biases: bool


class Configuration(BaseModel):
    """One network's share of the plan. Axes are the network's: (Z, Y, X) in 3D, (Y, X) of a slice in 2D.

    patch_size: voxels; divisible by the product of the poolings. batch_size: patches, at least 2.
    num_pool_per_axis: poolings along each axis. pool_kernel_sizes: one entry a pooling, 1 where an axis is left alone.
    conv_kernel_sizes: one entry a stage, bottleneck last. spacing (mm) and median_shape (voxels) of the resampled
    typical case: always the file's (Z, Y, X), in 2D too. in_plane_augmentation: deform and rotate within slices only.
    axis_order: the file's axes in the network's order; in 2D the slice axis, then the two of the slice. None in 3D
    where they are the file's. blocks, resampling, mirror_axes (the network's, along which it may be asked about flips):
    of models imported from nnU-Net v2; None where they are the paper's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_size: Annotated[tuple[Voxels, ...], Field(min_length=2, max_length=3)]
    batch_size: Annotated[int, Field(ge=MIN_BATCH_SIZE)]
    num_pool_per_axis: Axes
    pool_kernel_sizes: tuple[Axes, ...]
    conv_kernel_sizes: Annotated[tuple[Axes, ...], Field(min_length=1)]
    spacing: tuple[Length, Length, Length]
    median_shape: tuple[Voxels, Voxels, Voxels]
    in_plane_augmentation: bool
    axis_order: tuple[int, int, int] | None = None
    blocks: Blocks | None = None
    resampling: Resampling | None = None
    mirror_axes: tuple[int, ...] | None = None

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def features(self) -> tuple[int, ...]:
        """Feature maps of each stage of the encoder, bottleneck last."""
        return self.network_blocks.features

    @property
    def network_blocks(self) -> Blocks:
        """``blocks``, or the paper's: two convolutions a stage, neither transposed ones nor the head with a bias."""
        if self.blocks is not None:
            return self.blocks
        stages = len(self.conv_kernel_sizes)
        return Blocks(
            features=stage_features(stages, self.dimensions),
            encoder_convolutions=(2,) * stages,
            decoder_convolutions=(2,) * (stages - 1),
            biases=False,
        )

    @property
    def interpolation(self) -> Resampling:
        """``resampling``, or the paper's."""
        return self.resampling or PAPER_RESAMPLING

    @property
    def mirrors(self) -> tuple[int, ...]:
        """Axes of the network's input along which it may be asked about flips: all, unless ``mirror_axes`` says."""
        return tuple(range(self.dimensions)) if self.mirror_axes is None else self.mirror_axes

    @model_validator(mode="after")
    def _consistent(self) -> Configuration:
        if prod(self.patch_size) > MOST_PATCH_VOXELS:
            raise ValueError(f"patch_size: {self.patch_size} has more than {MOST_PATCH_VOXELS} voxels")
        if len(self.conv_kernel_sizes) > MOST_STAGES:
            raise ValueError(f"conv_kernel_sizes: more than {MOST_STAGES} stages")
        if any(min(kernel) < 1 for kernel in (*self.pool_kernel_sizes, *self.conv_kernel_sizes)):
            raise ValueError("pool_kernel_sizes, conv_kernel_sizes: at least 1 along every axis")
        for kernel in (self.num_pool_per_axis, *self.pool_kernel_sizes, *self.conv_kernel_sizes):
            if len(kernel) != self.dimensions:
                raise ValueError(f"{kernel} has not one entry for each of the {self.dimensions} axes of the patch")
        if len(self.conv_kernel_sizes) != len(self.pool_kernel_sizes) + 1:
            raise ValueError("conv_kernel_sizes: one entry for each pooling and one for the bottleneck")
        for axis, size in enumerate(self.patch_size):
            factor = 1
            for kernel in self.pool_kernel_sizes:
                factor *= kernel[axis]
            if factor != 2 ** self.num_pool_per_axis[axis] or size % factor:
                raise ValueError(f"patch_size: axis {axis} has {size} voxels and is pooled by {factor} in all")
        if (self.axis_order is None) if self.dimensions == 2 else (self.axis_order == (0, 1, 2)):
            raise ValueError("axis_order: given in 2D, and in 3D where the network's axes are not the file's")
        if self.axis_order is not None and sorted(self.axis_order) != [0, 1, 2]:
            raise ValueError("axis_order: each of 0, 1 and 2 once")
        stages, blocks = len(self.conv_kernel_sizes), self.network_blocks
        if (len(blocks.features), len(blocks.encoder_convolutions)) != (stages, stages):
            raise ValueError(f"blocks: features and encoder_convolutions need {stages} entries, one a stage")
        if len(blocks.decoder_convolutions) != stages - 1:
            raise ValueError(f"blocks: decoder_convolutions needs {stages - 1} entries, one a stage of the decoder")
        if len(set(self.mirrors)) != len(self.mirrors) or not set(self.mirrors) <= set(range(self.dimensions)):
            raise ValueError(f"mirror_axes: axes of the patch, each at most once, not {self.mirrors}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in ("axis_order", "blocks", "resampling", "mirror_axes"):
            if values.get(name) is None:
                values.pop(name, None)
        return values


class Plan(BaseModel):
    """A data set's plan, as ``plan.json`` holds it.

    labels: value to name, 0 is the background. normalisation: one entry a channel. use_nonzero_mask: z-scores are taken
    inside the nonzero mask, and outside it the image is 0. memory_gb: GPU memory planned for. conventions: whose steps
    prepare the cases and average the outputs; left out of the file where they are the paper's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    dataset: str
    channel_names: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: dict[int, str]
    normalisation: tuple[Normalisation, ...]
    use_nonzero_mask: bool
    intensities: tuple[ChannelIntensities, ...] | None = None
    memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    configurations: dict[str, Configuration]
    conventions: ConventionsName = "paper"

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if len(self.normalisation) != len(self.channel_names):
            raise ValueError(f"normalisation: {len(self.normalisation)} entries for {len(self.channel_names)} channels")
        if self.intensities is not None and len(self.intensities) != len(self.channel_names):
            raise ValueError(f"intensities: {len(self.intensities)} entries for {len(self.channel_names)} channels")
        if "ct" in self.normalisation and self.intensities is None:
            raise ValueError("intensities: CT is normalised by them, so they cannot be left out")
        if sorted(self.labels) != list(range(len(self.labels))) or not 2 <= len(self.labels) <= MOST_LABELS:
            raise ValueError(
                f"labels: 0, 1, 2, ... without gaps, at least one beside the background, {MOST_LABELS} in all"
            )
        if CASCADE in self.configurations:
            raise ValueError(f"configurations: {CASCADE} has no entry of its own, it follows that of {SECOND_STAGE}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.conventions == "paper":
            values.pop("conventions", None)
        return values

    @property
    def steps(self) -> Conventions:
        """What ``conventions`` stands for."""
        return CONVENTIONS[self.conventions]

    @property
    def models(self) -> tuple[str, ...]:
        """What can be trained, the simplest first: the plan's entries, and the cascade where it has both stages."""
        cascade = {CASCADE} if {FIRST_STAGE, SECOND_STAGE} <= set(self.configurations) else set()
        return tuple(name for name in MODELS if name in cascade | set(self.configurations))

    def entry_of(self, name: str) -> str:
        """The entry of ``configurations`` that a model is built and its cases are preprocessed by.

        Raises
        ------
        UsageError: the plan has no such model.
        """
        if name not in self.models:
            raise UsageError(f"Configuration {name!r}: the plan of {self.dataset} has {', '.join(self.models)}.")
        return SECOND_STAGE if name == CASCADE else name

    def configuration_of(self, name: str) -> Configuration:
        """A model's configuration; raises as ``entry_of``."""
        return self.configurations[self.entry_of(name)]

    def previous_stage_of(self, name: str) -> str | None:
        """The model whose label map a model takes as input; None for all but the cascade. Raises as ``entry_of``."""
        return FIRST_STAGE if self.entry_of(name) != name else None

    def inputs_of(self, name: str) -> int:
        """Input channels of a model's network: the image's, and for the cascade one for each foreground label (authors'
        code of April 2019). Raises as ``entry_of``.
        """
        previous = len(self.labels) - 1 if self.previous_stage_of(name) is not None else 0
        return len(self.channel_names) + previous


def stage_features(stages: int, dimensions: int) -> tuple[int, ...]:
    """Feature maps of each of ``stages`` stages: 30, doubled, up to 480 in 2D and 320 in 3D."""
    return tuple(min(BASE_FEATURES * 2**stage, MAX_FEATURES[dimensions]) for stage in range(stages))


def load_plan(path: Path) -> Plan:
    """Read ``plan.json``.

    Raises
    ------
    InvalidData: the file is missing, is not JSON, has another schema version, or contradicts itself.
    """
    value = read_json(path, schema_version=1)
    try:
        return Plan.model_validate(value)
    except ValidationError as error:
        raise InvalidData(path, "a plan of nnbox plan", describe_errors(error), "Run nnbox plan again.") from error
