"""What a NIfTI header says about space, and where it contradicts itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.quaternions import fillpositive, quat2mat
from numpy.typing import NDArray

from nnunet_box.dataset.geometry import Geometry

SAME_AFFINE_MM = 1e-3
"""Two affines closer than this describe the same grid."""


def form_problems(geometry: Geometry, header: dict[str, Any]) -> list[str]:
    """How a file's qform, sform and ``pixdim`` contradict each other, and what is done about it where the file is
    written anew from ``geometry``; empty where they agree, and for other formats.

    geometry, header: as ``volumes.read_header`` gives them.
    """
    if header["format"] != "nifti":
        return []
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        return ["no qform or sform declared; both set from pixdim and the header's default direction"]
    if header["sform_code"] > 0:
        srow = np.asarray(header["srow"])
        if not np.allclose(np.linalg.norm(srow[:, :3], axis=0)[::-1], geometry.spacing, atol=SAME_AFFINE_MM):
            spacing = " x ".join(f"{value:g}" for value in geometry.spacing[::-1])
            return [f"affine disagreed with pixdim; qform and sform set from pixdim ({spacing} mm along x, y, z)"]
        qform = _qform(header) if header["qform_code"] > 0 else None
        if header["qform_code"] > 0 and (qform is None or not np.allclose(qform, srow, atol=SAME_AFFINE_MM)):
            return ["qform and sform disagreed; both set from sform"]
    return []


def _qform(header: dict[str, Any]) -> NDArray[np.float64] | None:
    """The qform, 3x4 in RAS millimetres, as the NIfTI-1 standard builds it: rotation, ``pixdim``, and a sign for the
    third axis; None where the quaternion is longer than 1, and so no rotation.
    """
    zooms = np.asarray(header["pixdim"][1:4]) * (1.0, 1.0, -1.0 if header["pixdim"][0] < 0 else 1.0)
    try:
        rotation = quat2mat(fillpositive(header["quaternion"])) * zooms
    except ValueError:
        return None
    return np.column_stack([rotation, header["qoffset"]])
