"""One small run of the whole chain that the tests of this folder look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_run import TINY, nnbox

from nnbox_challenges.synthetic import write_acdc_cohort


@pytest.fixture(scope="session")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort as small as the planner takes: ten training patients, two to predict."""
    folder = tmp_path_factory.mktemp("download")
    write_acdc_cohort(folder, patients=10, test_patients=2, seed=5, size=32, slices=(4, 5))
    return folder


@pytest.fixture(scope="session")
def converted(download: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the converted cohort."""
    workspace = tmp_path_factory.mktemp("converted") / "nnbox"
    ended = nnbox("convert", "--challenge", "acdc", download / "database", "--workspace", workspace)
    assert ended.code == 0, ended.err
    return workspace


@pytest.fixture(scope="session")
def finished(converted: Path) -> Path:
    """The same workspace after ``train-all``."""
    ended = nnbox("train-all", "acdc", *TINY, "--workspace", converted)
    assert ended.code == 0, ended.err
    return converted
