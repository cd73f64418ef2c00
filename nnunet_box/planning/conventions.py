"""How a model wants its cases prepared and its outputs averaged: the paper's way, or that of a model made elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Order = Literal[0, 1, 3]
"""Interpolation order: nearest, linear, cubic spline."""

ConventionsName = Literal["paper", "nnunet-v2"]


@dataclass(frozen=True)
class Conventions:
    """What differs between the two; everything else is the same code.

    normalise_first: intensities are normalised before resampling, inside the nonzero mask of the file's grid.
    within_range: a cubic spline's overshoot is cut to the range of what was interpolated, slice by slice where an axis
    is treated apart. network_grid_first: on the way back the network's spacing decides which axis is treated apart, and
    the file's only after it. average_logits: networks, windows and mirrored copies are averaged before the softmax.
    half_precision: sums over windows and networks, and what is resampled of them, are rounded to float16.
    separate_outside: a previous stage's background is resampled as two labels, inside and outside the nonzero mask.
    nearest_ties: a voxel of it halfway between labels takes the nearest voxel's, not the larger.
    weighting: the Gaussian's name in ``inference/tiles.py``.
    """

    normalise_first: bool = False
    within_range: bool = False
    network_grid_first: bool = False
    average_logits: bool = False
    half_precision: bool = False
    separate_outside: bool = False
    nearest_ties: bool = False
    weighting: str = "gaussian"


CONVENTIONS: dict[str, Conventions] = {
    "paper": Conventions(),
    "nnunet-v2": Conventions(
        normalise_first=True,
        within_range=True,
        network_grid_first=True,
        average_logits=True,
        half_precision=True,
        separate_outside=True,
        nearest_ties=True,
        weighting="gaussian-v2",
    ),
}
"""``nnunet-v2``: nnU-Net 2.8.1's ``DefaultPreprocessor``, ``nnUNetPredictor`` and ``export_prediction``."""


class Interpolation(BaseModel):
    """Interpolation orders of one kind of volume, as nnU-Net v2's plans state them.

    order: along the axes, and order_apart: along an axis treated apart. apart: ``auto`` where the spacing is
    anisotropic by more than 3 (the paper's rule), ``always`` along the coarsest axis, or ``never``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: Order
    order_apart: Order = 0
    apart: Literal["auto", "always", "never"] = "auto"


class Resampling(BaseModel):
    """How images, label maps and a network's outputs are resampled. The defaults are the paper's (Method)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Interpolation = Interpolation(order=3)
    labels: Interpolation = Interpolation(order=1)
    outputs: Interpolation = Interpolation(order=1)


PAPER_RESAMPLING = Resampling()
