"""Data sets that both sides are given, in nnU-Net v2's raw layout."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from measuring import DATA_VARIABLE

NAME = "Dataset004_Hippocampus"


def scratch(name: str) -> Path:
    """A new folder beside the side's result, which ``compare.py`` removes."""
    folder = Path(sys.argv[2]).parent / name
    folder.mkdir()
    return folder


def hippocampus(folder: Path) -> Path:
    """The Decathlon's hippocampus cases as links below ``folder``."""
    source = Path(os.environ[DATA_VARIABLE]) / "Task04_Hippocampus"
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    files = sorted(file for file in (source / "imagesTr").glob("*.nii.gz") if not file.name.startswith("."))
    target = raw_folder(folder / NAME, {"0": "MRI"}, labels, len(files))
    for file in files:
        case = file.name.removesuffix(".nii.gz")
        (target / "imagesTr" / f"{case}_0000.nii.gz").symlink_to(file.resolve())
        (target / "labelsTr" / file.name).symlink_to((source / "labelsTr" / file.name).resolve())
    return target


def raw_folder(target: Path, channels: dict[str, str], labels: dict[str, int], cases: int) -> Path:
    """A raw data set without its images."""
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True)
    declared = {"channel_names": channels, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    (target / "dataset.json").write_text(json.dumps(declared))
    return target
