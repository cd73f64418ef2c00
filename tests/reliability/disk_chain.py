"""Run every command of the chain on a disk that is too small, then with room again, and compare all files.

    python tests/reliability/disk_chain.py

mounts a small tmpfs, so it needs root. It prints one line a try to stderr and a JSON summary to stdout; exit code 1
where a command did not end as it has to.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chain_stages import STAGES, Stage, copy_state, differences, load_libraries, manifest, run
from kill_chain import Calm, Chain

DISK_BYTES = 256 << 20
"""The chain's files and their copies are a tenth of it."""
SHARES = "0,0.1,0.25,0.5,0.75,0.9"
"""Of what a stage adds to the disk, left free for it."""
MESSAGE = re.compile(
    r"nnbox: (?P<path>\S+): could not be written \(No space left on device\)\. It needs "
    r"(about [\d.]+ (bytes|[kMGT]B) in (?P<where>\S+), where [\d.]+ (bytes|[kMGT]B) are free"
    r"|more than the [\d.]+ (bytes|[kMGT]B) that are free in (?P<there>\S+))\."
)
ON_THE_WAY = re.compile(r"/\.nnbox-partial-|/checkpoint/|/fold_\d/(log\.jsonl|run|trained)$|^predictions/run\.json$")
"""Files of an unfinished command that tell how far it came; the rerun shows that they are whole."""


class NoMount(Exception):
    """No file system may be mounted here."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of ``DISK_BYTES`` at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "nnbox-small", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoMount("no mount command") from error
    if done.returncode:
        raise NoMount(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@dataclass(frozen=True)
class Starved:
    """What became of a stage on a full disk. failed: it did not fit into what was free."""

    stage: str
    free: int
    failed: bool
    message: str
    problems: tuple[str, ...]


def free_bytes(folder: Path) -> int:
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


@contextmanager
def filled(folder: Path, free: int) -> Iterator[None]:
    """Within the block no more than ``free`` bytes are free on the disk of ``folder``."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free_bytes(folder) - free))
    try:
        yield
    finally:
        ballast.unlink()


def starve(chain: Chain, stage: Stage, before: Mapping[str, str], calm: Calm, free: int) -> Starved:
    """Run a stage from the state in ``chain.before`` with ``free`` bytes left, then with room."""
    copy_state(chain.before, chain.state)
    problems = []
    with filled(chain.folder, free):
        code = run(stage.argv, chain.folder, chain.words)
    words = chain.words.read_text()
    failed = code != 0
    message = words.strip().splitlines()[-1] if words.strip() else ""
    if failed:
        told = MESSAGE.match(message)
        if code != 1 or told is None or "Traceback" in words:
            problems.append(f"ended with {code}: {words[-1500:]}")
        elif not (chain.folder / (told["where"] or told["there"])).is_dir():
            problems.append(f"names no folder: {message}")
        problems += _half_written(manifest(chain.state), before, calm.files)
        code = run(stage.argv, chain.folder, chain.words)
        if code:
            problems.append(f"with room again ended with {code}: {chain.words.read_text()[-600:]}")
    if odd := differences(manifest(chain.state), calm.files):
        problems.append(f"other files: {', '.join(odd[:8])}")
    return Starved(stage.name, free, failed, message, tuple(problems))


def _half_written(found: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    odd = [name for name, content in found.items() if content not in (before.get(name), after.get(name))]
    return [f"left {name}" for name in odd if not name.endswith("/") and not ON_THE_WAY.search(name)] + [
        f"left {name}" for name in found if "/.nnbox-tmp-" in f"/{name}"
    ]


def starve_all(chain: Chain, calm: Mapping[str, Calm], shares: Sequence[float]) -> Iterator[Starved]:
    """Every stage with each share of what it adds, from the state that the calm one had before it."""
    chain.begin()
    for stage in chain.stages:
        room = free_bytes(chain.folder)
        copy_state(chain.state, chain.before)
        before = manifest(chain.before)
        copied = room - free_bytes(chain.folder)
        chain.succeed(stage)
        added = room - copied - free_bytes(chain.folder)
        copy_state(chain.state, chain.after)
        for share in shares:
            yield starve(chain, stage, before, calm[stage.name], int(share * added))
        copy_state(chain.after, chain.state)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", default=SHARES, help="Comma-separated; of what a stage adds, left free.")
    parser.add_argument("--stages", help="Comma-separated; all by default. The first ones: each needs those before it.")
    given = parser.parse_args()
    load_libraries()
    names = given.stages.split(",") if given.stages else [stage.name for stage in STAGES]
    results = []
    with tempfile.TemporaryDirectory(prefix="nnbox-disk-") as scratch, small_disk(Path(scratch) / "disk") as disk:
        chain = Chain(disk, [stage for stage in STAGES if stage.name in names], Path(scratch) / "words.txt")
        for one in starve_all(chain, chain.calm(), [float(share) for share in given.shares.split(",")]):
            results.append(one)
            ended = "; ".join(one.problems) or ("refused, then finished" if one.failed else "fitted")
            print(f"{one.stage}: {one.free} bytes free: {ended}", file=sys.stderr)
    summary = [
        {
            "stage": name,
            "tried": sum(one.stage == name for one in results),
            "full": sum(one.stage == name and one.failed for one in results),
            "wrong": sum(one.stage == name and bool(one.problems) for one in results),
            "message": next((one.message for one in results if one.stage == name and one.failed), ""),
        }
        for name in names
    ]
    print(json.dumps(summary, indent=1))
    return 0 if not any(one.problems for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
