"""Which voxels differ in the row ``resample-labels``: ``python benchmarks/resampling/ties.py OURS.npy PEER.npy``.

A voxel half of one label and half of others is a tie, which rounding decides; where no label reaches a half nnunetv2
leaves background. Prints how many of either, and of neither, there are.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import measuring

from nnunet_box.preprocessing.axis_weights import neighbours
from nnunet_box.preprocessing.resample import TIE


def main() -> None:
    """Weigh the corners of every voxel that differs."""
    ours, peer = (np.load(file) for file in sys.argv[1:3])
    labels = measuring.ct_labels()
    z, y, x = (
        neighbours(a, b, order) for a, b, order in zip(labels.shape, measuring.CT_TARGET, (0, 1, 1), strict=True)
    )
    kinds: Counter[str] = Counter()
    for voxel in np.argwhere(ours != peer):
        plane, row, column = (int(position) for position in voxel)
        shares: Counter[int] = Counter()
        for at_y, part_y in ((y.low[row], 1 - y.share[row]), (y.high[row], y.share[row])):
            for at_x, part_x in ((x.low[column], 1 - x.share[column]), (x.high[column], x.share[column])):
                shares[int(labels[z.low[plane], at_y, at_x])] += part_y * part_x
        most = float(max(shares.values()))
        tie, gap = abs(most - 0.5) < 2 * TIE, most < 0.5 and peer[plane, row, column] == 0
        kinds["tie at a half" if tie else "no label reaches a half" if gap else "neither"] += 1
    print(json.dumps({"voxels": ours.size, **kinds}))


if __name__ == "__main__":
    main()
