"""What a GPU offers to training beyond float32: half-length numbers and a compiled network."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from nnunet_box.memory import GIB

COMPILERS = ("gcc", "cc", "clang")
LEAST_CAPABILITY = (7, 0)
"""Compute capability from which Triton makes code."""


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
