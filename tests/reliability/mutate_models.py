"""Damaged and hostile files of checkpoints, workspaces, bundles and foreign models; a JSON summary on stdout.

    python tests/reliability/mutate_models.py --mutants 300 --seed 1
    python tests/reliability/mutate_models.py --seed 1 --number 17

Each mutant is one file of a small real workspace, bundle or nnU-Net model, damaged, and the commands that read it.
None may run code, end in a traceback, hang or take memory; a refusal names a file, what was expected and what was
found; what cannot be right is not passed over in silence. Ends with 1 where any run ended otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from damaged_files import BY_SUFFIX
from hostile_runs import Failure, Ran, broken, imported, message, one_thread, run_forked, tally
from hostile_samples import load_network
from model_places import TRAIN, copied, write_models

PREDICT = ["predict", "BUNDLE", "IMAGES", "OUT", "--no-mirroring", "--runtime"]
SELECT, BUNDLE_AGAIN = ["select", "m"], ["build-submission", "bundle", "m", "-o", "OUT"]
IMPORT = ["import-nnunet", "NNUNET", "-o", "OUT"]
STORE = "ws/preprocessed/m"
FOLD, OTHER = "ws/models/m/3d_fullres/fold_0", "ws/models/m/3d_fullres/fold_1"
BUNDLE = "ws/bundles/m"


@dataclass(frozen=True)
class Target:
    """A file and a command that reads it. checked: a flipped bit anywhere in it is seen, as its digest is known.
    remade: it is made anew where it is missing. lenient: well-formed content of another kind may be right.
    """

    file: str
    command: list[str]
    checked: bool = False
    remade: bool = False
    lenient: bool = False


RESUME = [*TRAIN, "--resume"]
TARGETS = (
    Target(f"{FOLD}/checkpoint/state.json", RESUME),
    Target(f"{FOLD}/checkpoint/network.safetensors", RESUME, checked=True),
    Target(f"{FOLD}/checkpoint/optimizer.safetensors", RESUME, checked=True),
    Target(f"{STORE}/plan.json", RESUME, remade=True),
    Target(f"{STORE}/splits.json", RESUME, remade=True),
    Target("ws/datasets/m/dataset.json", RESUME),
    Target(f"{STORE}/3d_fullres/stage.json", RESUME, remade=True),
    Target(f"{STORE}/3d_fullres/CASE/image.b2nd", RESUME),
    Target(f"{STORE}/3d_fullres/CASE/labels.b2nd", RESUME),
    Target(f"{STORE}/3d_fullres/CASE/locations.safetensors", RESUME, remade=True, lenient=True),
    Target(f"{OTHER}/stage.json", SELECT, remade=True),
    Target("ws/models/m/CHOSEN/fold_1/weights.safetensors", SELECT),
    Target(f"{OTHER}/validation/VALIDATED.probabilities.b2nd", SELECT),
    Target(f"{STORE}/plan.json", SELECT),
    Target("ws/models/m/selection.json", BUNDLE_AGAIN),
    Target("ws/models/m/CHOSEN/fold_1/weights.safetensors", BUNDLE_AGAIN),
    Target(f"{BUNDLE}/bundle.json", [*PREDICT, "torch"]),
    Target(f"{BUNDLE}/bundle.json", [*PREDICT, "openvino"]),
    Target(f"{BUNDLE}/bundle.json", ["build-submission", "image", "BUNDLE", "--dry-run", "--runtime", "cpu"]),
    Target(f"{BUNDLE}/WEIGHTS", [*PREDICT, "torch"], checked=True),
    Target(f"{BUNDLE}/WEIGHTS", [*PREDICT, "openvino"], checked=True),
    Target("nnunet/plans.json", IMPORT),
    Target("nnunet/dataset.json", IMPORT),
    Target("nnunet/fold_0/checkpoint_final.pth", IMPORT),
    Target("nnunet/fold_0/checkpoint_final.pth", IMPORT),
)


class Laboratory:
    """Good models, and what the commands take with them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.good = write_models(root / "good")
        load_network(self.good / BUNDLE)
        self.peaks: dict[str, int] = {}
        for target in TARGETS:
            name = " ".join(target.command)
            if name not in self.peaks:
                ran, _, _ = self.run(target, None)
                if ran.code != 0:
                    raise SystemExit(f"{name}: good input ends with {ran.code} {ran.ended}\n{ran.out}\n{ran.err}")
                self.peaks[name] = ran.peak

    def file(self, place: Path, target: Target) -> Path:
        """Names that depend on the split are looked up."""
        fold = json.loads((place / STORE / "splits.json").read_text())
        weights = next((place / BUNDLE).rglob("*.safetensors")).relative_to(place / BUNDLE).as_posix()
        names = {"CASE": fold[0]["train"][0], "VALIDATED": fold[1]["val"][0], "WEIGHTS": weights}
        names["CHOSEN"] = json.loads((place / "ws/models/m/selection.json").read_text())["chosen"][0]
        file = target.file
        for name, value in names.items():
            file = file.replace(name, value)
        return place / file

    def run(self, target: Target, random: np.random.Generator | None) -> tuple[Ran, str, bool]:
        """The run, what was done to the file, and whether it had to be refused; without ``random`` nothing is done."""
        with tempfile.TemporaryDirectory(dir=self.root) as name:
            scratch = Path(name)
            place, canary = copied(self.good, scratch / "place"), scratch / "canary"
            kind, refuse = "", False
            if random is not None:
                file = self.file(place, target)
                damages = BY_SUFFIX[file.suffix]
                damage = damages[int(random.integers(len(damages)))]
                kind = damage.name
                refuse = damage.change(file, random, canary) or (kind == "bits" and target.checked)
                refuse &= not (kind == "no file" and target.remade) and not (kind == "tensors" and target.lenient)
            words = {"BUNDLE": str(place / BUNDLE), "IMAGES": str(place / "images"), "OUT": str(place / "out")}
            words["NNUNET"] = str(place / "nnunet")
            arguments = [words.get(word, word) for word in target.command]
            if arguments[0] not in ("predict", "import-nnunet"):
                arguments += ["--workspace", str(place / "ws")]
            (scratch / "told").mkdir()
            (ran,) = run_forked([arguments], scratch / "told")
            if canary.exists() or (scratch / "evil").exists() or (place / "evil").exists():
                kind += ", CODE RAN"
            if ran.code and (place / "out").is_dir() and any((place / "out").glob("[!.]*.nii.gz")):
                kind += ", OUTPUT LEFT"
            return ran, kind, refuse

    def outcome(self, number: int, seed: int) -> tuple[Target, str, str, Ran]:
        """The mutant's target, kind and outcome: ``refused``, ``passed``, or what it must not be."""
        random = np.random.default_rng([seed, number])
        target = TARGETS[number % len(TARGETS)]
        ran, kind, refuse = self.run(target, random)
        bad = broken(ran, self.peaks[" ".join(target.command)])
        if "CODE RAN" in kind:
            return target, kind, "harmed: code ran", ran
        if "OUTPUT LEFT" in kind:
            return target, kind, "harmed: refused, and there is a prediction", ran
        if bad is not None:
            return target, kind, bad, ran
        if not ran.code:
            return target, kind, "silent: passed what cannot be right" if refuse else "passed", ran
        told = message(ran)
        if told is None:
            return target, kind, "mute: no message", ran
        if ran.code == 3 and not ("expected " in told and "found " in told):
            return target, kind, "mute: a refusal without expected and found", ran
        if ran.code == 1:
            return target, kind, "mute: not called invalid data", ran
        return target, kind, "refused", ran


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="Number of the first mutant.")
    parser.add_argument("--number", type=int, help="Only this one; tells what it is and what became of it.")
    given = parser.parse_args()
    one_thread()
    imported(WARM)
    commands: dict[str, dict[str, int]] = {}
    kinds: dict[str, dict[str, int]] = {}
    files: dict[str, dict[str, int]] = {}
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="nnbox-mutants-") as root:
        laboratory = Laboratory(Path(root))
        if given.number is not None:
            target, kind, outcome, ran = laboratory.outcome(given.number, given.seed)
            print(f"{target.file} {kind}: {outcome}; exit code {ran.code}\n{ran.out[-2000:]}{ran.err[-3000:]}")
            return 0
        started = time.monotonic()
        for number in range(given.first, given.first + given.mutants):
            target, kind, outcome, ran = laboratory.outcome(number, given.seed)
            for counts, key in ((commands, target.command[0]), (kinds, kind), (files, target.file)):
                tally(counts, key, outcome)
            if outcome not in ("refused", "passed"):
                what = {"number": number, "kind": kind, "file": target.file}
                failures.append(Failure(what, " ".join(target.command), outcome, ran.err[-1500:]))
            if (number + 1 - given.first) % 50 == 0:
                print(f"{number + 1 - given.first} mutants, {len(failures)} failures", file=sys.stderr, flush=True)
        result = {
            "seed": given.seed,
            "mutants": given.mutants,
            "seconds": round(time.monotonic() - started, 1),
            "commands": commands,
            "kinds": dict(sorted(kinds.items())),
            "files": files,
            "failures": [failure.as_json() for failure in failures],
        }
    print(json.dumps(result, indent=1))
    return 1 if failures else 0


WARM = (
    "nnunet_box.cli.app",
    "nnunet_box.execution.chain",
    "nnunet_box.execution.fold",
    "nnunet_box.inference.folder",
    "nnunet_box.inference.torch_runtime",
    "nnunet_box.importing.model",
    "nnbox_containers.build",
    "batchgenerators",
    "blosc2",
    "numba",
)

if __name__ == "__main__":
    sys.exit(main())
