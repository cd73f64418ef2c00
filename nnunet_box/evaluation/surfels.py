"""Surface elements at voxel corners, weighted by area: the convention of DeepMind's surface-distance, which the
Medical Segmentation Decathlon scores with (Nikolov et al., arXiv:1809.04430; medicaldecathlon.com).

The eight voxels around a corner say which piece of surface passes it; distances lie between corners, and each counts as
much as its piece is large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nnunet_box.evaluation.metrics import crop_pair, structure_masks, undefined_distance
from nnunet_box.evaluation.nearest import Spacing, nearest_mm

Corner = tuple[int, int, int]
Edge = tuple[Corner, Corner]

CORNERS: tuple[Corner, ...] = tuple(product((0, 1), repeat=3))  # type: ignore[arg-type]
"""The eight voxels (z, y, x) around a corner, in the order of their bits in a neighbourhood code."""

ALL = 255
"""Code of a neighbourhood that lies inside altogether; 0 lies outside. Neither has a surface."""


@dataclass(frozen=True)
class SurfelDistances:
    """Distances in mm from each surface element of one side to the nearest of the other, and the elements' areas.

    ``to_reference`` and ``area_prediction`` (mm2) hold one value a surface element of the prediction, ``to_prediction``
    and ``area_reference`` one a surface element of the reference. With both sides empty every metric is NaN; with one
    side empty the distances are infinite and the surface Dice is 0.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]
    area_prediction: NDArray[np.float64]
    area_reference: NDArray[np.float64]

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces that lies within ``tolerance_mm``, inclusive, of the other (normalised surface
        distance).
        """
        total = self.area_prediction.sum() + self.area_reference.sum()
        if not total:
            return float("nan")
        within = self.area_prediction[self.to_reference <= tolerance_mm].sum()
        return float((within + self.area_reference[self.to_prediction <= tolerance_mm].sum()) / total)

    def hausdorff(self, percent: float = 100.0) -> float:
        """Distance in mm that ``percent`` of either surface's area does not exceed, the larger of the directions."""
        if (undefined := undefined_distance(self.to_reference, self.to_prediction)) is not None:
            return undefined
        return max(
            _percentile(self.to_reference, self.area_prediction, percent),
            _percentile(self.to_prediction, self.area_reference, percent),
        )

    @property
    def assd(self) -> float:
        """Average symmetric surface distance in mm: the mean of both directions' means over area."""
        if (undefined := undefined_distance(self.to_reference, self.to_prediction)) is not None:
            return undefined
        ours = np.average(self.to_reference, weights=self.area_prediction)
        return float((ours + np.average(self.to_prediction, weights=self.area_reference)) / 2)


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64], percent: float) -> float:
    order = np.argsort(distances)
    share = np.cumsum(areas[order])
    index = np.searchsorted(share / share[-1], percent / 100)
    return float(distances[order[min(int(index), order.size - 1)]])


def surfel_distances(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Spacing) -> SurfelDistances:
    """Surface element distances between two masks (Z, Y, X) with voxels of ``spacing`` (Z, Y, X) in mm.

    What lies beyond the array is outside, so that a mask that touches its edge has a surface there.

    Raises
    ------
    ValueError: the shapes differ.
    """
    codes = [neighbourhood_codes(mask) for mask in crop_pair(prediction, reference)]
    ours, theirs = ((code != 0) & (code != ALL) for code in codes)
    areas = surface_areas(spacing)
    return SurfelDistances(
        to_reference=nearest_mm(ours, theirs, spacing),
        to_prediction=nearest_mm(theirs, ours, spacing),
        area_prediction=areas[codes[0][ours]],
        area_reference=areas[codes[1][theirs]],
    )


def structure_surfels(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], labels: Iterable[int], spacing: Spacing
) -> dict[int, SurfelDistances]:
    """Surface element distances of each label of two label maps (Z, Y, X), as ``metrics.structure_distances``.

    Raises
    ------
    ValueError: the shapes differ.
    """
    pairs = structure_masks(prediction, reference, labels)
    return {label: surfel_distances(*masks, spacing) for label, masks in pairs}


