"""Mutated volumes through ``nnbox check``, ``convert`` and ``predict``; a JSON summary on stdout.

    python tests/reliability/mutate_volumes.py --mutants 1000 --seed 1
    python tests/reliability/mutate_volumes.py --seed 1 --number 17 --keep DIR

A mutant is one of three cases; the other two are good and must come out as they do without it. Where it is refused, the
message names it. Where it passes, nothing is broken, and a kind that leaves voxels and grid alone gives the good case's
result. Ends with 1 where any run ended otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from hostile_runs import Failure, Ran, broken, imported, message, one_thread, run_forked, tally
from mutator import FORMATS, SHAPE, Files, Mutant, good_image, good_label, mutant, volume_files

COMMANDS = ("check", "convert", "predict")
BAD = 1
"""Which of the cases 0, 1 and 2 is damaged."""
DOWNLOADS = {"nii.gz": "decathlon", "nii": "lits", "mhd": "promise12", "mhd zraw": "promise12"}
"""Whose download has files of a format; the others are in no challenge's."""


@dataclass(frozen=True)
class Place:
    """Good data of one format, for one command. folder: given to it. names: of the damaged case's image and label, with
    their folders, without ending.
    """

    folder: Path
    names: dict[str, Path]
    form: str

    def means(self, text: str) -> bool:
        """Whether a message, or a file's name, is about the damaged case."""
        words = [name.name.removesuffix("_0000") for name in self.names.values()]
        return any(word in text for word in (*words, *(word.replace("volume", "segmentation") for word in words)))

    def put(self, files: Files, role: str) -> None:
        """Replace the damaged case's files."""
        for ending, content in files.items():
            write(self.names[role], ending, content)


def write(name: Path, ending: str, content: bytes) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.with_name(name.name + ending).write_bytes(content.replace(b"NAME", name.name.encode()))


def _volumes(form: str, images: list[Path], labels: list[Path]) -> None:
    for case, name in enumerate(images):
        for ending, content in volume_files(good_image(case), form).items():
            write(name, ending, content)
    for case, name in enumerate(labels):
        for ending, content in volume_files(good_label(case), form).items():
            write(name, ending, content)


def dataset_place(root: Path, form: str) -> Place:
    """nnU-Net's raw layout."""
    images = [root / "imagesTr" / f"case_{case}_0000" for case in range(3)]
    labels = [root / "labelsTr" / f"case_{case}" for case in range(3)]
    _volumes(form, images, labels)
    declared = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 3,
        "file_ending": FORMATS[form][0],
    }
    (root / "dataset.json").write_text(json.dumps(declared))
    return Place(root, {"image": images[BAD], "label": labels[BAD]}, form)


