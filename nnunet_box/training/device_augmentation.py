"""The paper's augmentation by torch, for the device that trains: samples go there as they are read.

As ``augmentation.py`` does it on the CPU (elastic deformation, scaling, rotation, gamma, mirroring, in this order),
with the same interpolation: cubic B-splines for images, for labels the one with the largest linear share. Which random
numbers fall is another matter; a batch still follows from its number alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nnunet_box.training.augmentation import ELASTIC_SIGMA
from nnunet_box.training.warp import TRUNCATE

LONGEST_RADIUS = int(TRUNCATE * ELASTIC_SIGMA[1] + 0.5)
EPSILON = 1e-7
OUTSIDE = -1


class RawBatch(NamedTuple):
    """A batch as it is read: S samples that stay where they are, then M that are moved; B = S + M.

    still: (S, C, [Z,] Y, X) float32 of the patch's size. moved: (M, C, ...) of the size that moving needs.
    *_labels: (S or M, [Z,] Y, X) int8, -1 outside the case. affine: (M, D, D). elastic: (M, 2), alpha and sigma.
    gamma: (B, C). flips: (B, axes) bool. seed: of the elastic noise, int64.
    """

    still: Tensor
    still_labels: Tensor
    moved: Tensor
    moved_labels: Tensor
    affine: Tensor
    elastic: Tensor
    gamma: Tensor
    flips: Tensor
    seed: Tensor

    def to(self, device: torch.device) -> RawBatch:
        """The same on ``device``, copied while the CPU goes on; the seed stays."""
        return RawBatch(*(tensor.to(device, non_blocking=True) for tensor in self[:-1]), self.seed)


@torch.no_grad()
def augment(batch: RawBatch, patch: Sequence[int], mask_image: bool, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """Images (B, C, [Z,] Y, X) float32 and labels (B, [Z,] Y, X) int64 of the ``patch`` size, on the batch's device.

    mask_image: image to 0 where a label says outside. compiled: by functions compiled for these shapes, sample by
    sample, since the number that is moved differs from batch to batch. Nothing here waits for the device.
    """
    dimensions, device = batch.affine.shape[-1], batch.moved.device
    shape, source = tuple(patch[-dimensions:]), batch.moved.shape[-dimensions:]
    filters = [_prefilter(length, device) for length in source]
    generator = torch.Generator(device).manual_seed(int(batch.seed))
    images, labels = [batch.still], [batch.still_labels]
    for part in range(len(batch.moved)) if compiled else [slice(None)] * min(1, len(batch.moved)):
        chosen = slice(part, part + 1) if isinstance(part, int) else part
        affine = batch.affine[chosen]
        noise = torch.rand((len(affine), dimensions, *shape), generator=generator, device=device)
        function = _compiled_move() if compiled else move
        moved = function(batch.moved[chosen], batch.moved_labels[chosen], affine, batch.elastic[chosen], noise, filters)
        images.append(moved[0].reshape(-1, *batch.still.shape[1:2], *patch))
        labels.append(moved[1].reshape(-1, *patch))
    function = _compiled_finish() if compiled else finish
    result: tuple[Tensor, Tensor] = function(torch.cat(images), torch.cat(labels), batch.gamma, batch.flips, mask_image)
    return result


def move(
    images: Tensor, labels: Tensor, affine: Tensor, elastic: Tensor, noise: Tensor, filters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Images (M, C, ...) and labels (M, ...) moved to the shape of ``noise`` (M, D, ...), from the middle of what was
    read; axes before the last D are channels, which move alike.

    noise: even in 0..1. filters: of ``_prefilter``, one for each axis that is moved.
    """
    dimensions = affine.shape[-1]
    source = images.shape[-dimensions:]
    size = elastic[:, 0].reshape(-1, *[1] * (dimensions + 1))
    offsets = smooth(noise * 2 - 1, elastic[:, 1]) * size
    at = positions(offsets, affine, source)
    moved = warp_images(images.reshape(len(images), -1, *source), at, filters)
    return moved, warp_labels(labels.reshape(len(labels), -1, *source), at)


