"""nnunetv2's own trainer on the same volumes and card: batches per second of its loop, set up by ``on_train_start``.

PYTHONPATH=benchmarks PEER_PYTHON -m training_gpu.peer [--cores 2] [--processes 2]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from training_gpu import data

FEATURES = [32, 64, 128, 256, 320, 320]


def plans() -> dict[str, Any]:
    """As nnunetv2's planner writes them for such a patch."""
    conv = "torch.nn.modules.conv.Conv3d"
    resampling = "resample_data_or_seg_to_shape"
    kwargs: dict[str, Any] = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": data.BATCH,
        "patch_size": list(data.PATCH),
        "median_image_size_in_voxels": [float(length) for length in data.SHAPE],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": resampling,
        "resampling_fn_seg": resampling,
        "resampling_fn_probabilities": resampling,
        "resampling_fn_data_kwargs": kwargs,
        "resampling_fn_seg_kwargs": kwargs | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": kwargs | {"order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": data.STAGES,
                "features_per_stage": FEATURES,
                "conv_op": conv,
                "kernel_sizes": [[3, 3, 3]] * data.STAGES,
                "strides": [[1, 1, 1]] + [[2, 2, 2]] * (data.STAGES - 1),
                "n_conv_per_stage": [2] * data.STAGES,
                "n_conv_per_stage_decoder": [2] * (data.STAGES - 1),
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
    return {
        "dataset_name": "Dataset900_Volumes",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": list(data.SHAPE),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {"3d_fullres": configuration},
    }


def write_volumes(folder: Path) -> dict[str, Any]:
    """The preprocessed folder of ``plans``, through nnunetv2's own classes; returns its dataset.json."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    store = folder / "nnUNetPlans_3d_fullres"
    store.mkdir(parents=True)
    names = []
    for name, image, labels in data.cases():
        names.append(name)
        values = [[value] for value in range(1, data.CLASSES)]
        locations = DefaultPreprocessor._sample_foreground_locations(labels[None], [value for [value] in values])
        blocks, chunks = comp_blosc2_params(image.shape, data.PATCH, image.itemsize)
        label_blocks, label_chunks = comp_blosc2_params(image.shape, data.PATCH, labels.itemsize)
        nnUNetDatasetBlosc2.save_case(
            image, labels[None], {"class_locations": locations}, str(store / name),
            chunks=chunks, blocks=blocks, chunks_seg=label_chunks, blocks_seg=label_blocks,
        )  # fmt: skip
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {f"organ {value}": value for value in range(1, data.CLASSES)},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    split = len(names) * 4 // 5
    for file, value in (
        ("dataset.json", dataset),
        ("nnUNetPlans.json", plans()),
        ("dataset_fingerprint.json", {}),
        ("splits_final.json", [{"train": names[:split], "val": names[split:]}]),
    ):
        (folder / file).write_text(json.dumps(value))
    return dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="Of its augmentation.")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="nnUNet_preprocessed/DATASET with splits; made where left out.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made) / "Dataset900_Volumes"
        os.environ |= {
            "nnUNet_preprocessed": str(folder.parent),
            "nnUNet_results": str(Path(made) / "results"),
            "nnUNet_raw": made,
            "nnUNet_n_proc_DA": str(given.processes),
        }
        if given.folder is None:
            write_volumes(folder)
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        chosen, dataset = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
        torch.backends.cudnn.benchmark = True
        chosen["continue_training"] = False  # as its command line adds it
        trainer = nnUNetTrainer(chosen, "3d_fullres", 0, dataset, device=torch.device("cuda"))
        started = time.perf_counter()
        trainer.on_train_start()
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()

        def steps(count: int) -> float:
            torch.cuda.synchronize()
            begun = time.perf_counter()
            for _ in range(count):
                trainer.train_step(next(trainer.dataloader_train))
            torch.cuda.synchronize()
            return time.perf_counter() - begun

        steps(6)
        first = time.perf_counter() - started
        data.confine(given.cores)
        steps(10)
        batch = next(trainer.dataloader_train)
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(given.batches):
            trainer.train_step(batch)
        torch.cuda.synchronize()
        resident = time.perf_counter() - begun
        facts = {
            "card": torch.cuda.get_device_name(),
            "cores": given.cores,
            "processes": given.processes,
            "first_batches_seconds": round(first, 1),
            "batches_a_second": [round(given.batches / steps(given.batches), 2) for _ in range(2)],
            "same_batch_again_batches_a_second": round(given.batches / resident, 2),
            "peak_gpu_bytes": torch.cuda.max_memory_allocated(),
        }
        print(json.dumps(facts), flush=True)
        os._exit(0)  # its augmentation processes would be waited for


if __name__ == "__main__":
    main()
