"""Everything an organiser would refuse an image for, found before it is uploaded: inspected, run, compared, saved, and
opened again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnbox_containers.archive_inspector import ArchiveFacts, inspect_archive
from nnbox_containers.build import bundle_files, files_sha256
from nnbox_containers.case_run import StartResult, case_checks, run_starts, start_checks, stop_check
from nnbox_containers.checks import NO_CHALLENGE, OWN, REBUILD, Check, archive_checks, first_failure, image_checks
from nnbox_containers.engine import ContainerEngine, ImageFacts
from nnbox_containers.inside import Inside
from nnbox_containers.profile import Profile
from nnbox_containers.staging import GivenCase, stage
from nnunet_box.bundle import Bundle
from nnunet_box.errors import InvalidData
from nnunet_box.progress import bytes_done

EQUAL_VOXELS = 0.9999
"""Share of voxels that has to agree with the prediction made here: runtimes and processors round differently, and only
voxels between two classes may tip over.
"""

STOP_AFTER = 15.0
"""Seconds into a long run when it is told to stop."""


@dataclass(frozen=True)
class Judgement:
    """A prediction of the image beside the one made here from the same case. equal: share of voxels; None where they
    could not be compared. problems: what the challenge's checks of an upload say against the file.
    """

    equal: float | None
    different: int = 0
    problems: tuple[str, ...] = ()


Judge = Callable[[str, Path], Judgement]
"""Takes a case's id and the image's file; the prediction it is compared with is made in this process."""


@dataclass(frozen=True)
class Wishes:
    """What to verify with. budget: seconds a case. seconds: at most for a start. archive: whether the image is saved
    and opened again at all. save: where the archive is kept; a temporary one where None. reload: load the archive into
    the engine again. stop: whether a container is told to stop in mid-run.
    """

    budget: float | None = None
    seconds: float = 3600.0
    archive: bool = True
    save: Path | None = None
    reload: bool = False
    stop: bool = True


@dataclass
class Report:
    """What was found. cases: a row each, with the keys ``case``, ``seconds``, ``peak_memory_bytes``, ``equal`` and
    ``different``.
    """

    image: str
    identifier: str
    profile: str
    checks: list[Check] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)
    start_seconds: float | None = None
    archive: ArchiveFacts | None = None
    kept: bool = False

    @property
    def ok(self) -> bool:
        return first_failure(self.checks) is None

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints and a report file holds."""
        told: dict[str, Any] = {
            "schema_version": 1,
            "image": self.image,
            "id": self.identifier,
            "profile": self.profile,
            "accepted": self.ok,
            "start_seconds": self.start_seconds,
            "cases": self.cases,
            "checks": [asdict(check) for check in self.checks],
        }
        if self.archive is not None:
            told["archive"] = {
                "file": str(self.archive.file) if self.kept else None,
                "layout": self.archive.layout,
                "compression": self.archive.compression,
                "size_bytes": self.archive.size_bytes,
                "unpacked_bytes": self.archive.unpacked_bytes,
                "layers": len(self.archive.layers),
            }
        return told

    def lines(self) -> Iterator[str]:
        """The report for a person: a line a check, then a row a case."""
        for check in self.checks:
            yield f"ok    {check.name}: {check.found}" if check.ok else f"FAIL  {check.reason}"
        if not self.cases:
            return
        width = max(len("case"), *(len(row["case"]) for row in self.cases))
        yield ""
        yield f"{'case':{width}}  {'seconds':>8}  {'peak MB':>8}  {'equal':>9}  {'off':>8}"
        for row in self.cases:
            seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
            peak = "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 1e6:.0f}"
            equal = "" if row.get("equal") is None else f"{row['equal']:.6f}"
            yield f"{row['case']:{width}}  {seconds:>8}  {peak:>8}  {equal:>9}  {row.get('different', ''):>8}"
        if self.start_seconds is not None:
            yield f"start to first case: {self.start_seconds:.1f} s"


