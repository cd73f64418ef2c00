"""An imported nnU-Net v2 model beside nnunetv2 itself, case by case: equal voxels, seconds, peak memory; JSON.

python benchmarks/nnunet_parity.py --peer-python PEER/bin/python --model MODEL_FOLDER --images imagesTs -o result.json

The peer is nnunetv2 2.8.1 in an environment of its own (``make test-peer`` makes it). Both run on the CPU, on the same
cores, one after the other, each in a process of its own. A cascade is given with ``--previous-stage``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_box.dataset.dataset import plain_folder_cases
from nnunet_box.dataset.volumes import read_volume
from nnunet_box.importing.model import import_models

PEER_SCRIPT = Path(__file__).with_name("nnunet_peer.py")
FILE_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Job:
    """One model on some cases of a folder. folds: None for all that are trained."""

    peer_python: Path
    model: Path
    images: Path
    mirroring: bool
    most_cases: int | None = None
    folds: tuple[int, ...] | None = None
    previous_stage: Path | None = None
    threads: int = 2
    runtime: str = "auto"


def compare(job: Job, scratch: Path) -> dict[str, Any]:
    """Predict with both, compare; all files lie in ``scratch``."""
    bundle = scratch / "bundle"
    written = import_models([job.model], bundle, job.folds, previous_stage=job.previous_stage)
    cases = plain_folder_cases(job.images, len(written.channel_names))[: job.most_cases]
    chosen = scratch / "images"
    chosen.mkdir()
    files: dict[str, list[str]] = {}
    for case in cases:
        files[case.id] = [str(channel.path) for channel in case.channels]
        for channel in case.channels:
            (chosen / channel.path.name).symlink_to(channel.path.resolve())
    theirs = _theirs(job, files, scratch)
    ours = _ours(job, bundle, chosen, scratch)
    rows = []
    for case in cases:
        found = read_volume(scratch / "ours" / f"{case.id}{FILE_ENDING}").array
        expected = read_volume(scratch / "theirs" / f"{case.id}{FILE_ENDING}").array
        different, foreground = int((found != expected).sum()), int(((found > 0) | (expected > 0)).sum())
        rows.append(
            {
                "case": case.id,
                "voxels": found.size,
                "foreground": foreground,
                "different": different,
                "equal_share": 1 - different / found.size,
                "labels": np.unique(expected).tolist(),
                "seconds": {"nnunetv2": round(theirs["seconds"][case.id], 3), "nnbox": ours["seconds"][case.id]},
            }
        )
    return {
        "model": f"{written.dataset} {', '.join(stage.configuration for stage in written.stages)}",
        "networks": sum(len(stage.weights) for stage in written.stages),
        "mirroring": job.mirroring,
        "threads": job.threads,
        "runtime": ours["runtime"],
        "cases": len(rows),
        "least_equal_share": min(row["equal_share"] for row in rows),
        "mean_equal_share": statistics.mean(row["equal_share"] for row in rows),
        "identical_cases": sum(row["different"] == 0 for row in rows),
        "different_of_foreground": sum(r["different"] for r in rows) / max(1, sum(r["foreground"] for r in rows)),
        "median_seconds": {
            name: round(statistics.median(row["seconds"][name] for row in rows), 3) for name in ("nnunetv2", "nnbox")
        },
        "peak_memory_bytes": {"nnunetv2": theirs["peak_memory_bytes"], "nnbox": ours["peak_memory_bytes"]},
        "rows": rows,
    }


def _theirs(job: Job, files: dict[str, list[str]], scratch: Path) -> dict[str, Any]:
    stages = [folder for folder in (job.previous_stage, job.model) if folder is not None]
    (scratch / "theirs").mkdir()
    request = scratch / "request.json"
    values = {
        "models": [str(stage) for stage in stages],
        "folds": job.folds,
        "checkpoint": "checkpoint_final.pth",
        "mirroring": job.mirroring,
        "threads": job.threads,
        "cases": files,
        "file_ending": FILE_ENDING,
        "output": str(scratch / "theirs"),
    }
    request.write_text(json.dumps(values))
    _run([str(job.peer_python), str(PEER_SCRIPT), str(request)], job.threads)
    answer: dict[str, Any] = json.loads(request.with_suffix(".answer.json").read_text())
    return answer


def _ours(job: Job, bundle: Path, images: Path, scratch: Path) -> dict[str, Any]:
    options = ["--runtime", job.runtime, "--device", "cpu", *([] if job.mirroring else ["--no-mirroring"])]
    command = [sys.executable, "-m", "nnunet_box.cli.app", "predict", str(bundle), str(images), str(scratch / "ours")]
    run = json.loads(_run([*command, "--json", *options], job.threads))
    return {
        "runtime": run.get("runtime", job.runtime),
        "seconds": {row["case"]: round(sum(row["seconds"].values()), 3) for row in run["cases"]},
        "peak_memory_bytes": max(row["peak_memory_bytes"] for row in run["cases"]),
    }


def _run(command: Sequence[str], threads: int) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)
    # Neither torch's nor OpenVINO's own settings bind the other; the cores a process may use bind both.
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    pinned = ["taskset", "-c", cores, *command]
    done = subprocess.run(pinned, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])}: exit code {done.returncode}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--previous-stage", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--folds", type=int, nargs="*")
    parser.add_argument("--no-mirroring", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtime", default="auto", help="ours: auto, torch or openvino")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    job = Job(
        peer_python=given.peer_python,
        model=given.model,
        images=given.images,
        mirroring=not given.no_mirroring,
        most_cases=given.cases,
        folds=tuple(given.folds) if given.folds else None,
        previous_stage=given.previous_stage,
        threads=given.threads,
        runtime=given.runtime,
    )
    with tempfile.TemporaryDirectory() as scratch:
        result = compare(job, Path(scratch))
    if given.output is not None:
        given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1))


if __name__ == "__main__":
    main()
