"""How much disk the preprocessed cases take at most, by the fingerprint: told before hours are spent."""

from __future__ import annotations

from nnunet_box.dataset.dataset import Dataset
from nnunet_box.planning.fingerprint import load_fingerprint
from nnunet_box.planning.plan import Plan
from nnunet_box.preprocessing.pipeline import target_spacing
from nnunet_box.preprocessing.resample import resampled_shape
from nnunet_box.preprocessing.store import most_bytes
from nnunet_box.workspace import Workspace


def stored_bytes(workspace: Workspace, dataset: Dataset, plan: Plan, entry: str) -> dict[str, int]:
    """Case id to the most its stored case takes in the configuration ``entry``; empty where there is no fingerprint of
    these cases. A case that shares another's image takes less.
    """
    if not workspace.fingerprint.is_file():
        return {}
    fingerprint = load_fingerprint(workspace.fingerprint)
    cases = len(dataset.cases)
    if cases != fingerprint.cases:
        return {}
    # One entry stands for all.
    spacings = fingerprint.spacings * (cases if len(fingerprint.spacings) == 1 else 1)
    sizes = fingerprint.sizes * (cases if len(fingerprint.sizes) == 1 else 1)
    found = {}
    for case, size, spacing in zip(dataset.cases, sizes, spacings, strict=True):
        target = target_spacing(plan.configurations[entry], spacing)
        z, y, x = resampled_shape(size, spacing, target)
        found[case.id] = most_bytes(z * y * x, len(plan.channel_names), len(plan.labels) - 1)
    return found
