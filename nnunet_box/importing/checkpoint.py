"""nnU-Net v2's ``checkpoint_final.pth``: a pickle, read without running any of its code; its weights by our names."""

from __future__ import annotations

import _codecs
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray as core
from torch import Tensor

from nnunet_box.errors import InvalidData
from nnunet_box.importing.nnunet_plans import RETRAIN
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Plan

# fmt: off
TRAINERS = frozenset(
    [
        "nnUNetTrainer", "nnUNetTrainerAdam", "nnUNetTrainerAdam1en3", "nnUNetTrainerAdam3en4", "nnUNetTrainerAdan",
        "nnUNetTrainerAdan1en1", "nnUNetTrainerAdan1en3", "nnUNetTrainerAdan3en4", "nnUNetTrainerAdanCosAnneal",
        "nnUNetTrainerBenchmark_5epochs", "nnUNetTrainerBenchmark_5epochs_noDataLoading", "nnUNetTrainerCELoss",
        "nnUNetTrainerCELoss_5epochs", "nnUNetTrainerCosAnneal", "nnUNetTrainerDA5", "nnUNetTrainerDA5Segord0",
        "nnUNetTrainerDA5_10epochs", "nnUNetTrainerDA5ord0", "nnUNetTrainerDiceCELoss_noSmooth",
        "nnUNetTrainerDiceLoss", "nnUNetTrainerDiceTopK10Loss", "nnUNetTrainerNoDA", "nnUNetTrainerNoDeepSupervision",
        "nnUNetTrainerNoMirroring", "nnUNetTrainerTopk10Loss", "nnUNetTrainerTopk10LossLS01",
        "nnUNetTrainerVanillaAdam", "nnUNetTrainerVanillaAdam1en3", "nnUNetTrainerVanillaAdam3en4",
        "nnUNetTrainer_100epochs", "nnUNetTrainer_10epochs", "nnUNetTrainer_1epoch", "nnUNetTrainer_2000epochs",
        "nnUNetTrainer_2000epochs_NoMirroring", "nnUNetTrainer_20epochs", "nnUNetTrainer_250epochs",
        "nnUNetTrainer_250epochs_NoMirroring", "nnUNetTrainer_4000epochs", "nnUNetTrainer_4000epochs_NoMirroring",
        "nnUNetTrainer_500epochs", "nnUNetTrainer_50epochs", "nnUNetTrainer_5epochs", "nnUNetTrainer_750epochs",
        "nnUNetTrainer_8000epochs", "nnUNetTrainer_8000epochs_NoMirroring", "nnUNetTrainer_DASegOrd0",
        "nnUNetTrainer_DASegOrd0_NoMirroring", "nnUNetTrainer_noDummy2DDA", "nnUNetTrainer_onlyMirror01",
        "nnUNetTrainer_onlyMirror01_1500ep", "nnUNetTrainer_onlyMirror01_DASegOrd0",
        "nnUNetTrainer_probabilisticOversampling", "nnUNetTrainer_probabilisticOversampling_010",
        "nnUNetTrainer_probabilisticOversampling_033", "nnUNetTrainer_warmup",
    ]
)
# fmt: on
"""Trainers of nnU-Net 2.8.1 whose network and inference are ``nnUNetTrainer``'s; they train it in another way."""


def _plain_numpy() -> list[Any]:
    """What the log and the best score of a checkpoint are pickled with, by their names in numpy 2 and numpy 1."""
    return [
        np.dtype,
        np.ndarray,
        (core.scalar, "numpy._core.multiarray.scalar"),
        (core.scalar, "numpy.core.multiarray.scalar"),
        (core._reconstruct, "numpy._core.multiarray._reconstruct"),
        (core._reconstruct, "numpy.core.multiarray._reconstruct"),
        type(np.dtype(np.float32)),
        type(np.dtype(np.float64)),
        type(np.dtype(np.int64)),
        type(np.dtype(np.bool_)),
        _codecs.encode,
    ]


