"""How a U-Net of a given patch pools and convolves: anisotropic axes are pooled later, less often, or not at all.

The paper (Method) says only that each axis is pooled until its feature map would fall below four voxels, and that
anisotropic data get anisotropic operations. The rules here are those of the authors' code of April 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_FEATURE_MAP = 4
"""Voxels that an axis keeps in the bottleneck (paper, Method)."""

REACHED = 0.5
"""3D: an axis counts as coarse once its spacing exceeds this part of the coarsest axis's initial one."""

POOL_TOGETHER = 1.8
"""2D: axes within this factor of the finest are pooled."""

CONVOLVE_TOGETHER = 2.0
"""2D: axes whose spacings differ by less than this factor share a kernel."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """Poolings and kernels of an encoder; the decoder mirrors them.

    num_pool_per_axis: poolings along each axis. pool_kernel_sizes: one entry a pooling. conv_kernel_sizes: one entry a
    stage, bottleneck last.
    """

    num_pool_per_axis: Shape
    pool_kernel_sizes: tuple[Shape, ...]
    conv_kernel_sizes: tuple[Shape, ...]

    @property
    def divisors(self) -> Shape:
        """What the patch has to be divisible by, along each axis."""
        return tuple(2**count for count in self.num_pool_per_axis)

    def pad(self, shape: Sequence[int]) -> Shape:
        """The smallest patch at least as large as ``shape`` that divides without a rest."""
        return tuple(-(-size // divisor) * divisor for size, divisor in zip(shape, self.divisors, strict=True))


def poolings(size: int) -> int:
    """How often ``size`` voxels can be halved with four left; 0 for an axis that is shorter than that to begin with."""
    return max(size // SMALLEST_FEATURE_MAP, 1).bit_length() - 1


def pool_late(shape: Sequence[int], spacing: Sequence[float]) -> Topology:
    """Topology of a 3D network for a patch of ``shape`` voxels at ``spacing`` mm, both (Z, Y, X).

    Each axis is pooled as often as its size allows. Axes that are pooled less often than others start later, so
    all end in the bottleneck together. Until every axis is about as coarse as the coarsest one was at first,
    convolutions span the finer axes only.
    """
    counts = tuple(poolings(size) for size in shape)
    depth = max(counts)
    coarsest = max(spacing)
    current = list(spacing)
    pools: list[Shape] = []
    kernels: list[Shape] = []
    for step in range(depth):
        reached = [value / coarsest > REACHED for value in current]
        kernels.append(tuple(1 if coarse and not all(reached) else 3 for coarse in reached))
        pools.append(tuple(2 if count + step >= depth else 1 for count in counts))
        current = [value * pool for value, pool in zip(current, pools[-1], strict=True)]
    kernels.append((3,) * len(counts))
    return Topology(counts, tuple(pools), tuple(kernels))


def pool_by_spacing(shape: Sequence[int], spacing: Sequence[float]) -> Topology:
    """Topology of a 2D network for slices of ``shape`` pixels at ``spacing`` mm, both (Y, X).

    A step pools the axes that are close to the finest one in spacing and have eight pixels left; it ends where there
    is none. Hence an axis too short to be pooled also stops a much longer one, as it stays the finest.
    """
    axes = range(len(shape))
    counts = [0 for _ in axes]
    sizes = [float(size) for size in shape]
    current = list(spacing)
    pools: list[Shape] = []
    kernels: list[Shape] = []
    while True:
        finest = min(current)
        pooled = [
            axis for axis in axes if current[axis] / finest < POOL_TOGETHER and sizes[axis] >= 2 * SMALLEST_FEATURE_MAP
        ]
        if not pooled:
            break
        together = _largest_party(current)
        kernels.append(tuple(3 if axis in together else 1 for axis in axes))
        pools.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            counts[axis] += 1
            sizes[axis] /= 2
            current[axis] *= 2
    kernels.append((3,) * len(counts))
    return Topology(tuple(counts), tuple(pools), tuple(kernels))


def _largest_party(spacing: Sequence[float]) -> list[int]:
    """The most axes that one axis has within a factor of two; the first axis's where several have as many."""
    parties = [
        [axis for axis, other in enumerate(spacing) if 1 / CONVOLVE_TOGETHER < other / own < CONVOLVE_TOGETHER]
        for own in spacing
    ]
    return max(parties, key=len)
