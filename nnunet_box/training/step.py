"""Loss, gradients and labels of a batch: the one place that knows of precision, compiling and captured graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nnunet_box.network.padded import can_be_padded, padded_at_every_resolution
from nnunet_box.network.unet import UNet
from nnunet_box.training.acceleration import Acceleration
from nnunet_box.training.captured import CapturedStep
from nnunet_box.training.loss import loss_at_every_resolution


class TrainingStep:
    """What is computed of each batch of a network on its device.

    Parameters
    ----------
    terms, batch_dice: of the loss (see ``loss.py``). acceleration: what the device is used for beyond float32.
    """

    def __init__(
        self, network: UNet, device: torch.device, terms: str, batch_dice: bool, acceleration: Acceleration
    ) -> None:
        self.network, self.device, self.terms, self.batch_dice = network, device, terms, batch_dice
        self.mixed = acceleration.mixed
        self.captured: CapturedStep | None = None
        # For the shapes of its inputs, which stay the same.
        self.loss: Callable[[Tensor, Tensor], Tensor] = (
            torch.compile(self._loss, dynamic=False) if acceleration.compiled else self._loss
        )
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def gradients(self, image: Tensor, labels: Tensor) -> Tensor:
        """Put the gradients of (B, C, [Z,] Y, X) and labels (B, [Z,] Y, X) int64 into the network; returns the loss, a
        scalar that on a GPU may not be computed yet.
        """
        if self.device.type == "cuda":
            if self.captured is None:
                self.captured = CapturedStep(self.loss, self.network, image, labels)
            return self.captured(image, labels)
        loss = self.loss(image, labels)
        self.network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def labels_of(self, image: Tensor) -> Tensor:
        """The most probable label of each voxel, (B, [Z,] Y, X) int64."""
        return self._outputs(image)[0].argmax(1)

    def _loss(self, image: Tensor, labels: Tensor) -> Tensor:
        outputs = [logits.float() for logits in self._outputs(image)]
        return loss_at_every_resolution(outputs, labels, self.batch_dice, self.terms)

    def _outputs(self, image: Tensor) -> list[Tensor]:
        if not self.mixed:
            return self.network.at_every_resolution(image)
        with torch.autocast(self.device.type, torch.bfloat16):
            if can_be_padded(self.network):
                return padded_at_every_resolution(self.network, image)
            return self.network.at_every_resolution(image)
