"""Gaussian against plain weighting of overlapping windows, on a trained fold's own validation cases:
``python benchmarks/overlap_weighting.py WORKSPACE DATASET MODEL FOLD [CASES]``.

One JSON line: mean Dice of both, how often each is the better one, and by how much the cases differ. Without mirroring,
which costs the same for both; CASES limits them to the first so many.
"""

from __future__ import annotations

import json
import statistics
import sys
from functools import partial
from pathlib import Path

import torch

from nnunet_box.dataset.cases import read_image, read_label
from nnunet_box.dataset.dataset import find_dataset, load_dataset
from nnunet_box.dataset.splits import load_or_make_folds
from nnunet_box.evaluation.metrics import confusion_matrix, label_counts
from nnunet_box.evaluation.summary import nan_mean
from nnunet_box.inference.ensemble import InferenceOptions, Member, predict_case
from nnunet_box.inference.torch_runtime import plan_network
from nnunet_box.planning.plan import load_plan
from nnunet_box.planning.variant import split_model_name
from nnunet_box.progress import track
from nnunet_box.training.trainer import WEIGHTS
from nnunet_box.workspace import Workspace

WEIGHTINGS = ("gaussian", "plain")


def main(root: Path, name: str, model: str, number: int, most: int | None) -> None:
    dataset = load_dataset(find_dataset(root, name))
    paths = Workspace(root, dataset.name)
    plan = load_plan(paths.plan)
    held_out = set(load_or_make_folds(paths.splits, dataset)[number].val)
    configuration, variants = split_model_name(model)
    member = Member(configuration, (paths.fold(model, number) / WEIGHTS,), variants)
    load = partial(plan_network, plan=plan, device=torch.device("cpu"))
    scores: dict[str, list[float]] = {weighting: [] for weighting in WEIGHTINGS}
    differ = 0
    for case in track([case for case in dataset.cases if case.id in held_out][:most], "Both weightings"):
        image, geometry = read_image(case)
        assert case.label is not None
        reference = read_label(case.label, set(dataset.labels), case.reference_file)
        found = []
        for weighting in WEIGHTINGS:
            options = InferenceOptions(mirroring=False, weighting=weighting)
            found.append(predict_case(image, geometry.spacing, plan, [member], load, options))
            matrix = confusion_matrix(found[-1], reference, len(dataset.labels))
            scores[weighting].append(nan_mean(label_counts(matrix, value).dice for value in dataset.foreground_labels))
        differ += bool((found[0] != found[1]).any())
    differences = [a - b for a, b in zip(*scores.values(), strict=True)]
    print(
        json.dumps(
            {
                "dataset": dataset.name,
                "model": model,
                "fold": number,
                "cases": len(differences),
                "cases_that_differ": differ,
                **{f"mean_dice_{weighting}": round(statistics.mean(scores[weighting]), 4) for weighting in WEIGHTINGS},
                "gaussian_better": sum(value > 0 for value in differences),
                "plain_better": sum(value < 0 for value in differences),
                "mean_difference": round(statistics.mean(differences), 5),
                "largest_difference": round(max(differences, key=abs), 4),
            }
        )
    )


if __name__ == "__main__":
    workspace, dataset_name, model_folder, fold, *limit = sys.argv[1:]
    main(Path(workspace), dataset_name, model_folder, int(fold), int(limit[0]) if limit else None)
