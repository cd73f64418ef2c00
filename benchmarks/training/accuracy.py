"""What both sides of the accuracy row share: the time they have, the hippocampus' workspace, what is kept, the score.

``python -m training.accuracy prepare`` and ``... score PREDICTIONS`` are run by our Python, whichever side asks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from measuring import Taken

DATASET = "decathlon-Task04_Hippocampus"
FOLD, CONFIGURATION = 0, "3d_fullres"
OUR_SECONDS, PEER_SECONDS = 600.0, 1800.0


def seconds(whole: float) -> float:
    """The side's time, less where ``--shorten`` says so."""
    return whole / float(os.getenv(measuring.SHORTEN_VARIABLE, "1"))


def folder() -> Path:
    """Where this row keeps its data sets, models and results; one for each length of time."""
    return Path(os.environ[measuring.WORK_VARIABLE]) / "accuracy" / f"{seconds(OUR_SECONDS):g}s"


def workspace() -> Path:
    """Ours, with the converted data set, its plan and its folds."""
    return folder().parent / "nnbox"


def with_our_python(*arguments: str) -> str:
    """Run this module's command line; returns what it prints."""
    command = [os.environ[measuring.PYTHON_VARIABLE], "-m", "training.accuracy", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def once(side: str, train: Callable[[], dict[str, Any]]) -> Taken:
    """What ``train`` returns, kept: a side that has finished is not run again unless ``--again`` asks for it.

    It has ``dice``, ``cases``, ``seconds`` of training, ``peak_bytes`` and ``updates``.
    """
    file = folder() / f"{side}.json"
    if not file.exists() or os.getenv(measuring.AGAIN_VARIABLE):
        found = train()
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(found, indent=1))
        unfinished.replace(file)
    kept = json.loads(file.read_text())
    return Taken(
        np.array([kept["dice"], kept["cases"]]),
        seconds=kept["seconds"],
        additional_bytes=kept["peak_bytes"],
        peak_bytes=kept["peak_bytes"],
        facts={f"updates of {side}": str(kept["updates"])},
    )


def prepare() -> None:
    """Convert, plan and preprocess the Decathlon's hippocampus, and write its folds; steps that are done are left."""
    from nnunet_box.dataset.dataset import load_dataset
    from nnunet_box.dataset.splits import load_or_make_folds
    from nnunet_box.workspace import Workspace

    root = workspace()
    source = Path(os.environ[measuring.DATA_VARIABLE]) / "Task04_Hippocampus"
    if not (root / "datasets" / DATASET).is_dir():
        nnbox("convert", "--challenge", "decathlon", str(source), "--workspace", str(root))
    nnbox("plan", DATASET, "--workspace", str(root))
    nnbox("preprocess", DATASET, "--configurations", CONFIGURATION, "--workspace", str(root))
    load_or_make_folds(Workspace(root, DATASET).splits, load_dataset(root / "datasets" / DATASET))


def nnbox(*arguments: str) -> None:
    """Run our command; what it prints goes to stderr."""
    subprocess.run([sys.executable, "-m", "nnunet_box.cli.app", *arguments], check=True, stdout=sys.stderr)


def score(predictions: Path) -> dict[str, float]:
    """Mean foreground Dice, as ``nnbox evaluate`` takes it, and number of the fold's held-out cases.

    Raises an error where one of them has no prediction.
    """
    from nnunet_box.dataset.dataset import load_dataset
    from nnunet_box.dataset.splits import read_folds
    from nnunet_box.evaluation.summary import summarise_pairs, summary_dice
    from nnunet_box.workspace import Workspace

    dataset = load_dataset(workspace() / "datasets" / DATASET)
    held_out = read_folds(Workspace(workspace(), DATASET).splits)[FOLD].val
    references = {case.id: case.label for case in dataset.cases}
    pairs = [(name, predictions / f"{name}.nii.gz", references[name]) for name in held_out]
    return {"dice": summary_dice(summarise_pairs(pairs, dataset.labels)), "cases": len(pairs)}


def train() -> dict[str, Any]:
    """Our side: what ``nnbox train --budget`` does."""
    import resource

    budget = seconds(OUR_SECONDS)
    models = workspace() / "models" / DATASET / CONFIGURATION
    shutil.rmtree(models, ignore_errors=True)
    which = ("--configuration", CONFIGURATION, "--fold", str(FOLD), "--workspace", str(workspace()))
    nnbox("train", DATASET, *which, "--budget", f"{budget:g}s", "--device", "cpu")
    fold = models / f"fold_{FOLD}"
    epochs = [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]
    return score(fold / "validation") | {
        "seconds": max(budget, sum(epoch["seconds"] for epoch in epochs)),
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "updates": f"{len(epochs)} epochs",
    }


if __name__ == "__main__":
    prepare() if sys.argv[1] == "prepare" else print(json.dumps(score(Path(sys.argv[2]))))
