"""An estimate of Dice while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from nnunet_box.training.step import TrainingStep


@torch.inference_mode()
def patch_dice(
    step: TrainingStep, batches: Iterator[tuple[Tensor, Tensor]], classes: int, before: Callable[[int], None]
) -> dict[int, float | None]:
    """Each foreground class's Dice over the pooled voxels of validation patches: an estimate, for the log and the
    person watching. None where a class is neither in them nor predicted.

    batches: images (B, C, [Z,] Y, X) and labels (B, [Z,] Y, X) int64. classes: background included. before: called
    before each batch with how many were done.
    """
    step.network.eval()
    counts = torch.zeros((classes, 3), dtype=torch.float64, device=step.device)
    for number, (image, labels) in enumerate(batches):
        before(number)
        predicted = step.labels_of(image)
        for value in range(1, classes):
            truth, guess = labels == value, predicted == value
            counts[value] += torch.stack([(truth & guess).sum(), truth.sum(), guess.sum()])
    common, in_truth, in_guess = counts.T.tolist()
    sizes = [truth + guess for truth, guess in zip(in_truth, in_guess, strict=True)]
    return {value: 2 * common[value] / sizes[value] if sizes[value] else None for value in range(1, classes)}
