"""Bytes a voxel that converted files, case stores and validation probabilities take, into ``measured.json``.

    PYTHONPATH=benchmarks python -m scale.measure --data DIR [--models WORKSPACE/models/NAME ...]

DIR holds real downloads, whole or in part (``DOWNLOADS``); each is converted, planned and preprocessed in a folder that
goes again. ``--models``: what nnbox train made of real data; its validation probabilities are measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path

from scale.__main__ import HERE, kept

from nnunet_box.dataset.challenge import load_challenge
from nnunet_box.dataset.dataset import Dataset, load_dataset
from nnunet_box.execution.prepare import plan_dataset, preprocess_configurations
from nnunet_box.inference.export import PROBABILITIES_SUFFIX
from nnunet_box.preprocessing.store import IMAGE, open_case
from nnunet_box.workspace import Workspace

DOWNLOADS = (
    ("CT", "bcv", "BCV_like"),
    ("MR", "decathlon", "MSD/Task04_Hippocampus"),
    ("MR", "acdc", "ACDC/database"),
    ("MR", "promise12", "PROMISE12"),
    ("brain", "decathlon", "MSD_like/Task01_BrainTumour_2ch_2mm"),
    ("brain", "ms_lesions", "MS_lesions"),
)
"""Kind of image (``datasets.json``), challenge, and where its download lies in DIR."""

Sizes = Counter[str]
"""Bytes, and voxels of the files of one channel (``file``) and of the stores (``store``)."""


def files_sizes(dataset: Dataset) -> Sizes:
    """Of the converted training images and their labels."""
    found: Sizes = Counter()
    for case in dataset.cases:
        assert case.label is not None
        images = {channel.path for channel in case.channels}
        found["image_file"] += sum(path.stat().st_size for path in images) / len(images)
        found["label_file"] += case.label.stat().st_size
    return found


def store_sizes(store: Path, cases: Iterable[str]) -> Sizes:
    """Of preprocessed cases: the image's bytes of one channel, and those of the label map."""
    found: Sizes = Counter()
    for case_id in cases:
        case = open_case(store, case_id)
        image = (store / case_id / IMAGE).stat().st_size
        found["store_image"] += image / case.image.shape[0]
        found["store_labels"] += (store / case_id / "labels.b2nd").stat().st_size
        found["store"] += prod(case.shape)
    return found


def download_sizes(challenge: str, source: Path, folder: Path) -> Sizes:
    """Convert, plan and preprocess a download."""
    adapter = load_challenge(challenge, {})
    recognition = adapter.recognise(source)
    destination = folder / "datasets" / recognition.dataset_name
    adapter.convert(recognition, destination)
    dataset = load_dataset(destination)
    workspace = Workspace(folder, dataset.name)
    plan = plan_dataset(workspace, dataset)
    found = files_sizes(dataset)
    for record in json.loads((destination / "cases.json").read_text(encoding="utf-8"))["cases"]:
        if record["split"] == "train":
            found["file"] += prod(record["geometry"]["shape"])
    for store in preprocess_configurations(workspace, dataset, plan, list(plan.models)):
        found += store_sizes(store, [case.id for case in dataset.cases])
    return found


def probabilities_share(models: Iterable[Path]) -> float:
    """Bytes of stored validation probabilities over those of the same numbers uncompressed."""
    import blosc2

    stored = whole = 0
    for file in (file for folder in models for file in folder.rglob(f"*{PROBABILITIES_SUFFIX}")):
        array = blosc2.open(str(file), mode="r")
        stored += file.stat().st_size
        whole += prod(array.shape) * array.dtype.itemsize
    return stored / whole


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    measured = kept("measured.json")
    kinds: dict[str, Sizes] = {kind: Counter() for kind, _, _ in DOWNLOADS}
    for kind, challenge, place in DOWNLOADS:
        with tempfile.TemporaryDirectory() as folder:
            found = download_sizes(challenge, given.data / place, Path(folder))
        print(challenge, place, shares(found))
        kinds[kind] += found
    measured["bytes"]["kinds"] = {kind: shares(found) for kind, found in kinds.items()}
    if given.models:
        measured["bytes"]["probabilities"] = round(probabilities_share(given.models), 3)
    (HERE / "measured.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def shares(found: Sizes) -> dict[str, float]:
    """Bytes a voxel."""
    voxels = {"image_file": "file", "label_file": "file", "store_image": "store", "store_labels": "store"}
    return {name: round(found[name] / found[of], 3) for name, of in voxels.items()}


if __name__ == "__main__":
    main()
