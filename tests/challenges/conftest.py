"""Tiny downloads a test may damage, and converting them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_downloads import write_acdc, write_decathlon


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    write_decathlon(folder / "Task09_Spleen")
    write_acdc(folder / "ACDC" / "database")
    return folder


@pytest.fixture
def decathlon(_prepared: Path, tmp_path: Path) -> Path:
    """A task of its own that the test may damage."""
    return Path(shutil.copytree(_prepared / "Task09_Spleen", tmp_path / "download" / "Task09_Spleen"))


@pytest.fixture
def acdc(_prepared: Path, tmp_path: Path) -> Path:
    """ACDC's ``database`` folder, of its own, that the test may damage."""
    return Path(shutil.copytree(_prepared / "ACDC", tmp_path / "download" / "ACDC")) / "database"


@pytest.fixture
def converted(tmp_path: Path) -> Callable[[Any, Path], Path]:
    """Recognise and convert a download; returns the data set's folder."""

    def run(adapter: Any, source: Path) -> Path:
        recognition = adapter.recognise(source)
        destination = tmp_path / "ws" / "datasets" / recognition.dataset_name
        adapter.convert(recognition, destination)
        return destination

    return run
