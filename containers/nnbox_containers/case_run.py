"""Starting an image on staged cases under a profile's limits, and what became of each case."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnbox_containers.checks import Check
from nnbox_containers.engine import ContainerEngine, RunLimits, RunResult, StartFailed
from nnbox_containers.profile import Profile
from nnbox_containers.staging import DRIVER_MARK, RUN_FILE, STOP_SECONDS, Start, files_left
from nnunet_box.progress import track

TAIL_CHARACTERS = 300
KILLED = 137
STOPPED_BY_SIGNAL = {143, 130}


@dataclass(frozen=True)
class CaseResult:
    """One case. file: its prediction; None where there is none. seconds: wall time an organiser counts: of the whole
    start where each case has its own, else of the case alone. peak_memory_bytes: None where nobody measured.
    """

    id: str
    file: Path | None
    seconds: float | None
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class StartResult:
    """One start. start_seconds: from its beginning to the first case; None where nothing tells. stop_seconds: an HTTP
    server's, from SIGTERM to its end. strangers: files in the output that no case asks for.
    """

    start: Start
    result: RunResult
    cases: tuple[CaseResult, ...]
    strangers: tuple[str, ...]
    start_seconds: float | None
    stop_seconds: float | None = None


def run_starts(
    engine: ContainerEngine, image: str, starts: Sequence[Start], profile: Profile, seconds: float
) -> list[StartResult]:
    """Run every start under the profile's strictest limits, each for at most ``seconds``."""
    limits = replace(profile.strictest, seconds=seconds)
    return [_run(engine, image, start, profile, limits) for start in track(starts, "Running the image")]


def _run(engine: ContainerEngine, image: str, start: Start, profile: Profile, limits: RunLimits) -> StartResult:
    began = time.monotonic()
    try:
        result = engine.run(image, start.command, start.mounts, limits, start.entrypoint)
    except StartFailed as error:
        result = RunResult(KILLED - 10, "", str(error))
    wall = result.seconds or time.monotonic() - began
    driver = _line(result.stdout, DRIVER_MARK)
    record = _record(start, result)
    listed = (case for case in record.get("cases") or [] if isinstance(case, dict))
    records = {case["case"]: case for case in listed if isinstance(case.get("case"), str)}
    own = {name: sum(record["seconds"].values()) for name, record in records.items() if "seconds" in record}
    alone = profile.cases == "case"
    left = files_left(start)
    cases, wanted = [], set[str]()
    for case in start.cases:
        names = _predictions(start.expected[case.id], left)
        wanted.update(names)
        file = start.output / names[0] if names else None
        peak = result.peak_memory_bytes or records.get(case.id, {}).get("peak_memory_bytes")
        seconds = wall if alone else own.get(case.id)
        cases.append(CaseResult(case.id, file, seconds, peak))
    if profile.record:
        wanted.add(RUN_FILE)
    # What the program measured itself, else whatever was not spent on cases.
    own_start = (record.get("seconds") or {}).get("start")
    before = own_start or (wall - sum(own.values()) if own else None)
    start_seconds = driver.get("start_seconds", before)
    strangers = tuple(name for name in left if name not in wanted)
    return StartResult(start, result, tuple(cases), strangers, start_seconds, driver.get("stop_seconds"))


def _predictions(expected: str, left: Sequence[str]) -> list[str]:
    """Files of one prediction: the one asked for, with a ``.mhd`` its second; in a socket the first there is."""
    if expected.endswith("/"):
        return [name for name in left if name.startswith(expected)][:1]
    stem = expected.removesuffix(".mhd")
    pair = [f"{stem}.raw"] if stem != expected else []
    return [name for name in (expected, *pair) if name in left]


