"""What a data set's training cases are like: grids, volumes of the structures, intensities; measured once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from nnunet_box.dataset.cases import SourceCase, read_image, read_labelled
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json, write_json
from nnunet_box.parallel import map_cases
from nnunet_box.planning.planner import is_ct

CT_RANGE, SCORE_RANGE = (-1100.0, 1900.0), (-3.0, 7.0)
"""Of the histograms: Hounsfield units for CT, otherwise deviations from the mean of a case's nonzero voxels."""
BINS = 100
MM3_A_ML = 1000.0


class Measured(BaseModel):
    """One case. shape: voxels (Z, Y, X). spacing: mm (Z, Y, X). volumes: ml of each label that is declared, 0 where it
    does not occur; empty where the case has no label.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    volumes: dict[int, float]


class Histogram(BaseModel):
    """A channel's intensities over all cases, each case counting the same; shares of ``BINS`` bins.

    least, largest: ends of the bins, in ``unit``. voxels: of the whole image (of other than CT its nonzero voxels).
    structures: by label, over the cases that have it.
    """

    model_config = ConfigDict(frozen=True)

    channel: str
    unit: str
    least: float
    largest: float
    voxels: tuple[float, ...]
    structures: dict[int, tuple[float, ...]]


class Cohort(BaseModel):
    """All training cases in the order of their ids. key: of the data set's contents they were measured on."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    key: str
    cases: tuple[Measured, ...]
    histograms: tuple[Histogram, ...]


Shares = dict[int, NDArray[np.float64]]
"""By label, 0 for all voxels: what share of them lies in each bin."""


def known_cohort(file: Path, key: str) -> Cohort | None:
    """What ``file`` holds, where it is of the contents ``key`` and one of ours."""
    try:
        cohort = Cohort.model_validate(read_json(file, schema_version=1))
    except (InvalidData, ValidationError):
        return None
    return cohort if cohort.key == key else None


def measure_cohort(file: Path, key: str, dataset: Dataset, processes: int | None = None) -> Cohort:
    """Read every training case once, one in memory a process, and keep the result in ``file``; read from there where it
    is of the same contents.

    Raises
    ------
    InvalidData: a case cannot be read or its label does not fit it. NnboxError: the disk is full.
    """
    known = known_cohort(file, key)
    if known is not None:
        return known
    measure = partial(measured_case, channels=dataset.channel_names, labels=tuple(dataset.foreground_labels))
    found: dict[str, Measured] = {}
    totals: list[Shares] = [{} for _ in dataset.channel_names]
    counts: list[dict[int, int]] = [{} for _ in dataset.channel_names]
    with closing(map_cases(measure, dataset.cases, "Measuring the cases for the report", processes)) as results:
        for case, (facts, shares) in results:
            found[case.id] = facts
            for total, count, share in zip(totals, counts, shares, strict=True):
                for label, values in share.items():
                    total[label] = total.get(label, 0.0) + values
                    count[label] = count.get(label, 0) + 1
    cohort = Cohort(
        key=key,
        cases=tuple(found[case.id] for case in dataset.cases),
        histograms=tuple(
            _histogram(name, total, count)
            for name, total, count in zip(dataset.channel_names, totals, counts, strict=True)
        ),
    )
    write_json(file, cohort.model_dump(mode="json"))
    return cohort


def measured_case(
    case: SourceCase, channels: tuple[str, ...], labels: tuple[int, ...]
) -> tuple[Measured, tuple[Shares, ...]]:
    """Grid and volumes of a case, and the shares of its intensities, channel by channel.

    Raises
    ------
    InvalidData: it cannot be read or its label does not fit it.
    """
    values: NDArray[np.uint8] | None = None
    if case.label is None:
        image, geometry = read_image(case)
    else:
        image, values, geometry = read_labelled(case, case.label, {0, *labels})
    volumes: dict[int, float] = {}
    if values is not None:
        ml = float(np.prod(geometry.spacing)) / MM3_A_ML
        counts = np.bincount(values.ravel(), minlength=256)
        volumes = {label: round(float(counts[label]) * ml, 4) for label in labels}
    shares = tuple(_shares(channel, is_ct(name), values, labels) for channel, name in zip(image, channels, strict=True))
    return Measured(id=case.id, shape=geometry.shape, spacing=geometry.spacing, volumes=volumes), shares


def _shares(
    channel: NDArray[np.float32], ct: bool, values: NDArray[np.uint8] | None, labels: tuple[int, ...]
) -> Shares:
    least, largest = CT_RANGE if ct else SCORE_RANGE
    inside = np.ones(channel.shape, dtype=bool) if ct else channel != 0
    offset, scale = 0.0, 1.0
    if not ct and inside.any():
        chosen = channel[inside]
        offset, scale = float(chosen.mean(dtype=np.float64)), max(float(chosen.std(dtype=np.float64)), 1e-8)
    # Bins by multiplication: np.histogram would sort edges for every structure.
    bins = (channel - np.float32(offset)) * np.float32(BINS / (scale * (largest - least)))
    bins -= np.float32(least * BINS / (largest - least))
    places = np.clip(bins, 0, BINS - 1).astype(np.uint8)
    found: Shares = {}
    for label in (0, *(labels if values is not None else ())):
        chosen_places = places[inside] if label == 0 else places[values == label]
        if chosen_places.size:
            found[label] = np.bincount(chosen_places, minlength=BINS) / chosen_places.size
    return found


def _histogram(channel: str, total: Mapping[int, NDArray[np.float64]], count: Mapping[int, int]) -> Histogram:
    least, largest = CT_RANGE if is_ct(channel) else SCORE_RANGE
    mean = {label: tuple(round(float(value), 6) for value in total[label] / count[label]) for label in total}
    return Histogram(
        channel=channel,
        unit="HU" if is_ct(channel) else "deviations from the case's mean",
        least=least,
        largest=largest,
        voxels=mean.pop(0, (0.0,) * BINS),
        structures=mean,
    )
