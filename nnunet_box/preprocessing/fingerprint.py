"""The data set's fingerprint, read off the images (paper, Method: what the plan is a function of)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_box.dataset.cases import SourceCase, read_image, read_labelled
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.files import write_json
from nnunet_box.parallel import map_cases
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.preprocessing.crop import bounding_box, box_slices, nonzero_mask
from nnunet_box.preprocessing.intensities import EMPTY, ValueHistogram


@dataclass(frozen=True)
class CaseFacts:
    """What one case adds to the fingerprint. size: (Z, Y, X) after cropping; ratio: voxels after over before."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    ratio: float
    histograms: tuple[ValueHistogram, ...]


def case_facts(case: SourceCase, declared: frozenset[int]) -> CaseFacts:
    """Read one case and measure it.

    Raises
    ------
    InvalidData: as ``read_labelled`` does.
    """
    labels = None
    if case.label is None:
        image, geometry = read_image(case)
    else:
        image, labels, geometry = read_labelled(case, case.label, set(declared))
    mask = nonzero_mask(image)
    box = bounding_box(mask)
    size = (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])
    histograms: tuple[ValueHistogram, ...] = tuple(EMPTY for _ in image)
    if labels is not None:
        foreground = labels[box_slices(box)] > 0
        inside = (slice(None), *box_slices(box))
        histograms = tuple(ValueHistogram.of(channel[foreground]) for channel in image[inside])
    return CaseFacts(size, geometry.spacing, float(np.prod(size)) / image[0].size, histograms)


def extract_fingerprint(dataset: Dataset, processes: int | None = None) -> Fingerprint:
    """Fingerprint of all training cases, streaming: one case in memory a process, and one histogram a channel.

    Raises
    ------
    InvalidData: any case that cannot be read or whose label does not fit it.
    """
    measure = partial(case_facts, declared=frozenset(dataset.labels))
    found: dict[str, CaseFacts] = {}
    merged = [EMPTY] * len(dataset.channel_names)
    with closing(map_cases(measure, dataset.cases, "Fingerprint", processes)) as measured:
        for case, facts in measured:
            # Merging is exact, so the order does not matter, and no case's histogram need be kept.
            merged = [total.merge(histogram) for total, histogram in zip(merged, facts.histograms, strict=True)]
            found[case.id] = replace(facts, histograms=())
    ordered = [found[case.id] for case in dataset.cases]
    return Fingerprint(
        spacings=tuple(facts.spacing for facts in ordered),
        sizes=tuple(facts.size for facts in ordered),
        cases=len(ordered),
        modalities=dataset.channel_names,
        foreground_classes=len(dataset.foreground_labels),
        size_after_crop_ratio=float(np.median([facts.ratio for facts in ordered])),
        intensities=tuple(histogram.intensities() for histogram in merged),
    )


def write_fingerprint(file: Path, fingerprint: Fingerprint) -> None:
    """Write ``fingerprint.json``."""
    write_json(file, fingerprint.model_dump(mode="json", exclude_none=True))
