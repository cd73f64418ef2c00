"""Augmentation on the batchgenerators framework: elastic, scaling, rotation, gamma, mirroring (paper, Method,
Training).

Ranges and probabilities are those of the authors' code of April 2019, since the paper gives none. The variant
``more-augmentation`` has those of the later recipe (Isensee et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
)
from batchgenerators.transforms.noise_transforms import GaussianBlurTransform, GaussianNoiseTransform
from batchgenerators.transforms.resample_transforms import SimulateLowResolutionTransform
from numpy.typing import NDArray

from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import PAPER, Recipe
from nnunet_box.training.previous_stage import PreviousStageToChannels, spoil_previous_stage
from nnunet_box.training.spatial import WarpTransform
from nnunet_box.training.transforms import InPlaceGamma, OneCopyMirror

PROBABILITY = 0.2
SCALE = (0.85, 1.25)
MORE_SCALE = (0.7, 1.4)
ELASTIC_SIGMA = (9.0, 13.0)
ELASTIC_ALPHA_3D = (0.0, 900.0)
ELASTIC_ALPHA_2D = (0.0, 200.0)
GAMMA = (0.7, 1.5)
GAMMA_PROBABILITY = 0.3
SMALL_ROTATION = np.deg2rad(15.0)
MORE_ROTATION = np.deg2rad(30.0)
FULL_ROTATION = np.pi
ELONGATED_2D = 1.5
"""2D patches more elongated than this rotate by 15 degrees only."""


@dataclass(frozen=True)
class SpatialRanges:
    """How far a configuration's patches are moved. in_plane: each slice of a 3D patch is moved alike, in its plane
    only. rotation: radians to either side. scale: factors a patch shows more or less of the image by.
    """

    patch_size: tuple[int, ...]
    in_plane: bool
    rotation: float
    scale: tuple[float, float]

    @classmethod
    def of(cls, configuration: Configuration, recipe: Recipe = PAPER) -> SpatialRanges:
        size = tuple(configuration.patch_size)
        more = recipe.augmentation == "more"
        in_plane = configuration.in_plane_augmentation and len(size) == 3
        if len(size) == 2:
            rotation = SMALL_ROTATION if max(size) / min(size) > ELONGATED_2D else FULL_ROTATION
        elif in_plane:
            rotation = FULL_ROTATION
        else:
            rotation = MORE_ROTATION if more else SMALL_ROTATION
        return cls(size, in_plane, rotation, MORE_SCALE if more else SCALE)

    def source_size(self) -> tuple[int, ...]:
        """Voxels to read so that the worst rotation and the smallest scale still find image under the whole patch."""
        moved = self.patch_size[1:] if self.in_plane else self.patch_size
        needed = np.ceil(_rotated_extent(moved, self.rotation) / self.scale[0]).astype(int)
        sizes = tuple(max(int(a), b) for a, b in zip(needed, moved, strict=True))
        return (self.patch_size[0], *sizes) if self.in_plane else sizes


def _rotated_extent(size: Sequence[int], angle: float) -> NDArray[np.float64]:
    """Extent of a box after rotation by up to ``angle`` about each axis in turn, at most its diagonal."""
    extent = np.asarray(size, dtype=np.float64)
    angle = min(angle, np.pi / 2)
    grown = extent.copy()
    for first in range(len(size)):
        for second in range(first + 1, len(size)):
            pair = extent[[first, second]]
            worst = min(angle, float(np.arctan2(pair[1], pair[0]))), min(angle, float(np.arctan2(pair[0], pair[1])))
            grown[first] = max(grown[first], pair[0] * np.cos(worst[0]) + pair[1] * np.sin(worst[0]))
            grown[second] = max(grown[second], pair[1] * np.cos(worst[1]) + pair[0] * np.sin(worst[1]))
    return grown


class FoldDepthIntoChannels(AbstractTransform):  # type: ignore[misc]
    """Apply a 2D transform to all slices of (B, C, Z, Y, X) alike, by taking depth for channels."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, **batch: Any) -> dict[str, Any]:
        shapes = {key: batch[key].shape[:3] for key in ("data", "seg")}
        for key, (samples, channels, depth) in shapes.items():
            batch[key] = batch[key].reshape(samples, channels * depth, *batch[key].shape[3:])
        batch = self.transform(**batch)
        for key, shape in shapes.items():
            batch[key] = batch[key].reshape(*shape, *batch[key].shape[2:])
        return batch


