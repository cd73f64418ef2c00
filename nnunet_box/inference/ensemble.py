"""The fold ensemble of one configuration or a pair, on one case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.export import Grid, labels_on_source
from nnunet_box.inference.planes import labels_of_planes
from nnunet_box.inference.predictor import Windows, predict_planes, predict_probabilities
from nnunet_box.inference.runtime import Runtime
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.variant import recipe
from nnunet_box.preprocessing.pipeline import PreparedCase, prepare_case
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


def prepare_members(
    image: NDArray[np.float32],
    spacing: tuple[float, float, float],
    plan: Plan,
    members: Sequence[Member],
    previous_given: bool = False,
) -> dict[str, PreparedCase]:
    """An image (C, Z, Y, X) with its spacing (mm, Z, Y, X) on the grid of every configuration that ``members`` run,
    previous stages included unless their label map is given: all that ``predict_prepared`` needs of it.
    """
    prepared: dict[str, PreparedCase] = {}
    for member in members:
        before = None if previous_given else member.previous_stage
        for name in [member.configuration, *([] if before is None else [before.configuration])]:
            if name not in prepared:
                case = prepare_case(image, spacing, None, plan, plan.configuration_of(name))
                masked = plan.steps.separate_outside and plan.previous_stage_of(name) is not None
                prepared[name] = case if masked else replace(case, mask=None)
    return prepared


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
    it is the logits where the plan's conventions say so. Networks are asked for one at a time; whether they stay in
    memory is for ``load_network`` to decide. A cascade runs its previous stage first, unless that is a member too and
    done already. Where ``previous_labels`` (Z, Y, X, on the file's grid) are given they are taken instead: in
    cross-validation they must be of a network that has not seen the case.

    Raises
    ------
    ValueError: a cascade has neither a previous stage nor its label map.
    """
    prepared = prepare_members(image, spacing, plan, members, previous_labels is not None)
    return predict_prepared(prepared, plan, members, load_network, options, probabilities_file, previous_labels)


def predict_prepared(
    prepared: Mapping[str, PreparedCase],
    plan: Plan,
    members: Sequence[Member],
    load_network: LoadNetwork,
    options: InferenceOptions,
    probabilities_file: Path | None = None,
    previous_labels: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """As ``predict_case``, of what ``prepare_members`` made of the image, which need not be kept meanwhile.

    Where a single network decides, its outputs become labels while it still runs: they are never kept as a whole.
    """
    done: dict[Member, Grid] = {}
    for member in members:
        case = prepared[member.configuration]
        configuration = plan.configuration_of(member.configuration)
        labels = _previous_labels(member, prepared, plan, done, load_network, options, previous_labels)
        outside_of = case.mask if plan.steps.separate_outside else None
        on_grid = (
            None if labels is None else labels_on_grid(labels, case.placement, outside_of, plan.steps.nearest_ties)
        )
        windows = Windows(
            configuration.patch_size,
            len(plan.labels),
            # A network that never saw a flip must not be asked about one.
            mirroring=options.mirroring and recipe(member.variants).mirroring,
            weighting=plan.steps.weighting if options.weighting == "gaussian" else options.weighting,
            mirrors=configuration.mirrors,
            average_logits=plan.steps.average_logits,
            half_precision=plan.steps.half_precision,
        )
        if len(members) == len(member.weights) == 1 and probabilities_file is None:
            network = load_network(member, member.weights[0])
            return labels_of_planes(predict_planes(network, case.image, windows, on_grid), case.placement)
        networks: Iterator[Runtime] = (load_network(member, weights) for weights in member.weights)
        done[member] = (predict_probabilities(networks, case.image, windows, on_grid), case.placement)
    return labels_on_source(list(done.values()), probabilities_file, plan.steps.average_logits)


def _previous_labels(
    member: Member,
    prepared: Mapping[str, PreparedCase],
    plan: Plan,
    done: Mapping[Member, Grid],
    load_network: LoadNetwork,
    options: InferenceOptions,
    given: NDArray[np.uint8] | None,
) -> NDArray[np.uint8] | None:
    """The label map (Z, Y, X) on the file's grid that a cascade's second stage takes as input; None for others."""
    if plan.previous_stage_of(member.configuration) is None:
        return None
    if given is not None:
        return given
    before = member.previous_stage
    if before is None:
        raise ValueError(f"{member.configuration}: neither a previous stage nor its label map")
    if before in done:
        return labels_on_source([done[before]], logits=plan.steps.average_logits)
    return predict_prepared(prepared, plan, [before], load_network, options)
