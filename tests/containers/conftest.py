"""A small bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from container_samples import make_bundle


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    """Folder of a bundle for the challenge acdc that keeps the largest component of label 2."""
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"