def download_place(root: Path, form: str) -> Place:
    """A challenge's download."""
    if form == "nii.gz":
        task = root / "Task09_Spleen"
        images = [task / "imagesTr" / f"spleen_{case}" for case in range(3)]
        labels = [task / "labelsTr" / f"spleen_{case}" for case in range(3)]
        files = [{"image": f"./imagesTr/spleen_{n}.nii.gz", "label": f"./labelsTr/spleen_{n}.nii.gz"} for n in range(3)]
        declared = {"name": "Spleen", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
        task.mkdir(parents=True)
        (task / "dataset.json").write_text(json.dumps({**declared, "numTraining": 3, "training": files, "test": []}))
    elif form == "nii":
        images = [root / "Training Batch 1" / f"volume-{case}" for case in range(3)]
        labels = [root / "Training Batch 1" / f"segmentation-{case}" for case in range(3)]
    else:
        images = [root / "TrainingData_Part1" / f"Case0{case}" for case in range(3)]
        labels = [root / "TrainingData_Part1" / f"Case0{case}_segmentation" for case in range(3)]
    _volumes(form, images, labels)
    return Place(root, {"image": images[BAD], "label": labels[BAD]}, form)


def test_place(root: Path, form: str, challenge: str | None) -> Place:
    """Images to predict, in the challenge's layout or as a plain folder."""
    names = {
        None: "scan-{}",
        "decathlon": "imagesTs/spleen_{}",
        "lits": "test-volume-{}",
        "promise12": "TestData/Case0{}",
    }
    images = [root / names[challenge].format(case) for case in range(3)]
    _volumes(form, images, [])
    return Place(root, {"image": images[BAD]}, form)


@dataclass(frozen=True)
class Baseline:
    """What good input gives. files: relative path to digest. peak: bytes."""

    files: dict[str, str]
    peak: int


def digests(folder: Path) -> dict[str, str]:
    """Content of every volume, and of what else is no record of the run."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(_content(path)).hexdigest() for path in files}


def _content(path: Path) -> bytes:
    """Of NIfTI the voxels and the grid: how they are packed, and what follows them, is the file's own affair."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return path.read_bytes()
    image = nibabel.load(path)
    grid = (*image.header["pixdim"][:4], *image.affine.ravel())
    return np.asanyarray(image.dataobj).tobytes() + np.array(grid, np.float64).tobytes()


class Laboratory:
    """Good data of every format, a model, and the commands' results without a mutant."""

    def __init__(self, root: Path) -> None:
        from hostile_samples import load_network, write_bundle_of

        self.root = root
        self.bundle = write_bundle_of(root / "bundle")
        load_network(self.bundle)
        self.places: dict[tuple[str, str, str | None], Place] = {}
        self.baselines: dict[tuple[str, str, str | None], Baseline] = {}
        for form in FORMATS:
            folder = root / "good" / form.replace(" ", "-").replace(".", "-")
            self._add("check", form, None, dataset_place(folder / "check", form))
            self._add("predict", form, None, test_place(folder / "plain", form, None))
            challenge = DOWNLOADS.get(form)
            if challenge is not None:
                self._add("convert", form, challenge, download_place(folder / "download", form))
                self._add("predict", form, challenge, test_place(folder / "test", form, challenge))

    def _add(self, command: str, form: str, challenge: str | None, place: Place) -> None:
        key = (command, form, challenge)
        self.places[key] = place
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            arguments = self.arguments(key, Path(scratch) / "result")
            (Path(scratch) / "told").mkdir()
            (ran,) = run_forked([arguments], Path(scratch) / "told")
            if ran.code != 0:
                raise SystemExit(f"{key}: good input ends with {ran.code} {ran.ended}\n{ran.out}\n{ran.err}")
            self.baselines[key] = Baseline(digests(Path(scratch) / "result"), ran.peak)

    def arguments(self, key: tuple[str, str, str | None], result: Path) -> list[str]:
        command, _, challenge = key
        folder = str(self.places[key].folder)
        if command == "check":
            return ["check", folder, "--json", "--workspace", str(result)]
        if command == "convert":
            return ["convert", "--challenge", str(challenge), folder, "--name", "m", "--workspace", str(result)]
        words = ["predict", str(self.bundle), folder, str(result), "--no-mirroring", "--runtime", "torch"]
        return [*words, *(["--challenge", challenge] if challenge else [])]

    def keys(self, subject: Mutant) -> list[tuple[str, str, str | None]]:
        """The commands that meet a mutant: a prediction sees no label; every other one is in a challenge's layout."""
        keys: list[tuple[str, str, str | None]] = [("check", subject.format, None)]
        challenge = DOWNLOADS.get(subject.format)
        if challenge is not None:
            keys.append(("convert", subject.format, challenge))
        if subject.role == "image":
            keys.append(("predict", subject.format, challenge if subject.number % 2 else None))
        return keys

    def outcomes(self, subject: Mutant, keep: Path | None = None) -> list[tuple[str, str, Ran]]:
        """(command, outcome, run) of every command that meets the mutant."""
        keys = self.keys(subject)
        good = volume_files(good_image(BAD) if subject.role == "image" else good_label(BAD), subject.format)
        with tempfile.TemporaryDirectory(dir=self.root) as name:
            scratch = Path(name)
            (scratch / "told").mkdir()
            try:
                for key in keys:
                    self.places[key].put(subject.files, subject.role)
                results = [scratch / key[0] for key in keys]
                commands = [self.arguments(key, result) for key, result in zip(keys, results, strict=True)]
                ran = run_forked(commands, scratch / "told")
                if keep is not None:
                    shutil.copytree(scratch, keep, dirs_exist_ok=True)
                    for key in keys:
                        shutil.copytree(self.places[key].folder, keep / "input" / key[0], dirs_exist_ok=True)
            finally:
                for key in keys:
                    self.places[key].put(good, subject.role)
            return [
                (key[0], self.outcome(key, subject, one, result), one)
                for key, one, result in zip(keys, ran, results, strict=False)
            ]

    def outcome(self, key: tuple[str, str, str | None], subject: Mutant, ran: Ran, result: Path) -> str:
        """``refused``, ``passed same``, ``passed changed``, or what it must not be."""
        baseline, place = self.baselines[key], self.places[key]
        bad = broken(ran, baseline.peak)
        if bad is not None:
            return bad
        judge = {"check": self._checked, "convert": self._converted, "predict": self._predicted}[key[0]]
        outcome = judge(place, ran, result, baseline)
        if outcome == "passed changed" and subject.kept:
            return "silent: passed, with another result than the good case's"
        return outcome

    def _checked(self, place: Place, ran: Ran, result: Path, baseline: Baseline) -> str:
        findings = json.loads(ran.out)
        errors = [finding for finding in findings if finding["severity"] == "error"]
        others = [finding["file"] for finding in errors if not place.means(Path(finding["file"]).name)]
        if others:
            return f"harmed: {others[0]} is called bad"
        if bool(errors) != (ran.code == 3):
            return f"mute: exit code {ran.code} with {len(errors)} errors"
        incomplete = [finding for finding in errors if not all(finding[key] for key in ("expected", "found", "fix"))]
        if incomplete:
            return "mute: a finding without expected, found and fix"
        return "refused" if errors else "passed same"

    def _converted(self, place: Place, ran: Ran, result: Path, baseline: Baseline) -> str:
        folder = result / "datasets" / "m"
        if ran.code:
            if folder.exists():
                return "harmed: refused, and there is a data set"
            return self._refusal(place, ran)
        return self._compared(digests(result), baseline, place)

    def _predicted(self, place: Place, ran: Ran, result: Path, baseline: Baseline) -> str:
        made = digests(result)
        if not ran.code:
            return self._compared(made, baseline, place)
        expected = {name: digest for name, digest in baseline.files.items() if not place.means(name)}
        if made != expected:
            return f"harmed: {sorted(made)} of the good cases {sorted(expected)}"
        return self._refusal(place, ran)

    def _refusal(self, place: Place, ran: Ran) -> str:
        told = message(ran)
        if told is None or not place.means(told):
            return "mute: no message that names the case"
        if ran.code == 3 and not ("expected " in told and "; found " in told):
            return "mute: a refusal without expected and found"
        return "refused"

    def _compared(self, made: dict[str, str], baseline: Baseline, place: Place) -> str:
        if sorted(made) != sorted(baseline.files):
            return f"harmed: files {sorted(made)}"
        differing = [name for name, digest in made.items() if digest != baseline.files[name]]
        others = [name for name in differing if not place.means(name)]
        if others:
            return f"harmed: {others[0]} is another file"
        return "passed changed" if differing else "passed same"


def summary(seed: int, numbers: range, laboratory: Laboratory) -> dict[str, object]:
    """Run mutants and count what became of them."""
    kinds: dict[str, dict[str, int]] = {}
    commands: dict[str, dict[str, int]] = {}
    forms: dict[str, dict[str, int]] = {}
    failures: list[Failure] = []
    largest, started = 0, time.monotonic()
    for number in numbers:
        subject = mutant(seed, number)
        for command, outcome, ran in laboratory.outcomes(subject):
            for counts, key in ((kinds, subject.kind), (commands, command), (forms, subject.format)):
                tally(counts, key, outcome)
            good = max(baseline.peak for key, baseline in laboratory.baselines.items() if key[0] == command)
            largest = max(largest, ran.peak - good)
            if outcome not in ("refused", "passed same", "passed changed"):
                what = {"number": number, "kind": subject.kind, "format": subject.format, "role": subject.role}
                failures.append(Failure(what, command, outcome, ran.err[-1500:]))
        if (number + 1 - numbers.start) % 50 == 0:
            print(f"{number + 1 - numbers.start} mutants, {len(failures)} failures", file=sys.stderr, flush=True)
    return {
        "seed": seed,
        "mutants": len(numbers),
        "runs": sum(row["tried"] for row in commands.values()),
        "seconds": round(time.monotonic() - started, 1),
        "largest_peak_beyond_good_mb": round(largest / 2**20, 1),
        "commands": commands,
        "formats": forms,
        "kinds": dict(sorted(kinds.items())),
        "failures": [failure.as_json() for failure in failures],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="Number of the first mutant.")
    parser.add_argument("--number", type=int, help="Only this one; tells what it is and what became of it.")
    parser.add_argument("--keep", type=Path, help="With --number: copy its input and results here.")
    given = parser.parse_args()
    one_thread()
    imported(WARM)
    with tempfile.TemporaryDirectory(prefix="nnbox-mutants-") as root:
        laboratory = Laboratory(Path(root))
        if given.number is not None:
            subject = mutant(given.seed, given.number)
            print(subject.kind, subject.format, subject.role, {name: len(data) for name, data in subject.files.items()})
            for command, outcome, ran in laboratory.outcomes(subject, given.keep):
                print(f"{command}: {outcome}; exit code {ran.code}\n{ran.out[-2000:]}{ran.err[-3000:]}")
            return 0
        counted = summary(given.seed, range(given.first, given.first + given.mutants), laboratory)
    print(json.dumps(counted, indent=1))
    return 1 if counted["failures"] else 0


WARM = (
    "nnunet_box.cli.app",
    "nnunet_box.cli.common",
    "nnunet_box.dataset.check",
    "nnunet_box.dataset.repair",
    "nnunet_box.inference.folder",
    "nnunet_box.inference.torch_runtime",
    "nnbox_challenges.decathlon",
    "nnbox_challenges.lits",
    "nnbox_challenges.promise12",
    "SimpleITK",
    "numba",
)

if __name__ == "__main__":
    assert SHAPE[0] != SHAPE[1]
    sys.exit(main())
