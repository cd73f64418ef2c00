"""Our side of prediction; see ``compare.py``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from measuring import Taken
from prediction.models import CARDIAC, CT, FILE, HIPPOCAMPUS, Task, write_image, write_model

Work = Callable[[], Any]
POLL_SECONDS = 0.1


def imported(task: Task, folder: Path) -> Path:
    """The bundle of a task's model."""
    from nnunet_box.importing.model import import_models

    import_models([write_model(task, folder / "model")], folder / "bundle", (0,))
    return folder / "bundle"


def one_case(task: Task, runtime: str) -> Work:
    """Read, predict and write one case; the network is loaded already."""
    import functools

    from nnunet_box.bundle import load_bundle
    from nnunet_box.dataset.volumes import read_volume
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.ensemble import InferenceOptions
    from nnunet_box.inference.folder import Predictor, exporter, input_cases, predict_folder

    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    place, bundle = imported(task, folder), load_bundle(folder / "bundle")
    write_image(task, folder / "in" / FILE)
    load, name = network_loader(bundle.plan, runtime, "cpu")
    options = InferenceOptions(mirroring=task.mirroring)
    predictor = Predictor(bundle, bundle.ensemble(place), functools.cache(load), options, name)
    cases = input_cases(folder / "in", 1, None)

    def work() -> Taken:
        assert kept  # the folder is removed with it
        started = time.perf_counter()
        predict_folder(predictor, cases, folder / "out", exporter(None))
        seconds = time.perf_counter() - started
        return Taken(read_volume(folder / "out" / "case.nii.gz").array, seconds, facts={"runtime": name})

    return work


def whole_process(task: Task) -> Work:
    """``nnbox predict`` as a process of its own, from its start to its end."""
    from nnunet_box.dataset.volumes import read_volume

    kept = tempfile.TemporaryDirectory()
    folder = Path(kept.name)
    bundle = imported(task, folder)
    write_image(task, folder / "in" / FILE)
    options = [] if task.mirroring else ["--no-mirroring"]
    command = [sys.executable, "-m", "nnunet_box.cli.app", "predict", str(bundle), str(folder / "in")]

    def work() -> Taken:
        assert kept
        started = time.perf_counter()
        process = subprocess.Popen([*command, str(folder / "out"), "--device", "cpu", *options], stdout=sys.stderr)
        peaks: dict[int, int] = {}
        while process.poll() is None:
            for number in [process.pid, *children(process.pid)]:
                peaks[number] = max(peaks.get(number, 0), highest_bytes(number))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"nnbox predict ended with {process.returncode}")
        labels = read_volume(folder / "out" / "case.nii.gz").array.astype(np.uint8)
        return Taken(labels, seconds, peak_bytes=sum(peaks.values()), facts={"processes": str(len(peaks))})

    return work


def children(number: int) -> list[int]:
    """Processes below one, all of them."""
    found: list[int] = []
    for file in Path(f"/proc/{number}/task").glob("*/children"):
        try:
            direct = [int(word) for word in file.read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *children(child)]
    return found


def highest_bytes(number: int) -> int:
    """``VmHWM`` of a process; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


ROWS: dict[str, Callable[[], Work]] = {
    "predict-hippocampus": lambda: one_case(HIPPOCAMPUS, "auto"),
    "predict-hippocampus-torch": lambda: one_case(HIPPOCAMPUS, "torch"),
    "predict-hippocampus-bare": lambda: one_case(HIPPOCAMPUS, "auto"),
    "predict-cardiac": lambda: one_case(CARDIAC, "auto"),
    "predict-cardiac-bare": lambda: one_case(CARDIAC, "auto"),
    "predict-ct": lambda: whole_process(CT),
    "predict-ct-peer": lambda: whole_process(CT),
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
