"""Tensors from files that nobody vouches for: safetensors, which run no code, and only what a network can use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nnunet_box.errors import InvalidData

BATCHES_SEEN = "num_batches_tracked"
"""Batch norm's count, the only integer that a network keeps."""

MESSAGE_LENGTH = 300
"""Characters of torch's message that are passed on; it names every parameter that differs."""


def read_tensors(file: Path, what: str, fix: str) -> dict[str, Tensor]:
    """All tensors of a file. what, fix: for the message.

    Raises
    ------
    InvalidData: missing, damaged, no safetensors, or values that are not float32 and finite.
    """
    if not file.is_file():
        raise InvalidData(file, what, "no such file", fix)
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except Exception as error:
        # A damaged header can fail in any way; none of it may end in a traceback.
        reason = " ".join(str(error).split())[:MESSAGE_LENGTH]
        raise InvalidData(file, what, f"{file.stat().st_size} bytes that do not open ({reason})", fix) from error
    for name, tensor in tensors.items():
        if tensor.dtype != (torch.int64 if name.endswith(BATCHES_SEEN) else torch.float32):
            raise InvalidData(file, f"{what} in float32", f"{name} in {str(tensor.dtype).removeprefix('torch.')}", fix)
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidData(file, f"{what}, finite", f"NaN or infinity in {name}", fix)
    return tensors


def put_weights(network: nn.Module, tensors: Mapping[str, Tensor], file: Path, fix: str, assign: bool = False) -> None:
    """Make tensors a network's parameters. assign: they become them, instead of being copied.

    Raises
    ------
    InvalidData: one is missing, too many, or of another shape; the message names it.
    """
    try:
        network.load_state_dict(dict(tensors), assign=assign)
    except RuntimeError as error:
        # The first line names the class only.
        lines = [line.strip() for line in str(error).splitlines()]
        reason = " ".join(lines[1:] or lines)[:MESSAGE_LENGTH]
        raise InvalidData(file, "weights of this plan's network", reason, fix) from error
