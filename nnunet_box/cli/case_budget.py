"""``--budget-per-case``: the bundle that goes into an image, cut to what a case's time allows on a measured case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_box.progress import say

if TYPE_CHECKING:
    from nnunet_box.bundle import Bundle

IMAGE_RUNTIMES = {"cpu": "openvino", "cuda": "torch"}


def fit_bundle(folder: Path, bundle: Bundle, budget: str, case: Path | None, image_runtime: str) -> Bundle:
    """The bundle with as many folds and members, and with or without mirroring, as fit; measured with the runtime the
    image will have, on ``case`` (a file or a folder of one case) or on a drawn one of median size.

    Raises
    ------
    OverBudget: nothing fits; says the seconds needed. UsageError: the budget does not read as a time. InvalidData: the
    case cannot be read.
    """
    import tempfile

    from nnunet_box.dataset.cases import read_image
    from nnunet_box.inference.budget import case_timer, fit_budget
    from nnunet_box.inference.choose import network_loader
    from nnunet_box.inference.folder import input_cases
    from nnunet_box.inference.trial import draw_cases
    from nnunet_box.training.budget import parse_duration

    seconds = parse_duration(budget)
    load, description = network_loader(bundle.plan, IMAGE_RUNTIMES.get(image_runtime, "auto"))
    say(f"Fitting a case into {seconds:g} s with {description}")
    with tempfile.TemporaryDirectory(prefix="nnbox-budget-") as scratch:
        if case is not None:
            source = input_cases(case, len(bundle.channel_names), None)[0]
        else:
            (source,) = draw_cases(bundle.plan, Path(scratch), 1)
        image, geometry = read_image(source)
    timer = case_timer(image, geometry.spacing, folder)
    fitted = fit_budget(bundle, load, timer, seconds, source.id, geometry.shape)
    kept = sum(len(stage.weights) for stage in fitted.stages)
    names = " and ".join(member.configuration for member in fitted.members)
    mirrored = "with" if fitted.mirroring else "without"
    say(f"Shipped: {names}, {kept} network{'s' * (kept > 1)}, {mirrored} mirroring")
    return fitted
