"""Our training on a GPU: batches per second of the real loop beside those of a bare forward and backward on one batch
that stays on the card, and how busy the card is.

    PYTHONPATH=benchmarks python -m training_gpu.ours [--cores 2] [--store DIR --plan plan.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_gpu import data

from nnunet_box.dataset.splits import Fold
from nnunet_box.planning.plan import Configuration, Plan, load_plan
from nnunet_box.preprocessing.pipeline import Placement, PreparedCase
from nnunet_box.preprocessing.store import write_case
from nnunet_box.training.acceleration import room_for_cases
from nnunet_box.training.batches import TRAINING, batch_loader
from nnunet_box.training.settings import TrainingSettings
from nnunet_box.training.trainer import Trainer

CONFIGURATION = Configuration(
    patch_size=data.PATCH,
    batch_size=data.BATCH,
    num_pool_per_axis=(data.STAGES - 1,) * 3,
    pool_kernel_sizes=((2, 2, 2),) * (data.STAGES - 1),
    conv_kernel_sizes=((3, 3, 3),) * data.STAGES,
    spacing=(1.0, 1.0, 1.0),
    median_shape=data.SHAPE,
    in_plane_augmentation=False,
)
PLAN = Plan(
    dataset="volumes",
    channel_names=("CT",),
    labels={0: "background"} | {value: f"organ {value}" for value in range(1, data.CLASSES)},
    normalisation=("zscore",),
    use_nonzero_mask=False,
    memory_gb=12.0,
    configurations={"3d_fullres": CONFIGURATION},
)


def write_volumes(folder: Path) -> None:
    box = tuple((0, length) for length in data.SHAPE)
    placement = Placement(data.SHAPE, box, (1.0,) * 3, (1.0,) * 3, data.SHAPE, (0, 1, 2))
    for name, image, labels in data.cases():
        write_case(folder, name, PreparedCase(image, labels, placement), data.PATCH)


def seconds(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def busy_share(work: Callable[[], Any]) -> float:
    """Share of the time from the first kernel to the last in which the card ran one, or copied."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    on_card = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((event.time_range.start, event.time_range.end) for event in on_card)
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / (reached - spans[0][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--store", type=Path, help="A case store; volumes are made where it is left out.")
    parser.add_argument("--plan", type=Path, help="Its plan.")
    parser.add_argument("--epochs", type=int, default=0, help="Train so many epochs first, and say what they came to.")
    parser.add_argument("--read", action="store_true", help="From disk by processes, as where cases do not fit.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        store = given.store or Path(made) / "store"
        if given.store is None:
            write_volumes(store)
        plan = PLAN if given.plan is None else load_plan(given.plan)
        names = sorted(path.name for path in store.iterdir() if (path / "image.b2nd").is_file())
        fold = Fold(train=tuple(names[: len(names) * 4 // 5]), val=tuple(names[len(names) * 4 // 5 :]))
        settings = TrainingSettings(
            "3d_fullres", 0, device="cuda", workers=given.cores, epochs=max(1, given.epochs), batches_per_epoch=100
        )
        trainer = Trainer(plan, store, fold, Path(made) / "fold", settings)
        facts: dict[str, Any] = {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "cores": given.cores}
        if given.epochs:
            started = time.perf_counter()
            trainer.run(resume=False)
            facts["epochs"] = [
                {
                    "seconds": round(line.seconds, 3),
                    "loss": round(line.loss, 3),
                    "validation_dice": line.validation_dice,
                }
                for line in trainer.progress.history
            ]
            facts["training_seconds"] = round(time.perf_counter() - started, 1)
        keys = ((TRAINING, number) for number in itertools.count())
        source = trainer._source(TRAINING)
        room = 0 if given.read else room_for_cases(trainer.device, plan.memory_gb, trainer.mixed)
        started = time.perf_counter()
        batches = batch_loader([source], keys, given.cores, trainer.device, room)
        trainer._train_epoch(batches, 8)
        facts["first_batches_seconds"] = round(time.perf_counter() - started, 1)
        data.confine(given.cores)
        trainer._train_epoch(batches, 20)
        image, labels = next(batches)
        step = trainer.step.captured
        assert step is not None

        def bare() -> None:
            for _ in range(given.batches):
                step(image, labels)

        bare_seconds = [seconds(bare)]
        loop_seconds = [seconds(lambda: trainer._train_epoch(batches, given.batches)) for _ in range(2)]
        bare_seconds.append(seconds(bare))
        fed_seconds = seconds(lambda: list(map(len, itertools.islice(batches, given.batches))))
        facts |= {
            "bare_batches_a_second": [round(given.batches / each, 2) for each in bare_seconds],
            "batches_a_second": [round(given.batches / each, 2) for each in loop_seconds],
            "feeding_alone_batches_a_second": round(given.batches / fed_seconds, 2),
            "share_of_bare": round(min(bare_seconds) / min(loop_seconds), 3),
            "busy": round(busy_share(lambda: trainer._train_epoch(batches, 40)), 3),
            "peak_gpu_bytes": torch.cuda.max_memory_allocated(),
        }
        print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
