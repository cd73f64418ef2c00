"""Models and cases of the prediction rows, drawn alike on both sides: folders as nnU-Net v2 leaves them, NIfTI images.

Weights are random, since time and memory do not depend on them. numpy, torch and nibabel are in both environments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import smooth

RESAMPLING = "resample_data_or_seg_to_shape"
CHECKPOINT = "checkpoint_final.pth"
FILE = "case_0000.nii.gz"
SEED = 0


@dataclass(frozen=True)
class Task:
    """A ``3d_fullres`` plan as nnunetv2 2.8.1's planner makes it for such data, and the grid of one case.

    shape, image_spacing: of the case (Z, Y, X), mm. spacing: of the network. features, strides, kernels: of its stages.
    """

    name: str
    shape: tuple[int, int, int]
    image_spacing: tuple[float, float, float]
    classes: int
    patch: tuple[int, int, int]
    spacing: tuple[float, float, float]
    features: tuple[int, ...]
    strides: tuple[tuple[int, int, int], ...]
    kernels: tuple[tuple[int, int, int], ...]
    ct: bool = False
    mirroring: bool = True


FLAT, CUBE, HALF, HALF_IN_PLANE = (1, 3, 3), (3, 3, 3), (2, 2, 2), (1, 2, 2)
WHOLE = (1, 1, 1)
HIPPOCAMPUS = Task(
    name="hippocampus",
    shape=(36, 50, 35),
    image_spacing=(1.0, 1.0, 1.0),
    classes=3,
    patch=(40, 56, 40),
    spacing=(1.0, 1.0, 1.0),
    features=(32, 64, 128, 256),
    strides=(WHOLE, HALF, HALF, HALF),
    kernels=(CUBE,) * 4,
)
CARDIAC = Task(
    name="cardiac",
    shape=(10, 256, 216),
    image_spacing=(10.0, 1.5625, 1.5625),
    classes=4,
    patch=(20, 256, 224),
    spacing=(5.0, 1.5625, 1.5625),
    features=(32, 64, 128, 256, 320, 320),
    strides=(WHOLE, HALF_IN_PLANE, HALF, HALF, HALF_IN_PLANE, HALF_IN_PLANE),
    kernels=(FLAT, *(CUBE,) * 5),
)
CT = Task(
    name="ct",
    shape=(300, 512, 512),
    image_spacing=(1.5, 0.8, 0.8),
    classes=14,
    patch=(96, 128, 128),
    spacing=(2.25, 1.28, 1.28),
    features=(32, 64, 128, 256, 320, 320),
    strides=(WHOLE, HALF, HALF, HALF, HALF, HALF_IN_PLANE),
    kernels=(CUBE,) * 6,
    ct=True,
    mirroring=False,
)
"""An abdominal CT whose grid in the network is 200 x 320 x 320: 64 windows."""


def write_image(task: Task, file: Path) -> Path:
    """A case of the task: int16 intensities in structures and noise; of a CT a body of about 50 HU in air."""
    import nibabel

    shape = task.shape
    noise = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    voxels = 100 * smooth(shape, 40, 2) + 40 * smooth(shape, 12, 3) + 15 * noise
    if task.ct:
        y, x = (np.linspace(-1, 1, length)[..., None] for length in shape[1:])
        voxels = np.where((y / 0.7) ** 2 + (x.T / 0.9) ** 2 < 1, 50 + 0.5 * voxels, -1000 + noise)
    else:
        voxels += 500
    affine = np.diag([*task.image_spacing[::-1], 1.0])
    image = nibabel.Nifti1Image(np.rint(voxels).astype(np.int16).transpose(), affine)
    image.header.set_xyzt_units("mm")
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, file)
    return file


def write_model(task: Task, folder: Path) -> Path:
    """A model folder: ``plans.json``, ``dataset.json``, ``fold_0/checkpoint_final.pth``."""
    import torch

    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans(task)))
    (folder / "dataset.json").write_text(json.dumps(dataset(task)))
    checkpoint = {
        "network_weights": _weights(task),
        "init_args": {"configuration": "3d_fullres", "fold": 0, "plans": {}},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / CHECKPOINT)
    return folder


def dataset(task: Task) -> dict[str, Any]:
    """``dataset.json``."""
    return {
        "channel_names": {"0": "CT" if task.ct else "MRI"},
        "labels": {"background": 0} | {f"label_{value}": value for value in range(1, task.classes)},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


def plans(task: Task) -> dict[str, Any]:
    """``nnUNetPlans.json`` as nnunetv2's planner writes it for such a patch."""
    outputs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": task.patch,
        "median_image_size_in_voxels": task.shape,
        "spacing": task.spacing,
        "normalization_schemes": ["CTNormalization" if task.ct else "ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": outputs | {"order": 3},
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_seg_kwargs": outputs | {"is_seg": True},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": outputs,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": len(task.features),
                "features_per_stage": task.features,
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": task.kernels,
                "strides": task.strides,
                "n_conv_per_stage": [2] * len(task.features),
                "n_conv_per_stage_decoder": [2] * (len(task.features) - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    intensities = {"mean": 50.0, "median": 50.0, "std": 60.0, "min": -1000.0, "max": 1000.0}
    return {
        "dataset_name": f"Dataset900_{task.name}",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": task.image_spacing,
        "original_median_shape_after_transp": task.shape,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": intensities | {"percentile_00_5": -150.0, "percentile_99_5": 250.0}
        },
    }


def _weights(task: Task) -> dict[str, Any]:
    """Random parameters under nnunetv2's names, those it keeps twice included."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    weights: dict[str, Any] = {}

    def draw(name: str, *shape: int, scale: float, around: float = 0.0) -> None:
        weights[name] = around + scale * torch.randn(shape, generator=generator)

    def block(name: str, before: int, after: int, kernel: Sequence[int]) -> None:
        draw(f"{name}.conv.weight", after, before, *kernel, scale=(2 / before / np.prod(kernel)) ** 0.5)
        draw(f"{name}.conv.bias", after, scale=0.1)
        draw(f"{name}.norm.weight", after, scale=0.2, around=1.0)
        draw(f"{name}.norm.bias", after, scale=0.2)
        for index, part in enumerate(("conv", "norm")):
            for kind in ("weight", "bias"):
                weights[f"{name}.all_modules.{index}.{kind}"] = weights[f"{name}.{part}.{kind}"]

    before = 1
    for stage, (after, kernel) in enumerate(zip(task.features, task.kernels, strict=True)):
        for index in range(2):
            block(f"encoder.stages.{stage}.0.convs.{index}", before, after, kernel)
            before = after
    weights |= {f"decoder.{name}": values for name, values in weights.items()}
    for step, deep in enumerate(range(len(task.features) - 1, 0, -1)):
        below, here = task.features[deep], task.features[deep - 1]
        for index, before in enumerate((2 * here, here)):
            block(f"decoder.stages.{step}.convs.{index}", before, here, task.kernels[deep - 1])
        draw(f"decoder.transpconvs.{step}.weight", below, here, *task.strides[deep], scale=(1 / below) ** 0.5)
        draw(f"decoder.transpconvs.{step}.bias", here, scale=0.2)
        draw(f"decoder.seg_layers.{step}.weight", task.classes, here, 1, 1, 1, scale=(4 / here) ** 0.5)
        draw(f"decoder.seg_layers.{step}.bias", task.classes, scale=0.3)
    return weights
