"""Small model folders as nnU-Net v2 leaves them, and what nnU-Net v2 does with one, written down a second time."""

from __future__ import annotations

import copy
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

FEATURES = (4, 8, 8)
STRIDES_3D = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
KERNELS_3D = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
CONVOLUTIONS = (2, 2, 3)
CONVOLUTIONS_UP = (1, 2)
DATASET = {
    "channel_names": {"0": "T2"},
    "labels": {"background": 0, "core": 1, "rim": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
RESAMPLING = "resample_data_or_seg_to_shape"


def architecture(dimensions: int) -> dict[str, Any]:
    """``arch_kwargs`` of a PlainConvUNet of three stages."""
    drop = 3 - dimensions
    return {
        "n_stages": 3,
        "features_per_stage": list(FEATURES),
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [list(kernel[drop:]) for kernel in KERNELS_3D],
        "strides": [list(stride[drop:]) for stride in STRIDES_3D],
        "n_conv_per_stage": list(CONVOLUTIONS),
        "n_conv_per_stage_decoder": list(CONVOLUTIONS_UP),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def configuration(dimensions: int = 3, spacing: Sequence[float] = (2.0, 1.0, 1.0)) -> dict[str, Any]:
    """One entry of ``configurations``; spacing along the network's axes."""
    drop = 3 - dimensions
    return {
        "data_identifier": "nnUNetPlans",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 16][drop:],
        "median_image_size_in_voxels": [12.0, 20.0, 20.0][drop:],
        "spacing": list(spacing)[drop:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": architecture(dimensions),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }


def plans(configurations: Mapping[str, Any] | None = None, forward: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """``plans.json``."""
    return {
        "dataset_name": "Dataset042_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": [12, 20, 20],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(forward),
        "transpose_backward": [list(forward).index(axis) for axis in range(3)],
        "configurations": dict(configurations or {"2d": configuration(2), "3d_fullres": configuration(3)}),
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 900.0,
                "mean": 120.0,
                "median": 118.0,
                "min": -80.0,
                "percentile_00_5": -40.0,
                "percentile_99_5": 400.0,
                "std": 60.0,
            }
        },
    }


def old_form(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plans had it before there was ``architecture``."""
    network = entry["architecture"]["arch_kwargs"]
    values = {key: value for key, value in entry.items() if key != "architecture"}
    return values | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": FEATURES[0],
        "unet_max_num_features": FEATURES[-1],
        "n_conv_per_stage_encoder": network["n_conv_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": network["strides"],
        "conv_kernel_sizes": network["kernel_sizes"],
    }


def random_weights(dimensions: int = 3, inputs: int = 1, classes: int = 3, seed: int = 0) -> OrderedDict[str, Tensor]:
    """``network_weights`` with nnU-Net's names, its duplicates and the heads of deep supervision included."""
    generator = torch.Generator().manual_seed(seed)
    network = architecture(dimensions)
    weights: OrderedDict[str, Tensor] = OrderedDict()

    def draw(name: str, *shape: int, around: float = 0.0, scale: float = 1.0) -> None:
        weights[name] = around + scale * torch.randn(shape, generator=generator)

    def block(name: str, before: int, after: int, kernel: Sequence[int]) -> None:
        fan = before * int(np.prod(kernel))
        draw(f"{name}.conv.weight", after, before, *kernel, scale=(2 / fan) ** 0.5)
        draw(f"{name}.conv.bias", after, scale=0.1)
        draw(f"{name}.norm.weight", after, around=1.0, scale=0.2)
        draw(f"{name}.norm.bias", after, scale=0.2)
        for index, part in enumerate(("conv", "norm")):
            for kind in ("weight", "bias"):
                weights[f"{name}.all_modules.{index}.{kind}"] = weights[f"{name}.{part}.{kind}"]

    before = inputs
    for stage, (after, kernel) in enumerate(zip(FEATURES, network["kernel_sizes"], strict=True)):
        for index in range(CONVOLUTIONS[stage]):
            block(f"encoder.stages.{stage}.0.convs.{index}", before, after, kernel)
            before = after
    for key in [key for key in weights if key.startswith("encoder.")]:
        weights[f"decoder.{key}"] = weights[key]
    for step, deep in enumerate(range(len(FEATURES) - 1, 0, -1)):
        below, here = FEATURES[deep], FEATURES[deep - 1]
        stride, kernel = network["strides"][deep], network["kernel_sizes"][deep - 1]
        before = 2 * here
        for index in range(CONVOLUTIONS_UP[step]):
            block(f"decoder.stages.{step}.convs.{index}", before, here, kernel)
            before = here
        draw(f"decoder.transpconvs.{step}.weight", below, here, *stride, scale=0.4)
        draw(f"decoder.transpconvs.{step}.bias", here, scale=0.2)
        draw(f"decoder.seg_layers.{step}.weight", classes, here, *(1,) * dimensions, scale=2.0)
        draw(f"decoder.seg_layers.{step}.bias", classes, scale=0.3)
    return weights


def checkpoint(weights: Mapping[str, Tensor], name: str = "3d_fullres", **changes: Any) -> dict[str, Any]:
    """What nnU-Net's trainer saves, numpy scalars in the log included."""
    axes = (0, 1) if name == "2d" else (0, 1, 2)
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5), np.float32(0.6)], "lrs": [0.01], "losses": np.arange(3.0)},
        "_best_ema": np.float64(0.6),
        "current_epoch": 1000,
        "init_args": {"configuration": name, "fold": 0, "device": torch.device("cpu"), "plans": {}},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": axes,
    } | changes


