"""Augmentation on the batchgenerators framework: elastic, scaling, rotation, gamma, mirroring (paper, Method,
Training).

Ranges and probabilities are those of the authors' code of April 2019, since the paper gives none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform, Compose
from batchgenerators.transforms.color_transforms import GammaTransform
from batchgenerators.transforms.spatial_transforms import MirrorTransform, SpatialTransform
from numpy.typing import NDArray

from nnunet_box.planning.plan import Configuration

PROBABILITY = 0.2
SCALE = (0.85, 1.25)
ELASTIC_SIGMA = (9.0, 13.0)
ELASTIC_ALPHA_3D = (0.0, 900.0)
ELASTIC_ALPHA_2D = (0.0, 200.0)
GAMMA = (0.7, 1.5)
GAMMA_PROBABILITY = 0.3
SMALL_ROTATION = np.deg2rad(15.0)
FULL_ROTATION = np.pi
ELONGATED_2D = 1.5
"""2D patches more elongated than this rotate by 15 degrees only."""


@dataclass(frozen=True)
class SpatialRanges:
    """How far a configuration's patches are moved. in_plane: each slice of a 3D patch is moved alike, in its plane
    only.
    """

    patch_size: tuple[int, ...]
    in_plane: bool
    rotation: float

    @classmethod
    def of(cls, configuration: Configuration) -> SpatialRanges:
        size = tuple(configuration.patch_size)
        if len(size) == 2:
            elongated = max(size) / min(size) > ELONGATED_2D
            return cls(size, in_plane=False, rotation=SMALL_ROTATION if elongated else FULL_ROTATION)
        in_plane = configuration.in_plane_augmentation
        return cls(size, in_plane, FULL_ROTATION if in_plane else SMALL_ROTATION)

    def source_size(self) -> tuple[int, ...]:
        """Voxels to read so that the worst rotation and the smallest scale still find image under the whole patch."""
        moved = self.patch_size[1:] if self.in_plane else self.patch_size
        needed = np.ceil(_rotated_extent(moved, self.rotation) / SCALE[0]).astype(int)
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
    """Image to 0 where the label says outside (-1), then such labels to background (authors' code of April 2019)."""

    def __init__(self, mask_image: bool) -> None:
        self.mask_image = mask_image

    def __call__(self, **batch: Any) -> dict[str, Any]:
        outside = batch["seg"] < 0
        if self.mask_image:
            batch["data"][np.broadcast_to(outside, batch["data"].shape)] = 0
        batch["seg"][outside] = 0
        return batch


def build_augmentation(configuration: Configuration, mask_image: bool) -> Any:
    """The transform for batches of ``data`` (B, C, [Z,] Y, X) float32 and ``seg`` (B, 1, [Z,] Y, X) float32.

    The patch read is larger than the configuration's (see ``SpatialRanges.source_size``) and cropped to its centre.
    Randomness
    is numpy's global state, as everywhere in batchgenerators: the caller seeds it for each batch.
    """
    ranges = SpatialRanges.of(configuration)
    angle = (-ranges.rotation, ranges.rotation)
    planar = ranges.in_plane or len(ranges.patch_size) == 2
    spatial: Any = SpatialTransform(
        ranges.patch_size[1:] if ranges.in_plane else ranges.patch_size,
        patch_center_dist_from_border=None,
        do_elastic_deform=True,
        alpha=ELASTIC_ALPHA_2D if planar else ELASTIC_ALPHA_3D,
        sigma=ELASTIC_SIGMA,
        angle_x=angle,
        angle_y=angle,
        angle_z=angle,
        scale=SCALE,
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
    gamma = GammaTransform(GAMMA, per_channel=True, retain_stats=True, p_per_sample=GAMMA_PROBABILITY)
    mirror = MirrorTransform(axes=tuple(range(len(ranges.patch_size))))
    moved = FoldDepthIntoChannels(spatial) if ranges.in_plane else spatial
    return Compose([moved, gamma, mirror, ZeroOutside(mask_image)])
