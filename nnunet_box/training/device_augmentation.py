"""The paper's augmentation by torch, for the device that trains: samples go there as they are read.

As ``augmentation.py`` does it on the CPU (elastic deformation, scaling, rotation, gamma, mirroring, in this order),
with the same interpolation: cubic B-splines for images, for labels the one with the largest linear share. Which random
numbers fall is another matter; a batch still follows from its number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
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
LABELS_AT_ONCE = 8
"""Labels whose shares are held at the same time, four bytes a voxel each."""


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
        there = [tensor.to(device, non_blocking=True) for tensor in self]
        return RawBatch(*there)._replace(seed=self.seed)


@torch.no_grad()
def augment(batch: RawBatch, patch: Sequence[int], classes: int, mask_image: bool) -> tuple[Tensor, Tensor]:
    """Images (B, C, [Z,] Y, X) float32 and labels (B, [Z,] Y, X) int64 of the ``patch`` size, on the batch's device.

    classes: labels are below it. mask_image: image to 0 where a label says outside. Nothing here waits for the device.
    """
    images, labels = batch.still, batch.still_labels
    if len(batch.moved):
        moved, moved_labels = move(batch, patch, classes)
        images, labels = torch.cat([images, moved]), torch.cat([labels, moved_labels])
    images = change_gamma(images, batch.gamma)
    axes = len(patch)
    for axis in range(axes):
        turned = batch.flips[:, axis].reshape(-1, *[1] * axes)
        images = torch.where(turned[:, None], images.flip(axis + 2), images)
        labels = torch.where(turned, labels.flip(axis + 1), labels)
    if mask_image:
        images = images * (labels >= 0)[:, None]
    return images, labels.clamp_min(0).long()


def move(batch: RawBatch, patch: Sequence[int], classes: int) -> tuple[Tensor, Tensor]:
    """The moved samples (M, C, *patch) and their labels (M, *patch) int8: the patch from the middle of what was read.

    Where the matrix has two axes and the patch three, every slice is moved alike.
    """
    samples, dimensions = len(batch.moved), batch.affine.shape[-1]
    shape, source = tuple(patch[-dimensions:]), batch.moved.shape[-dimensions:]
    generator = torch.Generator(batch.moved.device).manual_seed(int(batch.seed))
    noise = torch.rand((samples, dimensions, *shape), generator=generator, device=batch.moved.device) * 2 - 1
    size = batch.elastic[:, 0].reshape(-1, *[1] * (dimensions + 1))
    at = positions(smooth(noise, batch.elastic[:, 1]) * size, batch.affine, source)
    # Slices moved alike are channels of one slice.
    moved = warp_images(batch.moved.reshape(samples, -1, *source), at)
    moved_labels = warp_labels(batch.moved_labels.reshape(samples, -1, *source), at, classes)
    return moved.reshape(samples, -1, *patch), moved_labels.reshape(samples, *patch)


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
    for axis, length in enumerate(source):
        moved[:, axis] += (length - 1) / 2
    return moved


def warp_images(images: Tensor, at: Tensor) -> Tensor:
    """Cubic B-spline of (M, C, ...) at positions (M, D, ...); 0 outside.

    A cubic weighting of four voxels an axis is two linear ones at positions chosen so (Sigg and Hadwiger, GPU Gems 2,
    chapter 20): 2^D linear interpolations instead of 4^D reads.
    """
    shape = images.shape[2:]
    for axis, length in enumerate(shape, start=2):
        images = _along(images, _prefilter(length, images.device), axis)
    first = at.floor()
    t = at - first
    middle = (4 - 3 * t**2 * (2 - t)) / 6
    near = (1 - t) ** 3 / 6 + middle
    far = 1 - near
    before, after = first + middle / near - 1, first + t**3 / 6 / far + 1
    places = [(_in_grid(before, shape), near.unbind(1)), (_in_grid(after, shape), far.unbind(1))]
    total: Tensor | None = None
    for corner in product((0, 1), repeat=len(shape)):
        # Of the last axis first, as grid_sample wants them.
        grid = torch.stack([places[side][0][axis] for axis, side in reversed(list(enumerate(corner)))], -1)
        weight = places[corner[0]][1][0]
        for axis, side in enumerate(corner[1:], start=1):
            weight = weight * places[side][1][axis]
        value = functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
        total = value * weight[:, None] if total is None else total.addcmul_(value, weight[:, None])
    assert total is not None
    return total * _inside(at, shape)[:, None]


def warp_labels(labels: Tensor, at: Tensor, classes: int) -> Tensor:
    """The label of (M, C, ...) int8, -1 to ``classes`` - 1, with the largest linear share at positions (M, D, ...), the
    smallest of equal ones; -1 outside.
    """
    samples, channels, shape = len(labels), labels.shape[1], labels.shape[2:]
    grid = torch.stack(_in_grid(at, shape)[::-1], -1)
    best: Tensor | None = None
    for first in range(-1, classes, LABELS_AT_ONCE):
        values = torch.arange(first, min(first + LABELS_AT_ONCE, classes), dtype=torch.int8, device=labels.device)
        one_hot = (labels[:, :, None] == values.reshape(-1, *[1] * len(shape))).float()
        shares = functional.grid_sample(one_hot.flatten(1, 2), grid, padding_mode="border", align_corners=True)
        shares = shares.reshape(samples, channels, len(values), *at.shape[2:])
        share, index = shares.max(2)
        found = (index + first).to(torch.int8)
        if best is None:
            best, most = found, share
        else:
            best, most = torch.where(share > most, found, best), torch.maximum(share, most)
    assert best is not None
    return torch.where(_inside(at, shape)[:, None], best, OUTSIDE)


def _in_grid(at: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """Positions (M, D, ...) in voxels, axis by axis, as ``grid_sample`` counts: -1 and 1 at the middle of the first and
    the last voxel.
    """
    return [place * (2 / max(length - 1, 1)) - 1 for place, length in zip(at.unbind(1), shape, strict=True)]


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
