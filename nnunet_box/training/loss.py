"""Cross-entropy plus soft Dice (paper, Method, Training)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5


def soft_dice(probabilities: Tensor, labels: Tensor, batch_dice: bool) -> Tensor:
    """Mean soft Dice of the foreground classes.

    probabilities: (B, K, ...). labels: (B, ...) of 0..K-1. With ``batch_dice`` a class's overlap is pooled over the
        batch, otherwise it is taken sample by sample. Background is left out, numerator and denominator are smoothed by
        1e-5 (authors' code of April 2019, without its squared intersection in the sample-wise case).
    """
    axes = tuple(range(2, probabilities.ndim))
    classes = torch.arange(probabilities.shape[1], device=labels.device).view(-1, *[1] * len(axes))
    # One byte a voxel and class; one_hot makes eight, and four more to multiply with.
    truth = labels[:, None] == classes
    overlap = (probabilities * truth).sum(axes)
    mass = probabilities.sum(axes) + truth.sum(axes)
    if batch_dice:
        overlap, mass = overlap.sum(0, keepdim=True), mass.sum(0, keepdim=True)
    dice = (2 * overlap + SMOOTH) / (mass + SMOOTH)
    return dice[:, 1:].mean()


def segmentation_loss(logits: Tensor, labels: Tensor, batch_dice: bool, terms: str = "ce+dice") -> Tensor:
    """Cross-entropy over all voxels minus soft Dice; -1 is perfect. logits (B, K, ...), labels (B, ...).

    terms: ``ce`` or ``dice`` for one of the two alone.
    """
    loss = torch.zeros((), device=logits.device)
    if "ce" in terms.split("+"):
        loss = loss + functional.cross_entropy(logits, labels)
    if "dice" in terms.split("+"):
        loss = loss - soft_dice(torch.softmax(logits, dim=1), labels, batch_dice)
    return loss


def loss_at_every_resolution(outputs: Sequence[Tensor], labels: Tensor, batch_dice: bool, terms: str) -> Tensor:
    """Mean of the losses of several resolutions, finest first, each weighing half of the one before (Isensee et al.
    2021).

    outputs: logits (B, K, ...). labels: (B, ...) of the finest; coarser ones take the nearest voxel's.
    """
    total = torch.zeros((), device=labels.device)
    weights = [0.5**level for level in range(len(outputs))]
    for logits, weight in zip(outputs, weights, strict=True):
        size = logits.shape[2:]
        coarse = labels
        if size != labels.shape[1:]:
            coarse = functional.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
        total = total + weight / sum(weights) * segmentation_loss(logits, coarse, batch_dice, terms)
    return total
