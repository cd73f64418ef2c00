"""What the rows of training work on: a made-up case store, and the Decathlon's hippocampus in a kept workspace.

The configuration is what ``nnbox plan`` makes of the Decathlon's 208 training cases.
"""

from __future__ import annotations

from pathlib import Path

import measuring
import numpy as np

CASES = 12
"""Each is read many times; a real store has more, and none of a training's time goes by their number."""
LABELS = {0: "background", 1: "Anterior", 2: "Posterior"}


def plan():  # nnunet_box is imported by our side only
    """The hippocampus' plan, of which only ``3d_fullres`` is given."""
    from nnunet_box.planning.plan import Configuration, Plan

    configuration = Configuration(
        patch_size=(40, 56, 40),
        batch_size=7,
        num_pool_per_axis=(3, 3, 3),
        pool_kernel_sizes=((2, 2, 2),) * 3,
        conv_kernel_sizes=((3, 3, 3),) * 4,
        spacing=(1.0, 1.0, 1.0),
        median_shape=(36, 50, 35),
        in_plane_augmentation=False,
    )
    return Plan(
        dataset="hippocampus",
        channel_names=("MRI",),
        labels=LABELS,
        normalisation=("zscore",),
        use_nonzero_mask=False,
        memory_gb=12.0,
        configurations={"3d_fullres": configuration},
    )


def write_store(folder: Path) -> list[str]:
    """Cases of the hippocampus' size with two blobs of labels; returns their ids."""
    from nnunet_box.preprocessing.pipeline import Placement, PreparedCase
    from nnunet_box.preprocessing.store import write_case

    names = []
    for number in range(CASES):
        shape = tuple(int(n) for n in np.random.default_rng(number).integers((30, 42, 28), (44, 58, 42)))
        labels = np.digitize(measuring.smooth(shape, 16, number), [0.7, 1.2]).astype(np.int8)
        image = (measuring.smooth(shape, 6, 100 + number) + labels).astype(np.float32)[None]
        box = tuple((0, length) for length in shape)
        placement = Placement(shape, box, (1.0,) * 3, (1.0,) * 3, shape, (0, 1, 2))
        names.append(f"case_{number:02d}")
        write_case(folder, names[-1], PreparedCase(image, labels, placement), (40, 56, 40))
    return names
