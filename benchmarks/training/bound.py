"""What bounds training: forward and backward of the same network on a batch that lies there; see ``compare.py``.

Nothing else is in it: no reading, no augmentation, no loss (the backward pass starts at a given gradient of the
logits), no optimiser's step.
"""

from __future__ import annotations

from collections.abc import Callable

import measuring
from measuring import Taken

Work = Callable[[], Taken]


def bare(batch_size: int | None) -> Work:
    """Seconds of one batch; batch_size: the plan's where it is None."""
    import torch
    from training.hippocampus import LABELS, plan
    from training.ours import batches_a_turn

    from nnunet_box.network.unet import UNet, for_device

    torch.manual_seed(0)
    configuration = plan().configuration_of("3d_fullres")
    size = batch_size or configuration.batch_size
    network = for_device(UNet(configuration, 1, len(LABELS)), torch.device("cpu"), training=True)
    image = torch.randn(size, 1, *configuration.patch_size)
    gradient = torch.randn(size, len(LABELS), *configuration.patch_size) / image.numel()

    def work() -> Taken:
        import time

        started = time.perf_counter()
        for _ in range(batches_a_turn(size)):
            network.zero_grad(set_to_none=True)
            network(image).backward(gradient)
        return Taken(seconds=(time.perf_counter() - started) / batches_a_turn(size))

    return work


ROWS: dict[str, Callable[[], Work]] = {
    "training-batches": lambda: bare(None),
    "budget-batches": lambda: bare(2),
}


if __name__ == "__main__":
    measuring.run_row(ROWS)
