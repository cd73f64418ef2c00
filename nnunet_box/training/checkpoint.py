"""Checkpoints without pickle: safetensors for tensors, JSON for the rest, the whole folder put in place at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json, write_beside, write_json

SCHEMA = 1


def save_weights(file: Path, network: nn.Module) -> None:
    """Network weights alone, whole or not at all."""
    tensors = _on_cpu(network.state_dict())
    with write_beside(file, _bytes(tensors)) as temporary:
        save_file(tensors, temporary)


def training_bytes(network: nn.Module) -> int:
    """What weights and checkpoints take at most: the paper's Adam keeps three tensors of each weight's size, and a
    checkpoint replaces the one before it when it is whole.
    """
    return _bytes(network.state_dict()) * (1 + 2 * (1 + 3))


def _on_cpu(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def save_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Everything a run needs to go on. state: JSON values (epoch, schedule, moving averages, seed, settings).

    There is no random state to save: batches are a function of (seed, fold, batch number), and the network draws
    nothing.
    """
    tensors = _on_cpu(network.state_dict())
    kept = optimizer.state_dict()["state"]
    moments = _on_cpu({f"{index}.{name}": value for index, values in kept.items() for name, value in values.items()})
    with write_beside(folder, _bytes(tensors) + _bytes(moments)) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / "network.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"schema_version": SCHEMA, **state})


def checkpoint_state(folder: Path) -> dict[str, Any]:
    """What was saved beside the tensors.

    Raises
    ------
    InvalidData: the file is missing, damaged, or of another schema version.
    """
    state: dict[str, Any] = read_json(folder / "state.json", schema_version=SCHEMA)
    return state


def load_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors into ``network`` and ``optimizer``.

    Raises
    ------
    InvalidData: a file is missing, damaged, or of another network.
    """
    try:
        network.load_state_dict(load_file(folder / "network.safetensors"))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(folder / "optimizer.safetensors").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidData(folder, "a checkpoint of this run", reason, "Train with --restart to begin anew.") from error
