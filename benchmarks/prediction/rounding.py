"""How far float32 itself decides what a network of random weights says of a CT: its runtimes beside float64.

``PYTHONPATH=benchmarks python -m prediction.rounding``
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from prediction.models import CT, FILE, write_image
from prediction.ours import imported

PART = replace(CT, shape=(96, 256, 256), patch=(48, 64, 64))
"""As float64 convolutions of the whole patch take more memory than there is."""
WINDOWS = {"a corner, most of it air": (0, 0, 0), "the middle of the body": (8, 48, 48)}


def main() -> None:
    """A line for each window and runtime."""
    import torch

    from nnunet_box.bundle import load_bundle
    from nnunet_box.dataset.volumes import read_volume
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.ensemble import prepare_members

    with tempfile.TemporaryDirectory() as folder:
        place = imported(PART, Path(folder))
        volume = read_volume(write_image(PART, Path(folder) / "in" / FILE))
        bundle = load_bundle(place)
        (member,) = bundle.ensemble(place)
        runtimes = {
            name: network_loader(bundle.plan, name, "cpu")[0](member, member.weights[0])
            for name in ("torch", "openvino")
        }
    image = volume.array[None].astype(np.float32)
    grid = prepare_members(image, volume.geometry.spacing, bundle.plan, [member])[member.configuration].image
    exact = copy.deepcopy(runtimes["torch"].network).double()
    for words, start in WINDOWS.items():
        inside = tuple(slice(first, first + edge) for first, edge in zip(start, PART.patch, strict=True))
        window = np.ascontiguousarray(grid[(None, slice(None), *inside)])
        with torch.inference_mode():
            logits = exact(torch.from_numpy(window).double()).numpy()
        for name, runtime in runtimes.items():
            found = runtime(window)
            error, equal = np.abs(found - logits).mean(), np.mean(found.argmax(1) == logits.argmax(1))
            print(f"{words}, {name}: logits off by {error:.1e} on average, {100 * equal:.3f} % of labels as in float64")


if __name__ == "__main__":
    main()
