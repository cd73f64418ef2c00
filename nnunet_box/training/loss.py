"""Cross-entropy plus soft Dice (paper, Method, Training)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1e-5


def soft_dice(probabilities: Tensor, labels: Tensor, batch_dice: bool) -> Tensor:
    """Mean soft Dice of the foreground classes.

    probabilities: (B, K, ...). labels: (B, ...) of 0..K-1. With ``batch_dice`` a class's overlap is pooled over the
        batch,
    otherwise it is taken sample by sample. Background is left out, numerator and denominator are smoothed by 1e-5
    (authors'
    code of April 2019, without its squared intersection in the sample-wise case).
    """
    classes = probabilities.shape[1]
    truth = functional.one_hot(labels, classes).movedim(-1, 1).to(probabilities.dtype)
    axes = tuple(range(2, probabilities.ndim))
    overlap = (probabilities * truth).sum(axes)
    mass = probabilities.sum(axes) + truth.sum(axes)
    if batch_dice:
        overlap, mass = overlap.sum(0, keepdim=True), mass.sum(0, keepdim=True)
    dice = (2 * overlap + SMOOTH) / (mass + SMOOTH)
    return dice[:, 1:].mean()


def segmentation_loss(logits: Tensor, labels: Tensor, batch_dice: bool) -> Tensor:
    """Cross-entropy over all voxels minus soft Dice; -1 is perfect. logits (B, K, ...), labels (B, ...)."""
    cross_entropy = functional.cross_entropy(logits, labels)
    return cross_entropy - soft_dice(torch.softmax(logits, dim=1), labels, batch_dice)
