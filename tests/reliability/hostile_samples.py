"""A model small enough to run thousands of times."""

from __future__ import annotations

from pathlib import Path

import torch
from mutator import SPACING

from nnunet_box.bundle import write_bundle
from nnunet_box.evaluation.postprocessing import Postprocessing
from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Blocks, Configuration, Plan
from nnunet_box.training.checkpoint import save_weights

VOLUME = Configuration(
    patch_size=(4, 16, 16),
    batch_size=2,
    num_pool_per_axis=(1, 1, 1),
    pool_kernel_sizes=((2, 2, 2),),
    conv_kernel_sizes=((3, 3, 3), (3, 3, 3)),
    spacing=SPACING[::-1],
    median_shape=(6, 18, 20),
    in_plane_augmentation=False,
    blocks=Blocks(features=(4, 8), encoder_convolutions=(1, 1), decoder_convolutions=(1,), biases=False),
)


def plan_of(**changes: object) -> Plan:
    values: dict[str, object] = {
        "dataset": "toy",
        "channel_names": ("MR",),
        "labels": {0: "background", 1: "box"},
        "normalisation": ("zscore",),
        "use_nonzero_mask": False,
        "memory_gb": 12.0,
        "configurations": {"3d_fullres": VOLUME},
    }
    return Plan.model_validate({**values, **changes})


def write_bundle_of(folder: Path, plan: Plan | None = None) -> Path:
    """A bundle of one network with random weights, the same each time."""
    plan = plan or plan_of()
    torch.manual_seed(4)
    weights = folder.with_name("weights.safetensors")
    save_weights(weights, UNet(plan.configurations["3d_fullres"], len(plan.channel_names), len(plan.labels)))
    write_bundle(
        folder,
        dataset="toy",
        challenge=None,
        plan=plan,
        weights={"3d_fullres": {0: weights}},
        postprocessing=Postprocessing(steps=((1,),)),
    )
    weights.unlink()
    return folder


def load_network(folder: Path) -> None:
    """Load a bundle's network once: what torch imports for that, children need not import each."""
    from nnunet_box.bundle import load_bundle
    from nnunet_box.inference.torch_runtime import choose_device, plan_network

    bundle = load_bundle(folder)
    member = bundle.ensemble(folder)[0]
    plan_network(member, member.weights[0], bundle.plan, choose_device("cpu"))