def _record(start: Start, result: RunResult) -> dict[str, Any]:
    """``run.json``, from the file or from the line of the log that stands for it."""
    for place in sorted(start.output.rglob(RUN_FILE)):
        try:
            value = json.loads(place.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return next((line for line in map(_parsed, reversed(result.stdout.splitlines())) if "cases" in line), {})


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _line(stdout: str, mark: str) -> dict[str, Any]:
    marked = (line.removeprefix(mark) for line in stdout.splitlines() if line.startswith(mark))
    return next((_parsed(line) for line in marked), {})


def start_checks(run: StartResult, profile: Profile, seconds: float) -> Iterator[Check]:
    """How a start ended, and what it left."""
    result, what = run.result, ", ".join(case.id for case in run.cases[:3]) + (", ..." if len(run.cases) > 3 else "")
    said = " ".join(result.stderr.split())[-TAIL_CHARACTERS:] or " ".join(result.stdout.split())[-TAIL_CHARACTERS:]
    limit = profile.strictest.memory_bytes
    if result.killed_for_memory or (result.exit_code == KILLED and not result.timed_out):
        expected = f"within {limit / 2**30:.1f} GiB" if limit is not None else "within this machine's memory"
        fix = "Cut memory: the CPU runtime, or a smaller plan (nnbox plan --memory-gb)."
        yield Check(f"{what}: memory", False, expected, "a container killed for want of memory", fix)
        return
    if result.timed_out:
        fix = "Build it with --budget-per-case, or allow more with --time-limit."
        yield Check(f"{what}: time", False, f"an end within {seconds:.0f} s", "still running", fix)
        return
    found = "0" if result.exit_code == 0 else f"{result.exit_code}: {said}"
    fix = f"Run it by hand: {profile.run_line('IMAGE')}"
    yield Check(f"{what}: exit code", result.exit_code == 0, "0", found, fix)
    if profile.silent_stderr:
        quiet = not result.stderr.strip()
        found = "nothing" if quiet else f"{' '.join(result.stderr.split())[:TAIL_CHARACTERS]!r}"
        fix = "Write messages to stdout; the platform shows stderr as a warning."
        yield Check(f"{what}: stderr", quiet, "nothing", found, fix)
    missing = [case.id for case in run.cases if case.file is None]
    found = f"none of {', '.join(missing[:5])}" if missing else "all"
    yield Check(f"{what}: predictions", not missing, "one a case", found, "Look at the container's log.")
    extra = ", ".join(run.strangers[:5])
    fix = "Nothing else may lie in the output; it may be taken for a prediction."
    yield Check(f"{what}: other files", not extra, "none", extra or "none", fix)
    if run.stop_seconds is not None:
        stopped = run.stop_seconds <= STOP_SECONDS
        yield Check(f"{what}: SIGTERM", stopped, "an end within 5 s", f"{run.stop_seconds:.1f} s", "Handle SIGTERM.")


def case_checks(case: CaseResult, profile: Profile, budget: float | None) -> Iterator[Check]:
    """Format, time and memory of one case."""
    if case.file is not None and profile.output_suffixes:
        taken = case.file.name.endswith(profile.output_suffixes)
        yield Check(f"{case.id}: format", taken, " or ".join(profile.output_suffixes), case.file.name, "Export it so.")
    if budget is not None:
        known = case.seconds is not None
        found = f"{case.seconds:.1f} s" if case.seconds is not None else "no time told"
        ok = known and case.seconds is not None and case.seconds <= budget
        fix = f"Build it with --budget-per-case {budget:g}s."
        yield Check(f"{case.id}: seconds", ok, f"at most {budget:g} s", found, fix)
    limit, peak = profile.strictest.memory_bytes, case.peak_memory_bytes
    if limit is not None and peak is not None:
        expected, found = f"at most {limit / 2**30:.1f} GiB", f"{peak / 2**30:.2f} GiB"
        yield Check(f"{case.id}: memory", peak <= limit, expected, found, "Plan a smaller patch.")


def stop_check(engine: ContainerEngine, image: str, start: Start, profile: Profile, after: float) -> Check:
    """Tell a container to stop ``after`` seconds into its work, and see it end by itself: an engine kills what has not
    ended in the seconds that platforms give.
    """
    limits = replace(profile.strictest, seconds=after)
    result = engine.run(image, start.command, start.mounts, limits, start.entrypoint)
    if not result.timed_out:
        return Check("SIGTERM", True, "an end within 5 s", "the container was done before")
    ok = result.exit_code != KILLED
    found = f"exit code {result.exit_code}" if ok else "a container that had to be killed"
    return Check("SIGTERM", ok, "an end within 5 s", found, "Handle SIGTERM; platforms kill after 5 s.")
