"""nnunetv2's side of prediction, in its own environment; see ``compare.py``. Never imported by the product."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from measuring import Taken
from prediction.models import CARDIAC, CHECKPOINT, CT, FILE, HIPPOCAMPUS, Task, write_image, write_model

Work = Callable[[], Taken]
for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(variable, ".")


def loaded(task: Task, model: Path) -> Any:
    """Its predictor with the model in memory."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=task.mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(model), (0,), CHECKPOINT)
    return predictor


def one_case(task: Task, loading: bool = False) -> Work:
    """Read, predict, export and write one case in this process. loading: the model is loaded in each turn too."""
    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    model, image = write_model(task, folder / "model"), write_image(task, folder / "in" / FILE)
    ready = None if loading else loaded(task, model)

    def work() -> Taken:
        assert kept  # the folder is removed with it
        started = time.perf_counter()
        predictor = ready or loaded(task, model)
        reader = predictor.plans_manager.image_reader_writer_class()
        voxels, properties = reader.read_images([str(image)])
        labels = predictor.predict_single_npy_array(voxels, properties, None)
        reader.write_seg(labels, str(folder / "case.nii.gz"), properties)
        return Taken(np.asarray(labels, dtype=np.uint8), time.perf_counter() - started)

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "predict-hippocampus": lambda: one_case(HIPPOCAMPUS),
    "predict-hippocampus-torch": lambda: one_case(HIPPOCAMPUS),
    "predict-cardiac": lambda: one_case(CARDIAC),
    "predict-ct-peer": lambda: one_case(CT, loading=True),
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