@dataclass(frozen=True)
class Checkpoint:
    """What is used of a checkpoint. mirror_axes: the network's, along which flips may be averaged. weights: by
    nnU-Net's names, still in the file.
    """

    file: Path
    trainer: str
    configuration: str
    mirror_axes: tuple[int, ...]
    weights: Mapping[str, Tensor]


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint with torch's ``weights_only`` unpickler; there is no other way in.

    Raises
    ------
    InvalidData: missing, damaged, with anything in it but tensors and plain values, not of nnU-Net v2, or of a trainer
    whose network or inference may be another.
    """
    values = _load(file)
    trainer, given, weights = (values.get(key) for key in ("trainer_name", "init_args", "network_weights"))
    configuration = given.get("configuration") if isinstance(given, dict) else None
    if not isinstance(trainer, str) or not isinstance(configuration, str) or not isinstance(weights, dict):
        expected = "trainer_name, init_args with a configuration, and network_weights"
        raise InvalidData(file, expected, f"keys {sorted(map(str, values))}", "Give a checkpoint of nnU-Net v2.")
    if trainer not in TRAINERS:
        raise InvalidData(
            file,
            "a trainer of nnU-Net 2.8.1 that keeps the default network and inference",
            trainer,
            f"Custom trainers are not imported, as their network may be another. {RETRAIN}",
        )
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        raise InvalidData(file, "network_weights of tensors", "something else", "Copy the checkpoint again.")
    mirrors = values.get("inference_allowed_mirroring_axes")
    axes = () if mirrors is None else mirrors
    if not isinstance(axes, list | tuple) or not all(isinstance(axis, int) for axis in axes):
        raise InvalidData(file, "inference_allowed_mirroring_axes of integers", f"{axes}", "Copy the checkpoint again.")
    return Checkpoint(file, trainer, configuration, tuple(axes), weights)


def _load(file: Path) -> dict[Any, Any]:
    if not file.is_file():
        advice = "Let the training end, or take checkpoint_best with --checkpoint best."
        raise InvalidData(file, "a trained fold's checkpoint", "no such file", advice)
    advice = "Copy it again from where it was trained; if it is not yours, do not use it with other programs either."
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise InvalidData(file, "a checkpoint as torch saves it, not compressed", packed[0], advice)
        with torch.serialization.safe_globals(_plain_numpy()):
            values = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except InvalidData:
        raise
    except pickle.UnpicklingError as error:
        # torch's message goes on with advice to switch the check off.
        reason = str(error).split("GLOBAL ")[-1].splitlines()[0].split(" was not")[0]
        expected = "tensors and plain values only"
        raise InvalidData(file, expected, f"a pickle that asks for more ({reason})", advice) from error
    except Exception as error:
        # A damaged pickle or archive can fail in any way; none of it may end in a traceback.
        found = f"{file.stat().st_size} bytes that do not open ({(str(error).splitlines() or [repr(error)])[0]})"
        raise InvalidData(file, "a checkpoint of nnU-Net v2", found, advice) from error
    if not isinstance(values, dict):
        raise InvalidData(file, "a checkpoint of nnU-Net v2", type(values).__name__, advice)
    return values


def our_weights(checkpoint: Checkpoint, plan: Plan, name: str, convolution_biases: bool) -> dict[str, Tensor]:
    """A checkpoint's weights by the names of ``UNet``, float32.

    name: the model in ``plan`` they are for. convolution_biases: the plans say so; where they do not, biases are 0,
    which comes to the same. Duplicates and the heads of deep supervision are left out.

    Raises
    ------
    InvalidData: a weight is missing, has another shape, is not finite, or there is one the network has no use for.
    """
    with torch.device("meta"):
        network = UNet(plan.configuration_of(name), plan.inputs_of(name), len(plan.labels))
    last_head = len(network.decoder) - 1
    given = {key.removeprefix("module."): value for key, value in checkpoint.weights.items()}
    found: dict[str, Tensor] = {}
    for ours, expected in network.state_dict().items():
        theirs = nnunet_name(ours, last_head)
        tensor = given.pop(theirs, None)
        if tensor is None and theirs.endswith("conv.bias") and not convolution_biases:
            tensor = torch.zeros(expected.shape)
        if tensor is None and theirs.startswith("decoder.transpconvs.") and not convolution_biases:
            tensor = torch.zeros(expected.shape)
        if tensor is None or tensor.shape != expected.shape:
            shape = "none" if tensor is None else f"{tuple(tensor.shape)}"
            raise _of_another(checkpoint, f"{theirs} of shape {tuple(expected.shape)}", shape)
        found[ours] = tensor.to(dtype=torch.float32).contiguous()
        if not bool(torch.isfinite(found[ours]).all()):
            raise InvalidData(checkpoint.file, f"finite values in {theirs}", "NaN or infinity", RETRAIN)
    left = sorted(key for key in given if not _is_duplicate(key, last_head))
    if left:
        raise _of_another(checkpoint, "the weights of a PlainConvUNet", f"also {left[0]}")
    return found


def nnunet_name(ours: str, last_head: int) -> str:
    """nnU-Net's name of a parameter of ``UNet``: ``decoder.0.1.0.bias`` is ``decoder.stages.0.convs.1.conv.bias``."""
    part, *rest = ours.split(".")
    if part == "head":
        return f"decoder.seg_layers.{last_head}.{rest[0]}"
    if part == "upsampling":
        return f"decoder.transpconvs.{rest[0]}.{rest[1]}"
    stage, convolution, layer, kind = rest
    inner = "0.convs" if part == "encoder" else "convs"
    return f"{part}.stages.{stage}.{inner}.{convolution}.{('conv', 'norm')[int(layer)]}.{kind}"


def _is_duplicate(key: str, last_head: int) -> bool:
    """Whether nnU-Net keeps the same tensor under another name too, or uses it in training only."""
    head = key.removeprefix("decoder.seg_layers.").split(".")[0]
    side_head = key.startswith("decoder.seg_layers.") and head.isdigit() and int(head) < last_head
    return side_head or ".all_modules." in key or key.startswith("decoder.encoder.")


def _of_another(checkpoint: Checkpoint, expected: str, found: str) -> InvalidData:
    return InvalidData(
        checkpoint.file, expected, found, "Put the checkpoint back beside the plans.json it was trained with."
    )
