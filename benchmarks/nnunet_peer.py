"""What nnunetv2 itself predicts: run by ``nnunet_parity.py`` with the Python of nnunetv2's own environment.

python nnunet_peer.py REQUEST.json   A request names model folders (a cascade's stages in order), folds, cases and
where to write; the answer, JSON beside the request, holds seconds a case and the peak memory of the process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, ".")


def main(request_file: Path) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    request = json.loads(request_file.read_text())
    torch.set_num_threads(request["threads"])
    predictors = []
    for folder in request["models"]:
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=request["mirroring"],
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        folds = tuple(request["folds"]) if request["folds"] is not None else None
        predictor.initialize_from_trained_model_folder(folder, folds, request["checkpoint"])
        predictors.append(predictor)
    output = Path(request["output"])
    seconds = {}
    for case, files in request["cases"].items():
        started = time.monotonic()
        before = None
        for index, predictor in enumerate(predictors):
            reader = predictor.plans_manager.image_reader_writer_class()
            image, properties = reader.read_images(files)
            labels = predictor.predict_single_npy_array(image, properties, before)
            # As its reader gives a label map from a file.
            before = labels[None].astype("float32") if index + 1 < len(predictors) else None
        reader.write_seg(labels, str(output / f"{case}{request['file_ending']}"), properties)
        seconds[case] = time.monotonic() - started
    answer = {"seconds": seconds, "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    request_file.with_suffix(".answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
