"""``nnbox build-submission archive`` and ``nnbox verify-submission archive``: what is uploaded to a leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnunet_box.cli import completion, verify_image
from nnunet_box.cli.common import CommandGroup, print_json
from nnunet_box.cli.options import DEFAULT_WORKSPACE, ChallengeOptions, JsonOption, WorkspaceOption
from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnunet_box.dataset.findings import Finding

VERIFICATION_FAILED = 5
ChallengeOption = Annotated[
    str,
    typer.Option(
        "--challenge", "-c", help="Whose leaderboard; see nnbox challenges.", autocompletion=completion.challenges
    ),
]
TestFolderOption = Annotated[
    Path | None,
    typer.Option(
        "--test-folder",
        help="The challenge's test images; the download that the workspace's data set is from by default.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add ``verify-submission``; ``build_submission`` adds the other one to its group."""
    group = typer.Typer(
        cls=CommandGroup, help="What an organiser would refuse, before uploading.", no_args_is_help=True
    )
    group.callback()(_verify_submission)
    group.command("archive")(verify)
    group.command("image")(verify_image.verify)
    app.add_typer(group, name="verify-submission")


def _verify_submission() -> None:
    """What an organiser would refuse, before uploading."""


def build(
    challenge: ChallengeOption,
    predictions: Annotated[Path, typer.Argument(help="Folder that nnbox predict wrote, or one of such task folders.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="WORKSPACE/submissions/CHALLENGE.zip by default.")
    ] = None,
    test_folder: TestFolderOption = None,
    option: ChallengeOptions = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Zip predictions as the leaderboard takes them, and verify the zip; one that would be refused is not kept.

    Example: nnbox build-submission archive --challenge acdc predictions --test-folder ACDC/database/testing -o acdc.zip
    """
    from nnunet_box.cli.common import challenge_options
    from nnunet_box.dataset.challenge import load_challenge
    from nnunet_box.submission.archive import build_archive

    adapter = load_challenge(challenge, challenge_options(option))
    parts = adapter.submission(_test_folder(workspace, challenge, test_folder))
    target = output or workspace / "submissions" / f"{challenge}.zip"
    built = build_archive(predictions, target, adapter.facts, parts)
    if built.left_out:
        more = f" and {len(built.left_out) - 5} more" if len(built.left_out) > 5 else ""
        say(f"left out: {', '.join(built.left_out[:5])}{more}")
    told = {"archive": str(target) if built.kept else None, "files": built.files, "left_out": list(built.left_out)}
    _tell(built.findings, told, as_json)
    if not built.kept:
        say(f"{target} was not written: it would be refused.")
        raise typer.Exit(VERIFICATION_FAILED)
    if not as_json:
        typer.echo(str(target))
    say(f"{built.files} files, {target.stat().st_size / 1e6:.1f} MB. Upload: {adapter.facts.submission}")


def verify(
    file: Annotated[Path, typer.Argument(help="The zip archive.")],
    challenge: ChallengeOption,
    test_folder: TestFolderOption = None,
    option: ChallengeOptions = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Open an archive again and list everything for which it would be refused; nothing is unpacked where it says.

    Ends with exit code 5 if it would be refused.

    Example: nnbox verify-submission archive acdc.zip --challenge acdc --test-folder ACDC/database/testing
    """
    from nnunet_box.cli.common import challenge_options
    from nnunet_box.dataset.challenge import load_challenge
    from nnunet_box.submission.verify import verify_archive

    adapter = load_challenge(challenge, challenge_options(option))
    parts = adapter.submission(_test_folder(workspace, challenge, test_folder))
    findings = verify_archive(file, adapter.facts, parts)
    errors = sum(finding.severity == "error" for finding in findings)
    _tell(findings, {"archive": str(file), "accepted": not errors}, as_json)
    say(
        f"{file}: {errors} errors, {len(findings) - errors} warnings in {sum(len(part.cases) for part in parts)} cases."
    )
    if errors:
        raise typer.Exit(VERIFICATION_FAILED)


def _tell(findings: Sequence[Finding], told: Mapping[str, object], as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        listed = [asdict(finding) for finding in findings]
        print_json(dict(told) | {"findings": listed})
        return
    for finding in findings:
        typer.echo(
            f"{finding.severity}: {finding.file}: expected {finding.expected}; found {finding.found}. {finding.fix}"
        )


def _test_folder(workspace: Path, challenge: str, given: Path | None) -> Path:
    """The folder given, or where the workspace's data set of this challenge was converted from."""
    from nnunet_box.errors import UsageError
    from nnunet_box.files import read_json

    if given is not None:
        return given
    records = [read_json(file) for file in sorted((workspace / "datasets").glob("[!.]*/cases.json"))]
    sources = sorted({str(record["source"]) for record in records if record.get("challenge") == challenge})
    if len(sources) == 1 and Path(sources[0]).is_dir():
        return Path(sources[0])
    raise UsageError(f"Give --test-folder DIR, the folder of {challenge}'s test images: names and grids come from it.")