def neighbourhood_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Which of the eight voxels around each corner of a mask (Z, Y, X) lie inside: (Z+1, Y+1, X+1), bits as
    ``CORNERS``.
    """
    codes: NDArray[np.uint8] = np.pad(mask, 1).view(np.uint8)
    codes = codes[:, :, :-1] | np.left_shift(codes[:, :, 1:], 1, dtype=np.uint8)
    codes = codes[:, :-1] | np.left_shift(codes[:, 1:], 2, dtype=np.uint8)
    return codes[:-1] | np.left_shift(codes[1:], 4, dtype=np.uint8)


def surface_areas(spacing: Spacing) -> NDArray[np.float64]:
    """Area in mm2 of the surface that passes a corner, for each of the 256 codes, with voxels of ``spacing`` (Z, Y, X).

    A triangle's area vector scales along each axis with the two other spacings.
    """
    z, y, x = spacing
    areas: NDArray[np.float64] = np.linalg.norm(_area_vectors() * (y * x, z * x, z * y), axis=2).sum(axis=1)
    return areas


@cache
def _area_vectors() -> NDArray[np.float64]:
    """Area vectors (256, 4, 3) of the flat pieces of surface of each code, for voxels of unit spacing.

    Marching cubes with vertices halfway along the edges between inside and outside. Where a cube can be cut in two
    ways, the rarer kind of voxel (up to four, inside or outside) is taken for apart: each of its parts, joined along
    edges, is cut off by one polygon. A polygon that is not flat is folded into as few flat pieces as can be.
    """
    vectors = np.zeros((ALL + 1, 4, 3))
    for code in range(1, ALL):
        rarer = {corner for bit, corner in enumerate(CORNERS) if code >> bit & 1}
        if len(rarer) > 4:
            continue
        pieces = [piece for part in _parts(rarer) for piece in _flat_pieces(_polygon(part))]
        for index, polygon in enumerate(pieces):
            # Half the sum of the cross products of consecutive vertices.
            vectors[code, index] = np.cross(polygon, np.roll(polygon, -1, axis=0)).sum(axis=0) / 2
        vectors[ALL - code] = vectors[code]
    return vectors


def _parts(corners: set[Corner]) -> list[set[Corner]]:
    """The corners in parts that are joined along the cube's edges."""
    left, parts = set(corners), []
    while left:
        part, new = set(), {min(left)}
        while new:
            part |= new
            new = {corner for known in new for corner in _neighbours(known)} & left - part
        left -= part
        parts.append(part)
    return parts


def _neighbours(corner: Corner) -> list[Corner]:
    return [other for other in CORNERS if sum(a != b for a, b in zip(corner, other, strict=True)) == 1]


def _polygon(part: set[Corner]) -> NDArray[np.float64]:
    """Vertices (N, 3) of the polygon that cuts off one part, in order: from one edge to the next it crosses a face of
    the cube.
    """
    edges = [(corner, other) for corner in sorted(part) for other in _neighbours(corner) if other not in part]
    polygon = [edges.pop(0)]
    while edges:
        following = next(edge for edge in edges if _share_a_face(edge, polygon[-1]))
        edges.remove(following)
        polygon.append(following)
    vertices: NDArray[np.float64] = np.array(polygon).mean(axis=1)
    return vertices


def _share_a_face(edge: Edge, other: Edge) -> bool:
    return any(len({corner[axis] for corner in (*edge, *other)}) == 1 for axis in range(3))


def _flat_pieces(polygon: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A polygon (N, 3), folded along its diagonals into as few flat ones as can be."""
    if len(polygon) == 3 or np.linalg.matrix_rank(polygon[1:] - polygon[0]) <= 2:
        return [polygon]
    cuts = [(i, j) for i in range(len(polygon)) for j in range(i + 2, len(polygon)) if (i, j) != (0, len(polygon) - 1)]
    folded = (
        _flat_pieces(polygon[i : j + 1]) + _flat_pieces(np.concatenate((polygon[j:], polygon[: i + 1])))
        for i, j in cuts
    )
    return min(folded, key=len)
