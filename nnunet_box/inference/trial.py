"""Drawn cases of the size a plan was made for, to try a model on where no real one is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.channels import write_image
from nnunet_box.dataset.geometry import Geometry
from nnunet_box.dataset.phantom import AIR_CT, Look, draw_phantom
from nnunet_box.planning.plan import Plan


def median_grid(plan: Plan) -> Geometry:
    """The grid of the plan's typical case: median shape and spacing of its finest configuration."""
    finest = max(plan.configurations.values(), key=lambda configuration: int(np.prod(configuration.median_shape)))
    return Geometry(finest.median_shape, finest.spacing)


def draw_cases(plan: Plan, folder: Path, count: int, seed: int = 0) -> tuple[SourceCase, ...]:
    """Write ``count`` cases of the median size into ``folder`` as ``drawn_N_0000.nii.gz``, and say where they are.

    CT channels have the intensities of the plan's fingerprint and air at -1000 HU; others are drawn as MR images with
    zeros around the body.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    looks = []
    for channel, kind in enumerate(plan.normalisation):
        known = plan.intensities[channel] if plan.intensities is not None and kind == "ct" else None
        looks.append(Look(known.mean, known.sd, AIR_CT) if known is not None else Look())
    grid = median_grid(plan)
    cases = []
    for number in range(count):
        name = f"drawn_{number}"
        image = draw_phantom(grid.shape, looks, seed + number)
        files = []
        for channel, voxels in enumerate(image):
            file = folder / f"{name}_{channel:04d}.nii.gz"
            write_image(file, voxels.astype(np.int16), grid)
            files.append(ChannelFile(file))
        cases.append(SourceCase(name, name, tuple(files), output_name=f"{name}.nii.gz"))
    return tuple(cases)
