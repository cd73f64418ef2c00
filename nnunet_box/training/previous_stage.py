"""The previous stage's label map in a cascade's training batches: as one-hot channels, and spoilt at random.

While training, the label map is as good as cross-validation made it; at test time it may err otherwise. Structures are
therefore grown, shrunk, smoothed and lost at random, so that the network does not simply copy its input (authors' code
of April 2019; the paper does not speak of it).
"""

from __future__ import annotations

from typing import Any

import cc3d
import edt
import numpy as np
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray

from nnunet_box.preprocessing.previous_stage import foreground_channels

OPERATION_PROBABILITY = 0.4
RADIUS = (1.0, 8.0)
REMOVAL_PROBABILITY = 0.2
LARGEST_REMOVED = 0.15
"""Share of the patch's voxels below which a component may be removed."""


class PreviousStageToChannels(AbstractTransform):  # type: ignore[misc]
    """The second label map of ``seg`` (B, 2, Z, Y, X) becomes one-hot foreground channels at the end of ``data``."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, **batch: Any) -> dict[str, Any]:
        one_hot = np.stack([foreground_channels(labels, self.classes) for labels in batch["seg"][:, 1]])
        batch["data"] = np.concatenate([batch["data"], one_hot], axis=1)
        batch["seg"] = batch["seg"][:, :1]
        return batch


def spoil_previous_stage(classes: int) -> list[Any]:
    """Both augmentations of the last ``classes`` - 1 channels of ``data``."""
    return [RandomBinaryOperation(classes - 1), RemoveRandomComponent(classes - 1)]


class RandomBinaryOperation(AbstractTransform):  # type: ignore[misc]
    """With probability 0.4 a sample: each of the last ``channels`` channels, in random order, is dilated, eroded,
    opened or closed by a ball of 1 to 8 voxels. What a label gains, the others lose.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, **batch: Any) -> dict[str, Any]:
        for sample in batch["data"]:
            if np.random.uniform() >= OPERATION_PROBABILITY:
                continue
            one_hot = sample[-self.channels :]
            for channel in np.random.permutation(self.channels):
                operation = OPERATIONS[np.random.randint(len(OPERATIONS))]
                radius = np.random.uniform(*RADIUS)
                before = one_hot[channel] > 0
                after = near_foreground(operation, before, radius)
                one_hot[:, after & ~before] = 0
                one_hot[channel] = after
        return batch


class RemoveRandomComponent(AbstractTransform):  # type: ignore[misc]
    """With probability 0.2 a sample: each of the last ``channels`` channels loses one connected component, drawn among
    those that cover less than 15 % of the patch.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def __call__(self, **batch: Any) -> dict[str, Any]:
        for sample in batch["data"]:
            if np.random.uniform() >= REMOVAL_PROBABILITY:
                continue
            for channel in sample[-self.channels :]:
                components = np.asarray(cc3d.connected_components(channel > 0, connectivity=26))
                sizes = np.bincount(components.ravel())
                small = [value for value in range(1, len(sizes)) if sizes[value] < LARGEST_REMOVED * channel.size]
                if small:
                    channel[components == np.random.choice(small)] = 0
        return batch


def dilate(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Voxels of (Z, Y, X) no further than ``radius`` voxels from the foreground.

    By distances: their cost does not grow with the ball, as that of a structuring element does.
    """
    return mask if not mask.any() else np.asarray(edt.edt(~mask) <= radius)


def erode(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Voxels of (Z, Y, X) further than ``radius`` voxels from the background. A structure that runs out of the patch is
    not eroded there.
    """
    return mask if mask.all() else np.asarray(edt.edt(mask) > radius)


def opened(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Eroded, then dilated."""
    return dilate(erode(mask, radius), radius)


def closed(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilated, then eroded."""
    return erode(dilate(mask, radius), radius)


OPERATIONS = (dilate, erode, opened, closed)


def near_foreground(operation: Any, mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """``operation`` on (Z, Y, X), computed only where it can change something: around the foreground."""
    if not mask.any():
        return mask
    margin = int(np.ceil(radius)) + 1
    window = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        window.append(slice(max(0, int(hit[0]) - margin), int(hit[-1]) + 1 + margin))
    result = np.zeros_like(mask)
    result[tuple(window)] = operation(np.ascontiguousarray(mask[tuple(window)]), radius)
    return result
