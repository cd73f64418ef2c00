"""Writing the archive a leaderboard takes: the same files give the same bytes."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunet_box.dataset.challenge import ChallengeFacts, SubmissionPart
from nnunet_box.dataset.findings import Finding
from nnunet_box.errors import InvalidData, NnboxError
from nnunet_box.files import write_beside
from nnunet_box.submission.members import CHUNK
from nnunet_box.submission.verify import verify_archive, wanted

FIRST_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest a zip can say; the files' own times would make every archive another one."""

REGULAR_FILE = 0o100644 << 16
UNIX = 3


@dataclass(frozen=True)
class Built:
    """What became of an archive. left_out: names in the folder of predictions that no test case asks for."""

    kept: bool
    files: int
    left_out: tuple[str, ...]
    findings: tuple[Finding, ...]


class _Refused(NnboxError):
    """Ends the writing of an archive that would not be taken."""


def build_archive(predictions: Path, output: Path, facts: ChallengeFacts, parts: Sequence[SubmissionPart]) -> Built:
    """Zip the predictions of all test cases to ``output`` and verify what was written; kept only if it would be taken.

    predictions: a folder of files, or of the parts' folders.

    Raises
    ------
    InvalidData: no folder, or none of the predictions in it. NnboxError: the archive cannot be written.
    """
    if not predictions.is_dir():
        raise InvalidData(predictions, "a folder of predictions", "no such folder", "Run nnbox predict first.")
    names = [name for item in wanted(parts, facts.form) for name in item.names]
    sources = {name: file for name in names if (file := _source(predictions, name, len(parts))) is not None}
    if not sources:
        found = ", ".join(sorted(path.name for path in predictions.iterdir())[:6]) or "an empty folder"
        raise InvalidData(predictions, f"predictions such as {names[0]}", found, "Run nnbox predict --challenge.")
    used = set(sources.values())
    left_out = tuple(
        sorted(
            path.relative_to(predictions).as_posix()
            for path in predictions.rglob("*")
            if path.is_file() and path not in used
        )
    )
    findings: list[Finding] = []
    try:
        with write_beside(output, sum(file.stat().st_size for file in used)) as temporary:
            _write(temporary, sources)
            findings = verify_archive(temporary, facts, parts)
            if any(finding.severity == "error" for finding in findings):
                raise _Refused
    except _Refused:
        return Built(False, len(sources), left_out, tuple(findings))
    return Built(True, len(sources), left_out, tuple(findings))


def _source(predictions: Path, name: str, parts: int) -> Path | None:
    """The file for a name in the archive: under that name, or, where there is one part, without its folder."""
    places = [predictions / name]
    if parts == 1:
        places.append(predictions / PurePosixPath(name).name)
    return next((place for place in places if place.is_file()), None)


def _write(path: Path, sources: dict[str, Path]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, FIRST_TIME)
            info.create_system, info.external_attr = UNIX, REGULAR_FILE
            info.file_size = sources[name].stat().st_size
            # What is compressed already only grows.
            info.compress_type = zipfile.ZIP_STORED if name.endswith(".gz") else zipfile.ZIP_DEFLATED
            with sources[name].open("rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, CHUNK)
