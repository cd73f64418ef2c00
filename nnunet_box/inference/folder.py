"""Predicting a folder: the challenge's own test layout, or a plain folder of cases, to the leaderboard's files."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.bundle import Bundle
from nnunet_box.dataset.cases import SourceCase, read_image
from nnunet_box.dataset.challenge import Challenge
from nnunet_box.dataset.dataset import plain_folder_cases
from nnunet_box.dataset.metaimage import open_metaimage
from nnunet_box.dataset.volumes import write_labels_like
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.evaluation.postprocessing import apply_postprocessing
from nnunet_box.files import sweep_temporaries, write_json
from nnunet_box.inference.ensemble import InferenceOptions, LoadNetwork, Member, predict_case
from nnunet_box.inference.timing import FirstWindow
from nnunet_box.progress import track

RUN_FILE = "run.json"
Export = Callable[[NDArray[np.uint8], SourceCase, Path], Path]


@dataclass(frozen=True)
class Predictor:
    """A bundle ready to run: its ensemble, how networks are loaded, how windows are averaged. runtime: what runs
    them, for ``run.json``.
    """

    bundle: Bundle
    members: Sequence[Member]
    load_network: LoadNetwork
    options: InferenceOptions
    runtime: str = ""

    def labels(
        self, image: NDArray[np.float32], spacing: tuple[float, float, float], probabilities: Path | None
    ) -> NDArray[np.uint8]:
        """Postprocessed labels (Z, Y, X) on the file's grid."""
        raw = predict_case(
            image, spacing, self.bundle.plan, self.members, self.load_network, self.options, probabilities
        )
        return apply_postprocessing(raw, self.bundle.postprocessing)


def input_cases(folder: Path, channels: int, challenge: Challenge | None) -> tuple[SourceCase, ...]:
    """Cases of a folder: in the challenge's test layout if it is one, else as a plain folder, else as one file.

    A refusal that names a file below the folder comes from a challenge that knew its layout and found it damaged: taken
    as a plain folder, references would be predicted as images.

    Raises
    ------
    InvalidData: neither; the message is the challenge's, where there is one.
    """
    if folder.is_file():
        from nnunet_box.dataset.cases import ChannelFile
        from nnunet_box.dataset.volumes import strip_suffix

        name = strip_suffix(folder)
        return (SourceCase(name, name, (ChannelFile(folder),), output_name=f"{name}.nii.gz"),)
    if challenge is None:
        return plain_folder_cases(folder, channels)
    try:
        return challenge.test_cases(folder, channels)
    except InvalidData as refusal:
        if refusal.file.resolve() != folder.resolve():
            raise
        try:
            return plain_folder_cases(folder, channels)
        except InvalidData:
            raise refusal from None


def exporter(challenge: Challenge | None) -> Export:
    """How a prediction is written: as the challenge wants it, or on the source's grid under the case's name."""
    if challenge is not None:
        return challenge.export

    def write(labels: NDArray[np.uint8], case: SourceCase, output: Path) -> Path:
        file = output / case.output_name
        write_labels_like(file, labels, case.reference_file)
        return file

    return write


def check_writable(output: Path) -> None:
    """Refuse an output folder that cannot be written before any work is done.

    Raises
    ------
    NnboxError: naming the folder and the user, the two things that are at odds.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / f".nnbox-tmp-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "this user"
        raise NnboxError(
            f"{output}: {user} cannot write here ({error.strerror}). "
            f"Give the folder to that user (chown or chmod), or run as its owner: docker run --user $(id -u):$(id -g)."
        ) from error


def is_written(file: Path) -> bool:
    """Whether a prediction is there as a whole; of a ``.mhd`` also the voxels it names, which lie in a second file."""
    if not file.is_file():
        return False
    if file.suffix.lower() != ".mhd":
        return True
    try:
        open_metaimage(file)
    except InvalidData:
        return False
    return True


def predict_folder(
    predictor: Predictor,
    cases: Sequence[SourceCase],
    output: Path,
    export: Export,
    resume: bool = False,
    save_probabilities: bool = False,
) -> dict[str, Any]:
    """Predict and write every case; returns and writes ``run.json`` (runtime, seconds from the process's start
    to the first window, per case seconds by stage, peak memory, voxels per label).

    With ``resume`` cases whose prediction is there are left alone; files are whole or absent, so they are good, and of
    a pair of files both are looked for.

    Raises
    ------
    InvalidData: a case that cannot be read. NnboxError: the output cannot be written.
    """
    check_writable(output)
    sweep_temporaries(output)
    channels = len(predictor.bundle.channel_names)
    first = FirstWindow(predictor.load_network)
    predictor = replace(predictor, load_network=first.load)
    records: list[dict[str, Any]] = []
    for case in track(cases, "Predict"):
        if len(case.channels) != channels:
            raise InvalidData(
                case.reference_file,
                f"{channels} channels a case",
                f"{len(case.channels)}",
                "Is this the bundle for these images?",
            )
        if resume and is_written(output / case.output_name):
            records.append({"case": case.id, "file": case.output_name, "skipped": True})
            continue
        records.append(_predict_one(predictor, case, output, export, save_probabilities))
    run = {
        "schema_version": 1,
        "dataset": predictor.bundle.dataset,
        "configurations": [member.configuration for member in predictor.members],
        "networks": sum(member.networks for member in predictor.members),
        "runtime": predictor.runtime or None,
        "seconds": {"start": None if first.seconds is None else round(first.seconds, 3)},
        "cases": records,
    }
    write_json(output / RUN_FILE, run)
    return run


def _predict_one(
    predictor: Predictor, case: SourceCase, output: Path, export: Export, save_probabilities: bool
) -> dict[str, Any]:
    started = time.monotonic()
    image, geometry = read_image(case)
    read = time.monotonic()
    kept = output / f"{case.id}.probabilities.b2nd" if save_probabilities else None
    labels = predictor.labels(image, geometry.spacing, kept)
    predicted = time.monotonic()
    file = export(labels, case, output)
    ended = time.monotonic()
    names = predictor.bundle.labels
    counts = np.bincount(labels.ravel(), minlength=len(names))
    voxels = {names[value]: int(counts[value]) for value in sorted(names)}
    scale = 1 if sys.platform == "darwin" else 1024
    empty = [name for value, name in sorted(names.items()) if value and not counts[value]]
    return {
        "case": case.id,
        "file": file.name,
        "seconds": {
            "read": round(read - started, 3),
            "predict": round(predicted - read, 3),
            "write": round(ended - predicted, 3),
        },
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
        "voxels": voxels,
        "warnings": [f"no voxel of {name}" for name in empty],
    }