class ZeroOutside(AbstractTransform):  # type: ignore[misc]
    """Image to 0 where the label says outside (-1), then such labels to background (authors' code of April 2019).

    Label maps (B, 1 or 2, [Z,] Y, X): the first, the reference, says where; a cascade's second one is only cleared.
    """

    def __init__(self, mask_image: bool) -> None:
        self.mask_image = mask_image

    def __call__(self, **batch: Any) -> dict[str, Any]:
        if self.mask_image:
            outside = batch["seg"][:, :1] < 0
            batch["data"][np.broadcast_to(outside, batch["data"].shape)] = 0
        batch["seg"][batch["seg"] < 0] = 0
        return batch


def build_augmentation(
    configuration: Configuration, mask_image: bool, recipe: Recipe = PAPER, previous_classes: int = 0
) -> Any:
    """The transform for batches of ``data`` (B, C, [Z,] Y, X) float32 and ``seg`` (B, 1, [Z,] Y, X), labels of any
    signed dtype, which they keep.

    previous_classes: where it is not 0, ``seg`` has a second channel, the label map of a cascade's first stage, with
    so many labels, background included. It moves as the first one does and ends as one-hot foreground channels behind
    those of the image, after all changes of intensity.

    The patch read is larger than the configuration's (see ``SpatialRanges.source_size``) and cropped to its centre,
    unless the recipe augments nothing. Randomness is numpy's global state, as everywhere in batchgenerators: the caller
    seeds it for each batch.
    """
    ranges = SpatialRanges.of(configuration, recipe)
    transforms: list[Any] = []
    if recipe.augmentation != "none":
        spatial = _spatial(ranges, elastic=recipe.augmentation == "paper")
        transforms.append(FoldDepthIntoChannels(spatial) if ranges.in_plane else spatial)
        if recipe.augmentation == "more":
            transforms += _later_intensity(ranges.in_plane)
        transforms.append(InPlaceGamma(GAMMA, per_channel=True, retain_stats=True, p_per_sample=GAMMA_PROBABILITY))
    if recipe.mirroring:
        transforms.append(OneCopyMirror(axes=tuple(range(len(ranges.patch_size)))))
    transforms.append(ZeroOutside(mask_image))
    if previous_classes:
        transforms.append(PreviousStageToChannels(previous_classes))
        if recipe.augmentation != "none":
            transforms += spoil_previous_stage(previous_classes)
    return Compose(transforms)


def _spatial(ranges: SpatialRanges, elastic: bool) -> Any:
    angle = (-ranges.rotation, ranges.rotation)
    planar = ranges.in_plane or len(ranges.patch_size) == 2
    return WarpTransform(
        ranges.patch_size[1:] if ranges.in_plane else ranges.patch_size,
        patch_center_dist_from_border=None,
        do_elastic_deform=elastic,
        alpha=ELASTIC_ALPHA_2D if planar else ELASTIC_ALPHA_3D,
        sigma=ELASTIC_SIGMA,
        angle_x=angle,
        angle_y=angle,
        angle_z=angle,
        scale=ranges.scale,
        border_mode_data="constant",
        border_cval_data=0,
        order_data=3,
        border_mode_seg="constant",
        border_cval_seg=-1,
        order_seg=1,
        random_crop=False,
        p_el_per_sample=PROBABILITY,
        p_scale_per_sample=PROBABILITY,
        p_rot_per_sample=PROBABILITY,
    )


def _later_intensity(in_plane: bool) -> list[Any]:
    """Noise, blur, brightness, contrast, low resolution and inverted gamma, with the ranges of Isensee et al. 2021."""
    return [
        GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_sample=0.1),
        GaussianBlurTransform((0.5, 1.0), different_sigma_per_channel=True, p_per_sample=0.2, p_per_channel=0.5),
        BrightnessMultiplicativeTransform(multiplier_range=(0.75, 1.25), p_per_sample=0.15),
        ContrastAugmentationTransform(contrast_range=(0.75, 1.25), p_per_sample=0.15),
        SimulateLowResolutionTransform(
            zoom_range=(0.5, 1.0),
            per_channel=True,
            p_per_channel=0.5,
            order_downsample=0,
            order_upsample=3,
            p_per_sample=0.25,
            ignore_axes=(0,) if in_plane else None,
        ),
        InPlaceGamma(GAMMA, invert_image=True, per_channel=True, retain_stats=True, p_per_sample=0.1),
    ]
