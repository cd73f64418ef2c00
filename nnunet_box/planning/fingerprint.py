"""The fingerprint: what planning knows of a data set. Numbers only, so that a plan can be made without the images."""

from __future__ import annotations

from itertools import pairwise
from math import isclose
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from nnunet_box.errors import InvalidData
from nnunet_box.files import read_json

Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Voxels = Annotated[int, Field(ge=1)]
EXAMPLE = (
    'Write it as {"spacings": [[3.6, 0.625, 0.625]], "sizes": [[20, 320, 320]], "cases": 32, '
    '"modalities": ["T2", "ADC"], "foreground_classes": 2, "size_after_crop_ratio": 1.0}.'
)


class ChannelIntensities(BaseModel):
    """Intensities of one channel over every foreground voxel of the training cases, in the files' own units.

    Paper, Method: the 0.5 and 99.5 percentiles, mean and standard deviation normalise CT; the others describe the data.
    """

    model_config = ConfigDict(frozen=True)

    mean: FiniteFloat
    sd: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    percentile_00_5: FiniteFloat
    percentile_99_5: FiniteFloat
    median: FiniteFloat
    minimum: FiniteFloat
    maximum: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> ChannelIntensities:
        order = (self.minimum, self.percentile_00_5, self.median, self.percentile_99_5, self.maximum)
        # Quantiles are interpolated, so one may pass its neighbour by a rounding error.
        if any(low > high and not isclose(low, high) for low, high in pairwise(order)):
            raise ValueError("minimum, percentile_00_5, median, percentile_99_5, maximum must not fall")
        return self


class Fingerprint(BaseModel):
    """Properties of the training cases (paper, Method: the data set's properties that the configuration follows from).

    spacings: mm along (Z, Y, X), one entry a case, or one that stands for all.
    sizes: voxels along (Z, Y, X) after cropping to nonzero, one entry a case, or one that stands for all.
    cases: number of training cases. modalities: channel names, in channel order.
    foreground_classes: labels besides the background.
    size_after_crop_ratio: median over cases of voxels after cropping / voxels before.
    intensities: one entry a channel; None where planning alone is wanted.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    spacings: Annotated[tuple[tuple[Length, Length, Length], ...], Field(min_length=1)]
    sizes: Annotated[tuple[tuple[Voxels, Voxels, Voxels], ...], Field(min_length=1)]
    cases: Annotated[int, Field(ge=1)]
    modalities: Annotated[tuple[str, ...], Field(min_length=1)]
    foreground_classes: Annotated[int, Field(ge=1)]
    size_after_crop_ratio: Annotated[float, Field(gt=0, le=1)]
    intensities: tuple[ChannelIntensities, ...] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Fingerprint:
        for name, entries in (("spacings", len(self.spacings)), ("sizes", len(self.sizes))):
            if entries not in (1, self.cases):
                raise ValueError(f"{name}: {entries} entries for {self.cases} cases; give one a case or one for all")
        if self.intensities is not None and len(self.intensities) != len(self.modalities):
            raise ValueError(f"intensities: {len(self.intensities)} entries for {len(self.modalities)} modalities")
        return self


def describe_errors(error: ValidationError) -> str:
    """What pydantic found wrong, in one line: ``sizes.0.1: Input should be greater than or equal to 1``."""

    def one(detail: Any) -> str:
        place = ".".join(str(part) for part in detail["loc"])
        return f"{place}: {detail['msg']}" if place else str(detail["msg"])

    return "; ".join(one(detail) for detail in error.errors(include_url=False))


def load_fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint, ours or one written by hand (``schema_version`` may then be left out).

    Raises
    ------
    InvalidData: the file is missing, is not JSON, or a value is missing or impossible.
    """
    value = read_json(path)
    try:
        return Fingerprint.model_validate(value)
    except ValidationError as error:
        raise InvalidData(path, "a fingerprint", describe_errors(error), EXAMPLE) from error