def verify_image(
    engine: ContainerEngine,
    tag: str,
    facts: ImageFacts,
    inside: Inside,
    profile: Profile,
    cases: Sequence[GivenCase],
    judge: Judge | None,
    wishes: Wishes,
    bundle: tuple[Path, Bundle] | None = None,
    test_folder: Path | None = None,
) -> Report:
    """Run all checks, also after one has failed, as far as they make sense without it.

    bundle: folder and content of the model the image should hold. test_folder: mounted as it lies where the profile
    takes a whole folder; ``cases`` are then those in it.

    Raises
    ------
    NnboxError: the archive cannot be written. EngineUnavailable: the engine is gone. UsageError: as ``stage``.
    """
    report = Report(tag, facts.identifier, profile.name)
    report.checks += image_checks(facts, inside, profile, tag)
    if bundle is not None:
        report.checks += model_checks(facts, inside, profile, *bundle)
    with tempfile.TemporaryDirectory(prefix="nnbox-verify-") as scratch:
        Path(scratch).chmod(0o755)
        apart = bundle[0] if bundle is not None and inside.bundle is None else None
        starts = stage(cases, profile, inside.contract, facts, Path(scratch), test_folder, apart)
        runs = run_starts(engine, tag, starts, profile, wishes.seconds)
        for run in runs:
            report.checks += start_checks(run, profile, wishes.seconds)
            report.checks += _judged(run, profile, judge, wishes.budget, report)
        told = [run.start_seconds for run in runs if run.start_seconds is not None]
        report.start_seconds = max(told, default=None)
        # The driver has ended the server; of a command line the organiser's own shell is what a signal reaches.
        if wishes.stop and profile.entry in ("exec", "script") and report.ok and starts:
            last = stage(cases[:1], profile, inside.contract, facts, Path(scratch) / "stop", None, apart)[0]
            work = runs[0].result.seconds or 2.0
            after = min(max(1.0, work / 2), STOP_AFTER)
            report.checks.append(stop_check(engine, tag, last, profile, after))
    if wishes.archive:
        report.checks += _saved(engine, tag, facts, profile, wishes, report)
    return report


def model_checks(facts: ImageFacts, inside: Inside, profile: Profile, folder: Path, bundle: Bundle) -> Iterator[Check]:
    """The image's model against the bundle it is said to be made from: plan, weights by their hashes, and the label
    over both.
    """
    shipped = inside.bundle
    if shipped is None:
        apart = profile.model is not None
        found = inside.problem or ("none; it is mounted" if apart else "none")
        yield Check("model", apart and not inside.problem, "a bundle in the image", found, REBUILD)
        named = facts.labels.get(f"{OWN}challenge", bundle.challenge)
        shipped = bundle.model_copy(update={"challenge": None if named == NO_CHALLENGE else named})
    else:
        # A budget may have left out folds, never added any.
        same = shipped.plan == bundle.plan and set(shipped.weights_files) <= set(bundle.weights_files)
        found = f"that of {folder}" if same else "another plan or other weights"
        yield Check("model", same, f"that of {folder}", found, REBUILD)
    label = facts.labels.get(f"{OWN}model.sha256", "none")
    digest = files_sha256(bundle_files(folder, shipped))
    yield Check("model.sha256", label == digest, digest, label, f"{REBUILD} Or name the bundle it was built from.")


def _judged(
    run: StartResult, profile: Profile, judge: Judge | None, budget: float | None, report: Report
) -> Iterator[Check]:
    for case in run.cases:
        row: dict[str, Any] = {"case": case.id, "seconds": case.seconds, "peak_memory_bytes": case.peak_memory_bytes}
        report.cases.append(row)
        if case.file is None:
            continue
        yield from case_checks(case, profile, budget)
        if judge is None:
            continue
        verdict = judge(case.id, case.file)
        row |= {"equal": verdict.equal, "different": verdict.different}
        for problem in verdict.problems:
            yield Check(f"{case.id}: file", False, "what the leaderboard takes", problem)
        if not verdict.problems:
            yield Check(f"{case.id}: file", True, "what the leaderboard takes", case.file.name)
        found = (
            "nothing to compare" if verdict.equal is None else f"{verdict.equal:.6f} ({verdict.different} voxels off)"
        )
        fix = "The image predicts otherwise than nnbox predict here: another version, runtime or model?"
        equal = verdict.equal is not None and verdict.equal >= EQUAL_VOXELS
        yield Check(f"{case.id}: voxels equal", equal, f"at least {EQUAL_VOXELS}", found, fix)


def _saved(
    engine: ContainerEngine, tag: str, facts: ImageFacts, profile: Profile, wishes: Wishes, report: Report
) -> Iterator[Check]:
    with tempfile.TemporaryDirectory(prefix="nnbox-verify-") as scratch:
        # Packing takes minutes that only a file to upload is worth.
        file = wishes.save or Path(scratch) / "image.tar"
        with bytes_done(f"Saving {tag}") as listen:
            engine.save(tag, file, listen)
        size = file.stat().st_size
        try:
            with bytes_done("Opening the archive again") as listen:
                report.archive = inspect_archive(file, listen=lambda read: listen(read, size))
        except InvalidData as problem:
            yield Check("archive", False, problem.expected, problem.found, problem.fix)
            return
        report.kept = wishes.save is not None
        yield from archive_checks(report.archive, facts, profile, tag)
        if wishes.reload:
            name = engine.load(file)
            again = engine.inspect(name).identifier
            yield Check("archive: loaded", again == facts.identifier, facts.identifier, again, "Save it again.")
