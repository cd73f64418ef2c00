"""Three planes of a case as SVG: grey values as a picture, outlines of reference and prediction as paths on top."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from nnunet_box.dataset.geometry import Geometry
from nnunet_box.report.overlay import WINDOW_PERCENTILES

PLANES: tuple[Literal["axial", "coronal", "sagittal"], ...] = ("axial", "coronal", "sagittal")
MARGIN_MM = 20.0
"""Of the image shown around what is labelled."""
MOST_PIXELS = 300
"""Longer side of a plane's picture; outlines are vectors and stay sharp."""
QUALITY = 72
TOLERANCE_VOXELS = 0.2
"""How far a simplified outline may be off: it is invisible, and halves the page."""
MOST_CHARACTERS = 40_000
"""Of a plane's outlines: eight times what ACDC's frames need. Of a network that has learned nothing, thousands of
islands, the longest are drawn, or a page would have tens of MB.
"""
SHORTEST = 30
"""Characters of the outline of one voxel."""


@dataclass(frozen=True)
class Plane:
    """One plane, as a person looks at it. width, height: mm. picture: WebP in base64. reference, prediction: label to
    an SVG path in mm from the upper left corner.
    """

    name: str
    width: float
    height: float
    picture: str
    reference: Mapping[int, str]
    prediction: Mapping[int, str]


def case_planes(
    image: NDArray[Any], reference: NDArray[np.uint8], prediction: NDArray[np.uint8], geometry: Geometry
) -> list[Plane]:
    """Axial, coronal and sagittal plane through what is labelled, where most of it lies, 20 mm of image around.

    image, reference, prediction: (Z, Y, X) on ``geometry``'s grid. As radiologists look at them by what the header
    says: the patient's right on the left, anterior and superior up, in the sagittal plane anterior on the left.

    Raises
    ------
    ValueError: the arrays differ in shape.
    """
    if not image.shape == reference.shape == prediction.shape:
        raise ValueError(f"image {image.shape}, reference {reference.shape}, prediction {prediction.shape}")
    marked = (reference > 0) | (prediction > 0)
    box = _box(marked, geometry.spacing)
    turned = _Turned.of(geometry)
    grey, truth, guess = (turned(array[box]) for array in (image, reference, prediction))
    low, high = np.percentile(grey.astype(np.float32), WINDOW_PERCENTILES)
    shown = (truth > 0) | (guess > 0)
    planes = []
    # Axes of the turned arrays are patient's right, anterior, superior; a plane lies across one of them.
    for name, across in zip(PLANES, (2, 1, 0), strict=True):
        others = tuple(axis for axis in range(3) if axis != across)
        counts = np.count_nonzero(shown, axis=others)
        index = int(np.argmax(counts)) if counts.any() else len(counts) // 2
        # Rows from above, columns from the left: both axes are turned round, as they point up and right.
        grey_plane, truth_plane, guess_plane = (
            np.ascontiguousarray(array.take(index, axis=across).T[::-1, ::-1]) for array in (grey, truth, guess)
        )
        across_mm, down_mm = turned.spacing[others[0]], turned.spacing[others[1]]
        planes.append(
            Plane(
                name,
                round(grey_plane.shape[1] * across_mm, 2),
                round(grey_plane.shape[0] * down_mm, 2),
                _picture(grey_plane, float(low), float(high), across_mm, down_mm),
                _outlines(truth_plane, across_mm, down_mm),
                _outlines(guess_plane, across_mm, down_mm),
            )
        )
    return planes


@dataclass(frozen=True)
class _Turned:
    """From (Z, Y, X) of a file to (right, anterior, superior), nearest axes. spacing: mm along the latter."""

    orientation: NDArray[np.float64]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, geometry: Geometry) -> _Turned:
        orientation = nibabel.orientations.io_orientation(geometry.affine_ras())
        lengths = [0.0, 0.0, 0.0]
        for axis, length in enumerate(reversed(geometry.spacing)):
            lengths[int(orientation[axis, 0])] = length
        return cls(orientation, (lengths[0], lengths[1], lengths[2]))

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        turned: NDArray[Any] = nibabel.orientations.apply_orientation(array.transpose(2, 1, 0), self.orientation)
        return turned


def _box(marked: NDArray[np.bool_], spacing: Sequence[float]) -> tuple[slice, slice, slice]:
    """Around what is marked, with a margin; everything where nothing is."""
    sides = []
    for axis in range(3):
        places = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(MARGIN_MM / spacing[axis]))
        first, last = (int(places[0]), int(places[-1])) if places.size else (0, marked.shape[axis] - 1)
        sides.append(slice(max(0, first - margin), min(marked.shape[axis], last + 1 + margin)))
    return sides[0], sides[1], sides[2]


def _picture(plane: NDArray[Any], low: float, high: float, across_mm: float, down_mm: float) -> str:
    """Grey values between ``low`` and ``high`` as WebP in base64, pixels as wide as high."""
    scaled = np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255
    width, height = plane.shape[1] * across_mm, plane.shape[0] * down_mm
    scale = MOST_PIXELS / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    stream = io.BytesIO()
    picture = Image.fromarray(scaled.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    picture.save(stream, format="WEBP", quality=QUALITY, method=6)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _outlines(plane: NDArray[np.uint8], across_mm: float, down_mm: float) -> dict[int, str]:
    """Closed paths round each label of a plane (rows, columns), in mm; the longest, ``MOST_CHARACTERS`` in all."""
    contours = [
        (int(label), contour)
        for label in np.unique(plane[plane > 0])
        for contour in find_contours(np.pad(plane == label, 1).astype(np.float32), 0.5)
    ]
    found: dict[int, str] = {}
    left = MOST_CHARACTERS
    for label, contour in sorted(contours, key=lambda one: -len(one[1])):
        # A voxel's centre lies half a voxel from its edge, and padding moved all by one.
        points = (approximate_polygon(contour, TOLERANCE_VOXELS)[:-1] - 0.5) * (down_mm, across_mm)
        path = "M" + "L".join(f"{column:.1f} {row:.1f}" for row, column in points) + "Z"
        if len(points) > 2 and len(path) <= left:
            found[label] = found.get(label, "") + path
            left -= len(path)
        if left < SHORTEST:
            break
    return dict(sorted(found.items()))
