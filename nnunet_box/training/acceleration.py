"""What a GPU offers to training beyond float32: half-length numbers and a compiled network."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass

import torch

from nnunet_box.memory import GIB
from nnunet_box.progress import say

COMPILERS = ("gcc", "cc", "clang")
LEAST_CAPABILITY = (7, 0)
"""Compute capability from which Triton makes code."""


@dataclass(frozen=True)
class Acceleration:
    """mixed: convolutions in bfloat16. compiled: loss and gradients compiled."""

    mixed: bool
    compiled: bool

    @classmethod
    def of(cls, device: torch.device, full_precision: bool, compiled: bool) -> Acceleration:
        """What ``device`` offers and the person did not turn off; says so where a GPU could do more."""
        obstacle = compile_obstacle(device)
        if compiled and obstacle is not None and device.type == "cuda":
            say(f"The network is not compiled, which would train it faster: {obstacle}.")
        return cls(mixed_precision(device) and not full_precision, compiled and obstacle is None)


def mixed_precision(device: torch.device) -> bool:
    """Whether convolutions may run in bfloat16, with weights, statistics and loss in float32: GPUs that calculate in it
    (NVIDIA: Ampere and later). Unlike float16 it needs no scaling of the loss, and no state to keep.
    """
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def compile_obstacle(device: torch.device) -> str | None:
    """Why ``torch.compile`` cannot work for ``device``; None where it can."""
    if device.type != "cuda":
        return "only networks on a GPU are compiled"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return "the GPU is older than compute capability 7.0"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    named = os.environ.get("CC")
    if not any(shutil.which(name) for name in ([named] if named else COMPILERS)):
        return "no C compiler (gcc) was found"
    return None


def room_for_cases(device: torch.device, memory_gb: float, mixed: bool) -> float:
    """Bytes of a GPU's memory that are free for cases beside a network planned for ``memory_gb``, which takes half of
    it in mixed precision; 0 where there is no GPU.
    """
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return max(0.0, free - memory_gb * GIB / (2 if mixed else 1))