def finish(images: Tensor, labels: Tensor, gamma: Tensor, flips: Tensor, mask_image: bool) -> tuple[Tensor, Tensor]:
    """Gamma, mirroring and what lies outside of the case, of images (B, C, ...) and labels (B, ...) int8."""
    images = change_gamma(images, gamma)
    axes = flips.shape[1]
    for axis in range(axes):
        turned = flips[:, axis].reshape(-1, *[1] * axes)
        images = torch.where(turned[:, None], images.flip(axis + 2), images)
        labels = torch.where(turned, labels.flip(axis + 1), labels)
    if mask_image:
        images = images * (labels >= 0)[:, None]
    return images, labels.clamp_min(0).long()


@lru_cache(maxsize=1)
def _compiled_move() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(move, dynamic=False)


@lru_cache(maxsize=1)
def _compiled_finish() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(finish, dynamic=False)


def smooth(noise: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of ``sigma`` (M,) voxels, zero outside, along each axis of (M, D, ...): a matrix product an axis."""
    reach = torch.arange(-LONGEST_RADIUS, LONGEST_RADIUS + 1, device=noise.device)
    radius = (TRUNCATE * sigma + 0.5).floor()[:, None]
    scale = (torch.exp(-0.5 * (reach / sigma[:, None]) ** 2) * (reach.abs() <= radius)).sum(1)
    for axis in range(2, noise.ndim):
        voxels = torch.arange(noise.shape[axis], device=noise.device)
        apart = (voxels[:, None] - voxels[None, :]).abs()
        weights = torch.exp(-0.5 * (apart / sigma[:, None, None]) ** 2) * (apart <= radius[:, :, None])
        noise = _along(noise, weights / scale[:, None, None], axis)
    return noise


def positions(offsets: Tensor, affine: Tensor, source: Sequence[int]) -> Tensor:
    """Where each voxel comes from, (M, D, ...) in voxels of a ``source`` of that shape; ``offsets`` alike."""
    shape = offsets.shape[2:]
    grid = torch.meshgrid(
        *(torch.arange(length, device=offsets.device) - (length - 1) / 2 for length in shape), indexing="ij"
    )
    moved = torch.einsum("mde,me...->md...", affine, offsets + torch.stack(grid))
    centre = [(length - 1) / 2 for length in source]
    for axis, middle in enumerate(centre):
        moved[:, axis] += middle
    return moved


def warp_images(images: Tensor, at: Tensor, filters: Sequence[Tensor]) -> Tensor:
    """Cubic B-spline of (M, C, ...) at positions (M, D, ...); 0 outside.

    A cubic weighting of four voxels an axis is two linear ones at positions chosen so (Sigg and Hadwiger, GPU Gems 2,
    chapter 20): 2^D linear interpolations instead of 4^D reads. filters: of ``_prefilter``, one an axis.
    """
    shape = images.shape[2:]
    for axis, matrix in enumerate(filters, start=2):
        images = _along(images, matrix, axis)
    sides = []
    for axis, length in enumerate(shape):
        first = at[:, axis].floor()
        t = at[:, axis] - first
        middle = (4 - 3 * t**2 * (2 - t)) / 6
        near = (1 - t) ** 3 / 6 + middle
        far = 1 - near
        # In grid_sample's coordinates, -1 and 1 at the middle of the first and the last voxel.
        before, after = (
            2 * (first + step) / max(length - 1, 1) - 1 for step in (middle / near - 1, 1 + t**3 / 6 / far)
        )
        sides.append(((near, before), (far, after)))
    total = torch.zeros((), device=images.device)
    for corner in product(*sides):
        weight = torch.ones((), device=images.device)
        for share, _ in corner:
            weight = weight * share
        grid = torch.stack([place for _, place in reversed(corner)], -1)
        total = total + weight[:, None] * functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=True
        )
    return total * _inside(at, shape)[:, None]


def warp_labels(labels: Tensor, at: Tensor) -> Tensor:
    """The label of (M, C, ...) int8 with the largest linear share at positions (M, D, ...), the nearest voxel's where
    shares are equal; -1 outside.
    """
    shape = labels.shape[2:]
    flat = labels.flatten(2)
    sides, nearest = [], []
    for axis, length in enumerate(shape):
        inward = at[:, axis].clamp(0, length - 1)
        first = inward.floor()
        share = inward - first
        sides.append(((first.long(), 1 - share), ((first + 1).clamp_max(length - 1).long(), share)))
        nearest.append((inward + 0.5).floor().clamp_max(length - 1).long())

    def taken(places: Sequence[Tensor]) -> Tensor:
        index = places[0]
        for place, length in zip(places[1:], shape[1:], strict=True):
            index = index * length + place
        wanted = index.reshape(len(labels), 1, -1).expand(-1, labels.shape[1], -1)
        return flat.gather(2, wanted).reshape(*labels.shape[:2], *at.shape[2:])

    corners, weights = [], []
    for corner in product(*sides):
        corners.append(taken([place for place, _ in corner]))
        weight = corner[0][1]
        for _, share in corner[1:]:
            weight = weight * share
        weights.append(weight[:, None])
    best = taken(nearest)
    most = _share_of(best, corners, weights)
    for label in corners:
        amount = _share_of(label, corners, weights)
        # A little more than equal: sums of the same shares in another order.
        best = torch.where(amount > most + EPSILON, label, best)
        most = torch.maximum(most, amount)
    return torch.where(_inside(at, shape)[:, None], best, OUTSIDE)


def change_gamma(images: Tensor, gamma: Tensor) -> Tensor:
    """Intensities of (B, C, ...) between a channel's least and largest to the power ``gamma`` (B, C), then brought back
    to the mean and deviation it had; a gamma of 1 changes nothing.
    """
    axes = tuple(range(2, images.ndim))
    power = gamma.reshape(*gamma.shape, *[1] * len(axes))
    least, largest = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    extent = largest - least + EPSILON
    changed = ((images - least) / extent) ** power * extent + least
    deviation, mean = torch.std_mean(images, axes, correction=0, keepdim=True)
    new_deviation, new_mean = torch.std_mean(changed, axes, correction=0, keepdim=True)
    changed = (changed - new_mean) / (new_deviation + 1e-8) * deviation + mean
    return torch.where(power == 1, images, changed)


def _share_of(label: Tensor, corners: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    total = torch.zeros((), device=label.device)
    for corner, weight in zip(corners, weights, strict=True):
        total = total + weight * (corner == label)
    return total


def _inside(at: Tensor, shape: Sequence[int]) -> Tensor:
    inside = torch.ones((), dtype=torch.bool, device=at.device)
    for axis, length in enumerate(shape):
        inside = inside & (at[:, axis] >= 0) & (at[:, axis] <= length - 1)
    return inside


def _along(array: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """(M, C, ...) times a matrix (N, N) or one a sample (M, N, N) along ``axis``."""
    per_sample = matrix[:, None] if matrix.ndim == 3 else matrix
    turned = array.movedim(axis, -1)
    shape = turned.shape
    result: Tensor = turned.reshape(*shape[:2], -1, shape[-1]) @ per_sample.mT
    return result.reshape(shape).movedim(-1, axis)


@lru_cache(maxsize=16)
def _prefilter(length: int, device: torch.device) -> Tensor:
    """Matrix (N, N) from voxels to the coefficients of the cubic B-spline through them, mirrored at the edges."""
    samples = np.diag(np.full(length, 4.0)) + np.diag(np.ones(length - 1), 1) + np.diag(np.ones(length - 1), -1)
    if length > 1:
        samples[0, 1] = samples[-1, -2] = 2.0
    else:
        samples[0, 0] = 6.0
    return torch.from_numpy(np.linalg.inv(samples / 6)).float().to(device)
