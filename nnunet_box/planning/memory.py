"""What a network needs of a GPU's memory, counted in feature map elements, and how much of it there is.

The authors calibrated two numbers on a 12 GB Titan Xp (paper, Method: 'fits into 12 GB'); their code of April 2019
holds both. Another card scales them in proportion to its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nnunet_box.errors import UsageError
from nnunet_box.planning.plan import stage_features
from nnunet_box.planning.topology import Topology

REFERENCE_MEMORY_GB = 12.0
REFERENCE_ELEMENTS = {2: 19_739_648, 3: 520_000_000}
REFERENCE_BATCH_SIZE = {2: 50, 3: 2}
REFERENCE_PATCH_VOXELS = 64 * 192 * 160
"""A 3D patch that typically fits, which the cascade's rule measures cases by."""

MAPS_OF_A_STAGE = 5
"""Two convolutions down, two up, and the upsampled map between them."""

MAPS_OF_THE_BOTTLENECK = 2


@dataclass(frozen=True)
class Budget:
    """Memory of one training step: ``elements`` of feature maps for each patch of a batch of ``batch_size``."""

    elements: float
    batch_size: int

    def batch_that_fits(self, elements: int) -> int:
        """Largest batch of patches that need ``elements`` each."""
        return math.floor(self.elements / elements * self.batch_size)


def memory_budget(dimensions: int, memory_gb: float) -> Budget:
    """The budget of a 2D or 3D network on a GPU of ``memory_gb``; proportional to it.

    Raises
    ------
    UsageError: ``memory_gb`` is not a positive number.
    """
    return Budget(REFERENCE_ELEMENTS[dimensions] * _scale(memory_gb), REFERENCE_BATCH_SIZE[dimensions])


def typical_patch_voxels(memory_gb: float) -> float:
    """Voxels of a 3D patch that typically fits; proportional to ``memory_gb``.

    Raises
    ------
    UsageError: ``memory_gb`` is not a positive number.
    """
    return REFERENCE_PATCH_VOXELS * _scale(memory_gb)


def _scale(memory_gb: float) -> float:
    if not (math.isfinite(memory_gb) and memory_gb > 0):
        raise UsageError(f"GPU memory to plan for: expected a positive number of gigabytes; found {memory_gb}.")
    return memory_gb / REFERENCE_MEMORY_GB


def feature_map_elements(patch: Sequence[int], topology: Topology, channels: int, classes: int) -> int:
    """Elements of all feature maps that training on one patch keeps.

    patch: voxels. channels: of the image. classes: of the output, background included.
    """
    features = stage_features(len(topology.conv_kernel_sizes), len(patch))
    sizes = list(patch)
    voxels = prod(sizes)
    elements = MAPS_OF_A_STAGE * voxels * features[0] + (channels + classes) * voxels
    for stage, (pool, maps) in enumerate(zip(topology.pool_kernel_sizes, features[1:], strict=True), start=1):
        sizes = [size // factor for size, factor in zip(sizes, pool, strict=True)]
        bottleneck = stage == len(topology.pool_kernel_sizes)
        elements += (MAPS_OF_THE_BOTTLENECK if bottleneck else MAPS_OF_A_STAGE) * prod(sizes) * maps
    return elements
