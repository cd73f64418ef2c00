"""A small cohort, converted and planned, as several tests of this room begin with."""

from __future__ import annotations

from pathlib import Path

from nnbox_challenges.acdc import Acdc
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.execution.prepare import plan_dataset
from nnunet_box.workspace import Workspace


def planned_cohort(download: Path, root: Path) -> tuple[Workspace, Dataset]:
    """Convert ACDC's ``download`` into the workspace ``root`` and plan it small; nothing is preprocessed or trained."""
    adapter = Acdc()
    adapter.convert(adapter.recognise(download), root / "datasets" / "acdc")
    workspace, dataset = Workspace(root, "acdc"), load_dataset(root / "datasets" / "acdc")
    plan_dataset(workspace, dataset, memory_gb=1.0, processes=1)
    return workspace, dataset
