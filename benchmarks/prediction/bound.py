"""What bounds prediction: as many calls of the same network, by the same runtime, on batches that lie there."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measuring
import numpy as np
from measuring import Taken
from numpy.typing import NDArray
from prediction.models import CARDIAC, CT, HIPPOCAMPUS, Task
from prediction.ours import imported

Work = Callable[[], Taken]


def bare_calls(task: Task) -> Work:
    """The calls that ``predict_planes`` makes for the task's case, one after the other."""
    from nnunet_box.bundle import load_bundle
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.predictor import Windows, predict_planes
    from nnunet_box.preprocessing.resample import resampled_shape

    with tempfile.TemporaryDirectory() as folder:
        bundle = load_bundle(imported(task, Path(folder)))
        (member,) = bundle.ensemble(Path(folder) / "bundle")
        load, name = network_loader(bundle.plan, "auto", "cpu")
        network = load(member, member.weights[0])
    shapes: list[tuple[int, ...]] = []

    def note(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        shapes.append(batch.shape)
        return np.zeros((len(batch), task.classes, *batch.shape[2:]), np.float32)

    grid = resampled_shape(task.shape, task.image_spacing, task.spacing)
    windows = Windows(task.patch, task.classes, task.mirroring, average_logits=True, half_precision=True)
    for _ in predict_planes(note, np.zeros((1, *grid), np.float32), windows):
        pass
    random = np.random.default_rng(0)
    batches = {shape: random.standard_normal(shape, dtype=np.float32) for shape in dict.fromkeys(shapes)}

    def work() -> Taken:
        started = time.perf_counter()
        for shape in shapes:
            network(batches[shape])
        seconds = time.perf_counter() - started
        return Taken(seconds=seconds, facts={"network calls": f"{len(shapes)} by {name}"})

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "predict-hippocampus-bare": lambda: bare_calls(HIPPOCAMPUS),
    "predict-cardiac-bare": lambda: bare_calls(CARDIAC),
    "predict-ct": lambda: bare_calls(CT),
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
