"""Where patches start from, and how they shrink until the memory holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnunet_box.planning.topology import SMALLEST_FEATURE_MAP, Shape, Topology

STARTING_EDGE = 512
"""Voxels of a 3D patch's shortest edge before anything limits it."""


def isotropic_patch(spacing: Sequence[float], typical_shape: Sequence[int]) -> Shape:
    """A cube in millimetres, 512 voxels along the coarsest axis, no larger than the typical case.

    spacing: mm (Z, Y, X). typical_shape: voxels (Z, Y, X).
    """
    coarsest = max(spacing)
    edges = (round(STARTING_EDGE * coarsest / value) for value in spacing)
    return tuple(min(edge, size) for edge, size in zip(edges, typical_shape, strict=True))


def shrink_until(
    patch: Sequence[int],
    typical_shape: Sequence[int],
    build: Callable[[Sequence[int]], Topology],
    fits: Callable[[Shape, Topology], bool],
) -> tuple[Shape, Topology] | None:
    """Patch and topology after the fewest cuts that make ``fits`` true; None where even the smallest patch does not.

    Each cut takes a pooling's worth of voxels off the axis that covers most of the typical case, then the topology is
    built anew (authors' code of April 2019). The way down does not depend on the memory, so more memory never
    means a smaller patch.
    """
    topology = build(patch)
    current = topology.pad(patch)
    while not fits(current, topology):
        cut = _next_cut(current, typical_shape, topology)
        if cut is None:
            return None
        topology = build(cut)
        current = topology.pad(cut)
    return current, topology


def _next_cut(patch: Shape, typical_shape: Sequence[int], topology: Topology) -> Shape | None:
    """The patch with one axis cut: the one with the largest share of the typical case, the last of them on a tie.

    An axis keeps at least four voxels; one that has no more is passed over (the authors' code, which never met such
    data, would go on to fractions). None where no axis can give.
    """
    by_share = sorted(range(len(patch)), key=lambda axis: (patch[axis] / typical_shape[axis], axis), reverse=True)
    for axis in by_share:
        divisor = topology.divisors[axis]
        step = divisor if patch[axis] // divisor > SMALLEST_FEATURE_MAP else max(divisor // 2, 1)
        if patch[axis] - step >= SMALLEST_FEATURE_MAP:
            return tuple(size - step * (index == axis) for index, size in enumerate(patch))
    return None
