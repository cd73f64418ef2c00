"""Intensity normalisation (paper, Method: CT by global foreground statistics, everything else case by case)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nnunet_box.planning.fingerprint import ChannelIntensities

SMALLEST_DEVIATION = 1e-8


def normalise(
    image: NDArray[np.float32],
    schemes: Sequence[str],
    intensities: Sequence[ChannelIntensities] | None,
    mask: NDArray[np.bool_] | None,
) -> None:
    """Normalise (C, Z, Y, X) in place, channel by channel.

    ``ct``: clip to the 0.5 and 99.5 percentiles of all training foreground, subtract its mean, divide by its deviation.
    ``zscore``: the case's own mean and deviation; with ``mask`` (Z, Y, X) taken inside it, and zero outside.
    ``none``, ``rescale-01`` (the case's least and largest value to 0 and 1), ``rgb-01`` (0 to 255 to 0 to 1): nnU-Net
    v2's further schemes, for models imported from it.

    Raises
    ------
    ValueError: an unknown scheme, or ``ct`` without training intensities.
    """
    for index, (channel, scheme) in enumerate(zip(image, schemes, strict=True)):
        if scheme == "ct":
            if intensities is None:
                raise ValueError("CT normalisation needs the training data's intensities in the plan")
            facts = intensities[index]
            np.clip(channel, facts.percentile_00_5, facts.percentile_99_5, out=channel)
            channel -= facts.mean
            channel /= max(facts.sd, SMALLEST_DEVIATION)
        elif scheme == "zscore":
            inside = channel[mask] if mask is not None and mask.any() else channel
            mean = float(inside.mean(dtype=np.float64))
            deviation = float(inside.std(dtype=np.float64))
            channel -= mean
            channel /= deviation + SMALLEST_DEVIATION
            if mask is not None:
                channel[~mask] = 0
        elif scheme == "rescale-01":
            channel -= channel.min()
            channel /= max(float(channel.max()), SMALLEST_DEVIATION)
        elif scheme == "rgb-01":
            channel /= 255
        elif scheme != "none":
            raise ValueError(f"normalisation {scheme!r}: ct, zscore, none, rescale-01 or rgb-01")
