"""The fold ensemble of one configuration or a pair, on one case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.export import Grid, labels_on_source
from nnunet_box.inference.predictor import predict_probabilities
from nnunet_box.inference.runtime import Runtime
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.variant import recipe
from nnunet_box.preprocessing.pipeline import prepare_case
from nnunet_box.preprocessing.previous_stage import labels_on_grid


@dataclass(frozen=True)
class Member:
    """One model's share of an ensemble: a weights' file for each fold. variants: how its recipe departs from the
    paper's. previous_stage: of a cascade, the ensemble whose label map it takes as input; None where that map is given.
    """

    configuration: str
    weights: tuple[Path, ...]
    variants: tuple[str, ...] = ()
    previous_stage: Member | None = None

    @property
    def networks(self) -> int:
        """Networks that run for a case, the previous stage's included."""
        return len(self.weights) + (self.previous_stage.networks if self.previous_stage is not None else 0)


LoadNetwork = Callable[[Member, Path], Runtime]
"""A member and one of its weights' files to a network ready to run."""


@dataclass(frozen=True)
class InferenceOptions:
    """mirroring: average over flips along all axes. weighting: ``gaussian`` or ``plain`` overlap of windows."""

    mirroring: bool = True
    weighting: str = "gaussian"


def predict_case(
    image: NDArray[np.float32],
    spacing: tuple[float, float, float],
    plan: Plan,
    members: Sequence[Member],
    load_network: LoadNetwork,
    options: InferenceOptions,
    probabilities_file: Path | None = None,
    previous_labels: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) on the file's grid for an image (C, Z, Y, X) with its spacing (mm, Z, Y, X).

    Softmax is averaged over a configuration's folds, then over configurations (paper, Method, Ensembling); over folds
    it is the logits where the plan's conventions say so. Networks are loaded one at a time, so that memory does not
    grow with their number. A cascade runs its previous stage first, unless that is a member too and done already. Where
    ``previous_labels`` (Z, Y, X, on the file's grid) are given they are taken instead: in cross-validation they must be
    of a network that has not seen the case.

    Raises
    ------
    ValueError: a cascade has neither a previous stage nor its label map.
    """
    done: dict[Member, Grid] = {}
    for member in members:
        configuration = plan.configuration_of(member.configuration)
        cascaded = plan.previous_stage_of(member.configuration) is not None
        labels = previous_labels if cascaded else None
        if cascaded and labels is None:
            before = member.previous_stage
            if before is None:
                raise ValueError(f"{member.configuration}: neither a previous stage nor its label map")
            known = done.get(before)
            labels = (
                predict_case(image, spacing, plan, [before], load_network, options)
                if known is None
                else labels_on_source([known], logits=plan.steps.average_logits)
            )
        prepared = prepare_case(image, spacing, None, plan, configuration)
        outside_of = prepared.mask if plan.steps.separate_outside else None
        networks: Iterator[Runtime] = (load_network(member, weights) for weights in member.weights)
        # A network that never saw a flip must not be asked about one.
        mirroring = options.mirroring and recipe(member.variants).mirroring
        probabilities = predict_probabilities(
            networks,
            prepared.image,
            configuration.patch_size,
            len(plan.labels),
            mirroring,
            plan.steps.weighting if options.weighting == "gaussian" else options.weighting,
            None if labels is None else labels_on_grid(labels, prepared.placement, outside_of, plan.steps.nearest_ties),
            configuration.mirrors,
            plan.steps.average_logits,
            plan.steps.half_precision,
        )
        done[member] = (probabilities, prepared.placement)
    return labels_on_source(list(done.values()), probabilities_file, plan.steps.average_logits)
