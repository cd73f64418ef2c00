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

import torch
from prediction.models import CUBE, HALF, WHOLE, Task, dataset, plans
from training_gpu import data

TASK = Task(
    name="volumes",
    shape=data.SHAPE,
    image_spacing=(1.0, 1.0, 1.0),
    classes=data.CLASSES,
    patch=data.PATCH,
    spacing=(1.0, 1.0, 1.0),
    features=(32, 64, 128, 256, 320, 320),
    strides=(WHOLE, *(HALF,) * (data.STAGES - 1)),
    kernels=(CUBE,) * data.STAGES,
)


def write_volumes(folder: Path) -> None:
    """The preprocessed folder of ``TASK``, through nnunetv2's own classes."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    store = folder / "nnUNetPlans_3d_fullres"
    store.mkdir(parents=True)
    names = []
    for name, image, labels in data.cases():
        names.append(name)
        locations = DefaultPreprocessor._sample_foreground_locations(labels[None], list(range(1, data.CLASSES)))
        blocks, chunks = comp_blosc2_params(image.shape, data.PATCH, image.itemsize)
        label_blocks, label_chunks = comp_blosc2_params(image.shape, data.PATCH, labels.itemsize)
        nnUNetDatasetBlosc2.save_case(
            image, labels[None], {"class_locations": locations}, str(store / name),
            chunks=chunks, blocks=blocks, chunks_seg=label_chunks, blocks_seg=label_blocks,
        )  # fmt: skip
    split = len(names) * 4 // 5
    for file, value in (
        ("dataset.json", dataset(TASK)),
        ("nnUNetPlans.json", plans(TASK)),
        ("dataset_fingerprint.json", {}),
        ("splits_final.json", [{"train": names[:split], "val": names[split:]}]),
    ):
        (folder / file).write_text(json.dumps(value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="Of its augmentation.")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="nnUNet_preprocessed/DATASET with splits; made where left out.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made) / plans(TASK)["dataset_name"]
        os.environ |= {
            "nnUNet_preprocessed": str(folder.parent),
            "nnUNet_results": str(Path(made) / "results"),
            "nnUNet_raw": made,
            "nnUNet_n_proc_DA": str(given.processes),
        }
        if given.folder is None:
            write_volumes(folder)
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        chosen, described = (json.loads((folder / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
        torch.backends.cudnn.benchmark = True
        chosen["continue_training"] = False  # as its command line adds it
        trainer = nnUNetTrainer(chosen, "3d_fullres", 0, described, device=torch.device("cuda"))
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
