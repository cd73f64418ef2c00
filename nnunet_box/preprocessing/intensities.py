"""Foreground intensity statistics in constant memory: per-case histograms that merge exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_box.planning.fingerprint import ChannelIntensities

MANTISSA_BITS_DROPPED = 11
"""Float data keep 12 of 23 mantissa bits (relative error below 2^-12), which bounds the number of distinct values;
integers stay exact."""


@dataclass(frozen=True)
class ValueHistogram:
    """Distinct values in rising order and how often each occurs."""

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, samples: NDArray[np.float32]) -> ValueHistogram:
        """Histogram of all ``samples``: exact for integral data, to 12 bits of mantissa otherwise."""
        samples = np.ascontiguousarray(samples, dtype=np.float32).ravel()
        if samples.size and np.any(samples != np.rint(samples)):
            bits = samples.view(np.uint32)
            half = np.uint32(1 << (MANTISSA_BITS_DROPPED - 1))
            keep = np.uint32(0xFFFFFFFF ^ ((1 << MANTISSA_BITS_DROPPED) - 1))
            samples = ((bits + half) & keep).view(np.float32)
        values, counts = np.unique(samples, return_counts=True)
        return cls(values.astype(np.float64), counts.astype(np.int64))

    def merge(self, other: ValueHistogram) -> ValueHistogram:
        """The histogram of both sets of samples together."""
        values, where = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        return ValueHistogram(values, counts)

    def quantile(self, fraction: float) -> float:
        """Linear-interpolated quantile, as numpy's default on the expanded samples."""
        total = int(self.counts.sum())
        position = fraction * (total - 1)
        ends = np.cumsum(self.counts)
        lower = self.values[np.searchsorted(ends, np.floor(position), side="right")]
        upper = self.values[np.searchsorted(ends, np.ceil(position), side="right")]
        return float(lower + (upper - lower) * (position - np.floor(position)))

    def intensities(self) -> ChannelIntensities:
        """Statistics of a channel's foreground; all zero where there is no foreground voxel."""
        if not len(self.values):
            return ChannelIntensities(
                mean=0, sd=0, percentile_00_5=0, percentile_99_5=0, median=0, minimum=0, maximum=0
            )
        total = float(self.counts.sum())
        mean = float((self.values * self.counts).sum() / total)
        variance = float((self.counts * (self.values - mean) ** 2).sum() / total)
        return ChannelIntensities(
            mean=mean,
            sd=float(np.sqrt(variance)),
            percentile_00_5=self.quantile(0.005),
            percentile_99_5=self.quantile(0.995),
            median=self.quantile(0.5),
            minimum=float(self.values[0]),
            maximum=float(self.values[-1]),
        )


EMPTY = ValueHistogram(np.zeros(0), np.zeros(0, dtype=np.int64))