def write_model(
    folder: Path,
    name: str = "3d_fullres",
    folds: Sequence[int | str] = (0,),
    plan: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    edit: Callable[[dict[str, Any]], Any] | None = None,
    inputs: int = 1,
) -> Path:
    """A model folder; ``edit`` may change each checkpoint before it is saved. Fold ``k`` is drawn with seed ``k``."""
    chosen = copy.deepcopy(dict(plan or plans()))
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(chosen))
    (folder / "dataset.json").write_text(json.dumps(dict(dataset or DATASET)))
    dimensions = 2 if name == "2d" else 3
    for fold in folds:
        values = checkpoint(random_weights(dimensions, inputs, seed=0 if fold == "all" else int(fold)), name)
        if edit is not None:
            edit(values)
        (folder / f"fold_{fold}").mkdir()
        torch.save(values, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def cascade_folders(results: Path) -> tuple[Path, Path]:
    """The folders of a cascade's two stages, named as nnU-Net names them."""
    lower = configuration(3, (3.0, 2.0, 2.0)) | {"next_stage": "3d_cascade_fullres"}
    upper = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plan = plans({"3d_lowres": lower, "3d_fullres": configuration(3), "3d_cascade_fullres": upper})
    first = write_model(results / "nnUNetTrainer__nnUNetPlans__3d_lowres", "3d_lowres", plan=plan)
    second = write_model(
        results / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres", "3d_cascade_fullres", plan=plan, inputs=3
    )
    return first, second


def run_network(weights: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """Logits of (B, C, ...) by nnU-Net's own names, with torch's functions and none of our modules."""
    dimensions = image.ndim - 2
    network = architecture(dimensions)
    convolve = F.conv3d if dimensions == 3 else F.conv2d
    widen = F.conv_transpose3d if dimensions == 3 else F.conv_transpose2d

    def block(name: str, features: Tensor, stride: Sequence[int]) -> Tensor:
        kernel = weights[f"{name}.conv.weight"]
        padding = [size // 2 for size in kernel.shape[2:]]
        features = convolve(features, kernel, weights[f"{name}.conv.bias"], tuple(stride), padding)
        features = F.instance_norm(features, weight=weights[f"{name}.norm.weight"], bias=weights[f"{name}.norm.bias"])
        return F.leaky_relu(features, 0.01)

    skips = []
    for stage, stride in enumerate(network["strides"]):
        for index in range(CONVOLUTIONS[stage]):
            image = block(f"encoder.stages.{stage}.0.convs.{index}", image, stride if index == 0 else [1] * dimensions)
        skips.append(image)
    image = skips.pop()
    for step in range(len(FEATURES) - 1):
        stride = tuple(network["strides"][-1 - step])
        up, bias = weights[f"decoder.transpconvs.{step}.weight"], weights[f"decoder.transpconvs.{step}.bias"]
        image = torch.cat([widen(image, up, bias, stride), skips.pop()], 1)
        for index in range(CONVOLUTIONS_UP[step]):
            image = block(f"decoder.stages.{step}.convs.{index}", image, [1] * dimensions)
    last = len(FEATURES) - 2
    head, bias = weights[f"decoder.seg_layers.{last}.weight"], weights[f"decoder.seg_layers.{last}.bias"]
    return convolve(image, head, bias)


def zoom(volume: NDArray[Any], shape: Sequence[int], order: int) -> NDArray[Any]:
    """scikit-image's ``resize`` with ``mode="edge"``: scipy's zoom, cut to the range of what went in."""
    factors = [new / old for new, old in zip(shape, volume.shape, strict=True)]
    result = ndimage.zoom(volume.astype(float), factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(result, volume.min(), volume.max())


def resample(volume: NDArray[Any], shape: Sequence[int], order: int, apart: bool) -> NDArray[Any]:
    """(Z, Y, X) to ``shape``; with ``apart`` slice by slice along Z, then the nearest slice."""
    if tuple(shape) == volume.shape:
        return volume
    if not apart:
        return zoom(volume, shape, order)
    planes = np.stack([zoom(plane, shape[1:], order) for plane in volume])
    where = np.floor((np.arange(shape[0]) + 0.5) * len(planes) / shape[0]).astype(int)
    return planes[np.clip(where, 0, len(planes) - 1)]


def predict_like_nnunet(
    image: NDArray[np.float32],
    spacing: Sequence[float],
    target: Sequence[float],
    networks: Sequence[Mapping[str, Tensor]],
    patch: Sequence[int],
    mirroring: bool = True,
) -> NDArray[Any]:
    """Labels (Z, Y, X) of one z-scored channel (Z, Y, X) that is nonzero all over, in 3D, axes as in the file.

    Sums are kept in half precision, as there.
    """
    apart = any(max(grid) / min(grid) > 3 for grid in (spacing, target))
    normal = (image - image.mean()) / image.std()
    shape = [round(old / new * size) for old, new, size in zip(spacing, target, image.shape, strict=True)]
    data = resample(normal, shape, 3, apart)
    missing = [max(0, edge - size) for edge, size in zip(patch, data.shape, strict=True)]
    padded = np.pad(data, [(gap // 2, gap - gap // 2) for gap in missing])
    peak = np.zeros(patch)
    peak[tuple(edge // 2 for edge in patch)] = 1
    weight = ndimage.gaussian_filter(peak, [edge / 8 for edge in patch], mode="constant")
    weight = (weight / weight.max() * 10).astype(np.float16)
    weight[weight == 0] = weight[weight > 0].min()
    starts = []
    for size, edge in zip(padded.shape, patch, strict=True):
        count = int(np.ceil((size - edge) / (edge / 2))) + 1
        starts.append([round((size - edge) / max(1, count - 1) * index) for index in range(count)])
    flips = [axes for count in range(4 if mirroring else 1) for axes in itertools.combinations((2, 3, 4), count)]
    inside = tuple(slice(gap // 2, gap // 2 + size) for gap, size in zip(missing, data.shape, strict=True))
    mean = np.zeros((3, *data.shape), dtype=np.float16)
    for network in networks:
        total, weights = np.zeros((3, *padded.shape), np.float16), np.zeros(padded.shape, np.float16)
        for start in itertools.product(*starts):
            window = tuple(slice(first, first + edge) for first, edge in zip(start, patch, strict=True))
            tile = torch.from_numpy(padded[window][None, None].astype(np.float32))
            copies = [torch.flip(run_network(network, torch.flip(tile, axes)), axes) for axes in flips]
            total[(slice(None), *window)] += (sum(copies) / len(flips))[0].numpy() * weight
            weights[window] += weight
        mean += (total / weights)[(slice(None), *inside)]
    mean /= len(networks)
    return np.stack([resample(one, image.shape, 1, apart).astype(np.float16) for one in mean]).argmax(0)
