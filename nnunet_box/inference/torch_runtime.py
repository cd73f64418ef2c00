"""Running a network with torch: the only module of this room that imports it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_box.errors import UsageError
from nnunet_box.inference.ensemble import Member
from nnunet_box.network.tensors import put_weights, read_tensors
from nnunet_box.network.unet import UNet, for_device
from nnunet_box.planning.plan import Configuration, Plan
from nnunet_box.planning.variant import PAPER, Recipe, recipe


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1`` to a device that is there.

    Raises
    ------
    UsageError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: auto, cpu, cuda or cuda:<index>.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; nnbox doctor says why."
        )
    return device


class TorchRuntime:
    """A U-Net on a device."""

    def __init__(self, network: UNet, device: torch.device) -> None:
        self.network = for_device(network, device).eval()
        self.device = device

    @classmethod
    def load(
        cls,
        weights: Path,
        configuration: Configuration,
        inputs: int,
        classes: int,
        device: torch.device,
        chosen: Recipe = PAPER,
    ) -> TorchRuntime:
        """Network from safetensors.

        Raises
        ------
        InvalidData: the file is missing, damaged, or of another network.
        """
        with torch.device("meta"):
            network = UNet(configuration, inputs, classes, chosen)
        fix = "Train the fold again or restore the bundle."
        tensors = read_tensors(weights, "weights of this plan's network", fix)
        put_weights(network, tensors, weights, fix, assign=True)
        return cls(network, device)

    @torch.inference_mode()
    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self.network(torch.from_numpy(batch).to(self.device)).float().cpu().numpy()
        return logits


def plan_network(member: Member, weights: Path, plan: Plan, device: torch.device) -> TorchRuntime:
    """A trained network of ``plan`` on ``device``."""
    configuration, inputs = plan.configuration_of(member.configuration), plan.inputs_of(member.configuration)
    return TorchRuntime.load(weights, configuration, inputs, len(plan.labels), device, recipe(member.variants))
