"""Predicting a folder: the challenge's own test layout, or a plain folder of cases, to the leaderboard's files."""

from __future__ import annotations

import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_box.bundle import Bundle
from nnunet_box.dataset.cases import ChannelFile, SourceCase, read_image
from nnunet_box.dataset.challenge import Challenge
from nnunet_box.dataset.dataset import plain_folder_cases
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.metaimage import open_metaimage
from nnunet_box.dataset.volumes import strip_suffix, write_labels_like
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.evaluation.postprocessing import apply_postprocessing
from nnunet_box.files import write_json
from nnunet_box.inference.ensemble import InferenceOptions, LoadNetwork, Member, predict_prepared, prepare_members
from nnunet_box.inference.kept import KEPT_BYTES, KeptNetworks
from nnunet_box.inference.mounts import check_image_file, check_readable, check_writable, unreadable
from nnunet_box.inference.stopping import Stopped
from nnunet_box.inference.timing import FirstWindow
from nnunet_box.preprocessing.pipeline import PreparedCase, check_enlargement
from nnunet_box.progress import say, track
from nnunet_box.temporary import sweep_left

RUN_FILE = "run.json"
Export = Callable[[NDArray[np.uint8], SourceCase, Path], Path]


class CasesFailed(NnboxError):
    """Some cases could not be predicted; all others are there. The exit code is that of invalid data where every
    failure is.
    """

    def __init__(self, problems: Sequence[tuple[str, NnboxError]], cases: int, output: Path) -> None:
        self.exit_code = max(problem.exit_code for _, problem in problems)
        if any(problem.exit_code != InvalidData.exit_code for _, problem in problems):
            self.exit_code = NnboxError.exit_code
        names = ", ".join(name for name, _ in problems[:5]) + (", ..." if len(problems) > 5 else "")
        super().__init__(
            f"{len(problems)} of {cases} cases could not be predicted ({names}). The others are in {output}. "
            f"{problems[0][0]}: {problems[0][1]}"
        )


@dataclass(frozen=True)
class Predictor:
    """A bundle ready to run: its ensemble, how networks are loaded, how windows are averaged. runtime: what runs
    them, for ``run.json``.
    """

    bundle: Bundle
    members: Sequence[Member]
    load_network: LoadNetwork
    options: InferenceOptions
    runtime: str | None = None

    def labels(
        self, image: NDArray[np.float32], spacing: tuple[float, float, float], probabilities: Path | None
    ) -> NDArray[np.uint8]:
        """Postprocessed labels (Z, Y, X) on the file's grid."""
        return self.labels_of(self.prepared(image, spacing), probabilities)

    def prepared(self, image: NDArray[np.float32], spacing: tuple[float, float, float]) -> Mapping[str, PreparedCase]:
        """What ``labels_of`` needs of an image (C, Z, Y, X) of that spacing (mm, Z, Y, X)."""
        return prepare_members(image, spacing, self.bundle.plan, self.members)

    def labels_of(self, prepared: Mapping[str, PreparedCase], probabilities: Path | None) -> NDArray[np.uint8]:
        """As ``labels``."""
        raw = predict_prepared(prepared, self.bundle.plan, self.members, self.load_network, self.options, probabilities)
        return apply_postprocessing(raw, self.bundle.postprocessing)


def input_cases(folder: Path, channels: int, challenge: Challenge | None) -> tuple[SourceCase, ...]:
    """Cases of a folder: in the challenge's test layout if it is one, else as a plain folder, else as one file.

    A refusal that names a file below the folder comes from a challenge that knew its layout and found it damaged: taken
    as a plain folder, references would be predicted as images.

    Raises
    ------
    InvalidData: neither; the message is the challenge's, where there is one. Or the folder is missing, empty or not
    readable, or two cases have one name.
    """
    if folder.is_file():
        name = strip_suffix(folder)
        return (SourceCase(name, name, (ChannelFile(folder),), output_name=f"{name}.nii.gz"),)
    check_readable(folder)
    cases = _folder_cases(folder, channels, challenge)
    check_cases(cases, folder)
    return cases


def _folder_cases(folder: Path, channels: int, challenge: Challenge | None) -> tuple[SourceCase, ...]:
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


def check_cases(cases: Sequence[SourceCase], source: Path) -> None:
    """Refuse what can end in no file, or in one file for two cases.

    Raises
    ------
    InvalidData: no cases; two of one name; two whose predictions would have one name.
    """
    if not cases:
        raise InvalidData(source, "cases to predict", "none", "Give the folder of the test cases.")
    for what, names in (("case", [case.id for case in cases]), ("output file", [case.output_name for case in cases])):
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            files = [case.reference_file for case in cases if name in (case.id, case.output_name)]
            found = f"{count} named {name}: {', '.join(str(file) for file in files)}"
            raise InvalidData(source, f"another name for each {what}", found, "Rename or remove all but one.")


