"""Checkpoints without pickle: safetensors for tensors, JSON for the rest, the whole folder put in place at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from nnunet_box.bundle import sha256
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json, write_beside, write_json
from nnunet_box.network.tensors import put_weights, read_tensors
from nnunet_box.planning.fingerprint import describe_errors
from nnunet_box.training.optimisation import moment_names

SCHEMA = 1
STATE, NETWORK, OPTIMIZER = "state.json", "network.safetensors", "optimizer.safetensors"
AGAIN = "Train with --restart to begin anew."
Value = TypeVar("Value")


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
    nothing. ``files`` in ``state.json`` are the digests of the others: a flipped bit in a weight is seen by nothing
    else.
    """
    tensors = _on_cpu(network.state_dict())
    kept = optimizer.state_dict()["state"]
    moments = _on_cpu({f"{index}.{name}": value for index, values in kept.items() for name, value in values.items()})
    with write_beside(folder, _bytes(tensors) + _bytes(moments)) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / NETWORK)
        save_file(moments, temporary / OPTIMIZER)
        files = {name: sha256(temporary / name) for name in (NETWORK, OPTIMIZER)}
        write_json(temporary / STATE, {"schema_version": SCHEMA, "files": files, **state})


def checkpoint_state(folder: Path) -> dict[str, Any]:
    """What was saved beside the tensors.

    Raises
    ------
    InvalidData: the file is missing, damaged, or of another schema version; a tensors' file is missing or not the one
    that was saved with it.
    """
    state: dict[str, Any] = read_json(folder / STATE, schema_version=SCHEMA)
    # Checkpoints of version 0.1 have no digests.
    for name, digest in restored(dict[str, str], state.get("files", {}), folder, "files").items():
        file = folder / name
        if name not in (NETWORK, OPTIMIZER):
            raise InvalidData(folder / STATE, f"digests of {NETWORK} and {OPTIMIZER}", name, AGAIN)
        if not file.is_file():
            raise InvalidData(file, "a file of the checkpoint", "no such file", AGAIN)
        found = sha256(file)
        if found != digest:
            raise InvalidData(file, f"the file that was saved, sha256 {digest}", f"{found}, a damaged one", AGAIN)
    return state


def restored(kind: type[Value], values: Any, folder: Path, part: str) -> Value:
    """A part of ``state.json`` as what it was.

    Raises
    ------
    InvalidData: it is missing, has other fields, or values of another type or that cannot be.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        found = f"{part}: {describe_errors(error)}"
        raise InvalidData(folder / STATE, "what training saves of a run", found, AGAIN) from error


def load_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's tensors into ``network`` and ``optimizer``.

    Raises
    ------
    InvalidData: a file is missing, damaged, or of another network.
    """
    what = "a checkpoint of this run"
    put_weights(network, read_tensors(folder / NETWORK, what, AGAIN), folder / NETWORK, AGAIN)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in read_tensors(folder / OPTIMIZER, what, AGAIN).items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index) if index.isdecimal() else -1, {})[name] = value
    _check_moments(folder / OPTIMIZER, moments, optimizer)
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_moments(file: Path, moments: dict[int, dict[str, Tensor]], optimizer: torch.optim.Optimizer) -> None:
    """Refuse what ``load_state_dict`` takes and the next step fails on. None at all are those of a run's beginning."""
    if not moments:
        return
    indices = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    unknown = set(moments) - {index for some in indices for index in some}
    if unknown:
        raise InvalidData(file, "moments of this run's network", f"those of parameter {min(unknown)}", AGAIN)
    for group, some in zip(optimizer.param_groups, indices, strict=True):
        expected = moment_names(optimizer, group)
        for parameter, index in zip(group["params"], some, strict=True):
            found = moments.get(index, {})
            if set(found) != expected:
                names = ", ".join(sorted(found)) or "none"
                raise InvalidData(file, f"{', '.join(sorted(expected))} of parameter {index}", names, AGAIN)
            for name, value in found.items():
                shape = () if name == "step" else tuple(parameter.shape)
                if tuple(value.shape) != shape:
                    wanted = f"{name} of parameter {index} of shape {shape}"
                    raise InvalidData(file, wanted, f"{tuple(value.shape)}", AGAIN)
