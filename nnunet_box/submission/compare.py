"""One prediction beside another of the same case: how many voxels agree, and whether a leaderboard takes the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.dataset.challenge import SubmissionForm
from nnunet_box.dataset.volumes import read_header, read_volume
from nnunet_box.errors import InvalidData
from nnunet_box.submission.verify import Wanted, content_findings


def different_voxels(file: Path, reference: Path) -> tuple[int, int]:
    """How many voxels of two label maps differ, and how many there are.

    Raises
    ------
    InvalidData: one cannot be read, or their shapes differ.
    """
    ours, theirs = read_volume(reference).array, read_volume(file).array
    if ours.shape != theirs.shape:
        fix = "Bring it back to the image's grid."
        raise InvalidData(file, f"shape {ours.shape} (Z, Y, X)", f"{theirs.shape}", fix)
    return int(np.count_nonzero(ours != theirs)), ours.size


def file_problems(file: Path, case: SourceCase, labels: frozenset[int], form: SubmissionForm) -> tuple[str, ...]:
    """Everything for which a leaderboard would refuse the file of a case's prediction, a sentence each."""
    try:
        image = read_header(case.reference_file)[0]
        findings = list(content_findings(file, Wanted((file.name,), case, labels), image, form))
    except InvalidData as problem:
        return (f"expected {problem.expected}; found {problem.found}. {problem.fix}",)
    wrong = [finding for finding in findings if finding.severity == "error"]
    return tuple(f"expected {finding.expected}; found {finding.found}. {finding.fix}" for finding in wrong)