def predict_folder(
    predictor: Predictor,
    cases: Sequence[SourceCase],
    output: Path,
    export: Export,
    resume: bool = False,
    save_probabilities: bool = False,
    record: bool = True,
) -> dict[str, Any]:
    """Predict and write every case; returns what ``run.json`` holds (the runtime, seconds from the process's start
    to the first window, and per case seconds by stage, peak memory, voxels per label; or the error).

    A case that cannot be predicted does not keep the others from it. With ``resume`` cases whose prediction is there
    are left alone; files are whole or absent, so they are good, and of a pair of files both are looked for. With
    ``record`` ``run.json`` is written after every case, so that it tells what is finished however the run ends; its
    ``state`` is ``running``, ``interrupted``, ``failed`` or ``done``.

    Raises
    ------
    CasesFailed: some cases could not be predicted; of a single case its own
    error. NnboxError: the output cannot be written, or the model cannot be loaded.
    """
    check_writable(output)
    for folder in {output, *((output / case.output_name).parent for case in cases)}:
        sweep_left(folder)
    alone = sum(member.networks for member in predictor.members) == 1
    kept = KeptNetworks(predictor.load_network, None if alone else KEPT_BYTES)
    first = FirstWindow(kept.load)
    predictor = replace(predictor, load_network=first.load)
    records: list[dict[str, Any]] = []
    run: dict[str, Any] = {
        "schema_version": 1,
        "state": "running",
        "dataset": predictor.bundle.dataset,
        "configurations": [member.configuration for member in predictor.members],
        "networks": sum(member.networks for member in predictor.members),
        "runtime": predictor.runtime,
        "seconds": {"start": None},
        "cases": records,
    }
    problems: list[tuple[str, NnboxError]] = []

    def note(state: str) -> None:
        run["state"] = state
        run["seconds"] = {"start": None if first.seconds is None else round(first.seconds, 3)}
        if record:
            write_json(output / RUN_FILE, run)

    case, before = None, None
    try:
        for case in track(cases, "Predict"):
            before = _version(output / case.output_name)
            try:
                records.append(_predicted(predictor, case, output, export, resume, save_probabilities))
            except _CaseProblem as problem:
                problems.append((case.id, problem.error))
                records.append({"case": case.id, "error": str(problem.error)})
                say(f"{case.id}: {problem.error}")
            note("running")
    except (KeyboardInterrupt, Stopped):
        # Between a prediction and its record a signal may come too.
        if case is not None and len(records) == cases.index(case) and _version(output / case.output_name) != before:
            records.append({"case": case.id, "file": case.output_name})
        note("interrupted")
        raise
    except NnboxError as error:
        run["error"] = str(error)
        with suppress(NnboxError):  # the same disk may be full
            note("failed")
        raise
    note("failed" if problems else "done")
    if problems:
        raise problems[0][1] if len(cases) == 1 else CasesFailed(problems, len(cases), output)
    return run


def _version(file: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where it is not there as a whole."""
    if not is_written(file):
        return None
    facts = file.stat()
    return facts.st_ino, facts.st_mtime_ns


class _CaseProblem(Exception):
    """A case's own problem, as opposed to one that all cases share, such as a full disk."""

    def __init__(self, error: NnboxError) -> None:
        self.error = error
        super().__init__(str(error))


def _predicted(
    predictor: Predictor, case: SourceCase, output: Path, export: Export, resume: bool, save_probabilities: bool
) -> dict[str, Any]:
    """One case's record; raises ``_CaseProblem`` where the case is at fault and the next may do."""
    if resume and is_written(output / case.output_name):
        return {"case": case.id, "file": case.output_name, "skipped": True}
    started = time.monotonic()
    kept = output / f"{case.id}.probabilities.b2nd" if save_probabilities else None
    labels, read = _labels(predictor, case, kept)
    predicted = time.monotonic()
    try:
        file = export(labels, case, output)
    except InvalidData as error:
        raise _CaseProblem(error) from error
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


def _read(case: SourceCase, channels: int) -> tuple[NDArray[np.float32], Geometry]:
    try:
        if len(case.channels) != channels:
            fix = "Give the bundle that was made for such images."
            raise InvalidData(case.reference_file, f"{channels} channels a case", f"{len(case.channels)}", fix)
        for channel in case.channels:
            check_image_file(channel.path)
        return read_image(case)
    except InvalidData as error:
        raise _CaseProblem(error) from error
    except PermissionError as error:
        path = Path(error.filename) if error.filename else case.reference_file
        raise _CaseProblem(unreadable(path, "an image")) from error
    except MemoryError as error:
        raise _CaseProblem(_too_large(case, "its voxels")) from error


def _labels(predictor: Predictor, case: SourceCase, kept: Path | None) -> tuple[NDArray[np.uint8], float]:
    """The case's labels (Z, Y, X), and when its image had been read."""
    shape: tuple[int, ...] = ()

    def prepared() -> tuple[Mapping[str, PreparedCase], float]:
        # The image goes with this function's end, before the networks need memory.
        nonlocal shape
        image, geometry = _read(case, len(predictor.bundle.channel_names))
        read, shape = time.monotonic(), image.shape[1:]
        try:
            used = predictor.bundle.plan.configurations.values()
            check_enlargement(case.reference_file, shape, geometry.spacing, used)
        except InvalidData as error:
            raise _CaseProblem(error) from error
        return predictor.prepared(image, geometry.spacing), read

    try:
        ready, read = prepared()
        return predictor.labels_of(ready, kept), read
    except _CaseProblem:
        raise
    except MemoryError as error:
        voxels = " x ".join(str(length) for length in shape)
        raise _CaseProblem(_too_large(case, f"the prediction of {voxels} voxels")) from error
    except NnboxError:
        # Of the model, which the next case needs too.
        raise
    except Exception as error:
        # Nobody foresaw it, so its place is told; it must not cost the cases after it.
        say(traceback.format_exc())
        reason = f"{case.reference_file}: prediction failed ({type(error).__name__}: {error})."
        raise _CaseProblem(NnboxError(reason)) from error


def _too_large(case: SourceCase, what: str) -> NnboxError:
    return NnboxError(f"{case.reference_file}: not enough memory for {what}. Give this process more.")
