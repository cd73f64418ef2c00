"""What training a data set's networks costs, and the disk it takes: counted from its plan, times what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from math import prod
from typing import Any

from scale.data_sets import DataSet

from nnunet_box.inference.tiles import tile_starts
from nnunet_box.planning.plan import CASCADE, Configuration, Plan
from nnunet_box.preprocessing.store import MOST_LOCATIONS
from nnunet_box.training.schedule import MOST_EPOCHS
from nnunet_box.training.settings import BATCHES_AN_EPOCH
from nnunet_box.training.trainer import VALIDATION_SHARE

FOLDS = 5
FLOAT32, FLOAT16 = 4, 2
TENSORS_OF_A_CHECKPOINT = 4
"""The weights, and amsgrad's three moments of each."""
LOCATION = 3 * 4
"""Bytes of a foreground voxel whose place a case store keeps."""
CHECKPOINTS_AT_ONCE = 2
"""A new one is whole before the old one goes."""


@dataclass(frozen=True)
class Network:
    """parameters, and multiply-adds: of a training step of one batch, and of the forward pass alone of one patch."""

    parameters: int
    step: int
    forward: int


def network_of(configuration: Configuration, inputs: int, classes: int) -> Network:
    """The paper's network of a configuration, convolution by convolution (``network/unet.py``).

    Backwards a convolution costs as much for its weights and again for what comes before it; before the first one comes
    nothing that is learnt.
    """
    features, kernels = configuration.features, configuration.conv_kernel_sizes
    voxels = [prod(configuration.patch_size)]
    for pool in configuration.pool_kernel_sizes:
        voxels.append(voxels[-1] // prod(pool))
    convolved: list[tuple[int, int]] = []  # Weights, and how often each is multiplied.
    scales = 0  # Biases, and both numbers of each norm.
    for stage, (width, before) in enumerate(zip(features, [inputs, *features], strict=False)):
        convolved += [(maps * width * prod(kernels[stage]), voxels[stage]) for maps in (before, width)]
        scales += 2 * 3 * width
    for stage, (width, below) in enumerate(pairwise(features)):
        convolved.append((below * width * prod(configuration.pool_kernel_sizes[stage]), voxels[stage + 1]))
        convolved += [(maps * width * prod(kernels[stage]), voxels[stage]) for maps in (2 * width, width)]
        scales += 2 * 3 * width
    convolved.append((features[0] * classes, voxels[0]))
    forward = sum(prod(one) for one in convolved)
    return Network(
        parameters=scales + sum(weights for weights, _ in convolved),
        step=configuration.batch_size * (3 * forward - prod(convolved[0])),
        forward=forward,
    )


def plan_network(plan: Plan, model: str) -> Network:
    """The network of one of a plan's models."""
    return network_of(plan.configuration_of(model), plan.inputs_of(model), len(plan.labels))


@dataclass(frozen=True)
class Speed:
    """What was measured on a GPU. rate, predicting: multiply-adds a second of the training step and of prediction.
    fed: voxels a second of the whole loop where two processes cut batches out, from disk. least: seconds a batch of the
    smallest network measured.
    """

    rate: float
    predicting: float
    fed: float
    least: float

    @classmethod
    def measured(cls, figures: dict[str, Any], plan: Plan) -> Speed:
        """figures: of ``measured.json``; plan: the one they were measured on."""
        (model,) = plan.models
        network, configuration = plan_network(plan, model), plan.configurations[model]
        patches = configuration.batch_size * prod(configuration.patch_size)
        return cls(
            rate=network.step / (figures["step_milliseconds"] / 1e3),
            predicting=network.step / (figures["float32_step_milliseconds"] / 1e3),
            fed=figures["loop_batches_a_second"] * patches,
            least=figures["small_network_batch_milliseconds"] / 1e3,
        )


@dataclass(frozen=True)
class Training:
    """One model in all folds. step: seconds of one batch. hours: of one network of 1000 epochs, where batches wait for
    nothing, and where two processes make them. predicting: hours to predict every case once.
    """

    model: str
    configuration: Configuration
    network: Network
    step: float
    hours: tuple[float, float]
    predicting: float


def trainings(data_set: DataSet, plan: Plan, speed: Speed) -> list[Training]:
    """All models of a plan, simplest first."""
    found = []
    for model in plan.models:
        configuration, network = plan.configuration_of(model), plan_network(plan, model)
        patches = configuration.batch_size * prod(configuration.patch_size)
        step = network.step / speed.rate
        checking = network.forward * configuration.batch_size / speed.rate
        checks = BATCHES_AN_EPOCH // VALIDATION_SHARE
        fed = max(step, patches / speed.fed, speed.least)
        bare = BATCHES_AN_EPOCH * step + checks * checking
        found.append(
            Training(
                model,
                configuration,
                network,
                step,
                (MOST_EPOCHS * bare / 3600, MOST_EPOCHS * (BATCHES_AN_EPOCH + checks) * fed / 3600),
                _patches_predicted(data_set, configuration) * network.forward / speed.predicting / 3600,
            )
        )
    return found


def _patches_predicted(data_set: DataSet, configuration: Configuration) -> float:
    """Forward passes of one patch for all training images, each mirrored along all axes."""
    patch = configuration.patch_size
    in_plane = configuration.dimensions == 2
    shape = configuration.median_shape[1:] if in_plane else configuration.median_shape
    padded = [max(edges) for edges in zip(shape, patch, strict=True)]
    return (data_set.slices if in_plane else data_set.images) * len(tile_starts(padded, patch)) * 2 ** len(patch)


@dataclass(frozen=True)
class Disk:
    """Bytes. images: of the converted data set. stores: preprocessed cases. weights: of all networks. checkpoint: of
    the largest network while it trains. probabilities: of the validation cases. entry: a bundle and an image of the
    largest pair of models.
    """

    images: float
    stores: float
    weights: float
    checkpoint: float
    probabilities: float
    entry: float

    @property
    def total(self) -> float:
        """All of it, with one network in training."""
        return self.images + self.stores + self.weights + self.checkpoint + self.probabilities + self.entry


def disk(data_set: DataSet, plan: Plan, measured: dict[str, Any]) -> Disk:
    """measured: ``bytes`` of ``measured.json``."""
    kind = measured["kinds"][data_set.kind]
    with_test = (data_set.images + data_set.test_cases) / data_set.images
    weights = {model: FLOAT32 * plan_network(plan, model).parameters for model in plan.models}
    cases_an_image = data_set.cases / data_set.images
    labels = kind["store_labels"] * cases_an_image
    stored = sum(
        _store_voxels(data_set, configuration) * (data_set.channels * kind["store_image"] + labels)
        for configuration in plan.configurations.values()
    )
    locations = data_set.cases * (data_set.classes - 1) * MOST_LOCATIONS * LOCATION
    stored += len(plan.configurations) * locations
    if CASCADE in plan.models:
        stored += _store_voxels(data_set, plan.configuration_of(CASCADE)) * labels
    return Disk(
        images=data_set.file_voxels
        * (with_test * data_set.channels * kind["image_file"] + cases_an_image * kind["label_file"]),
        stores=stored,
        weights=FOLDS * sum(weights.values()),
        checkpoint=CHECKPOINTS_AT_ONCE * TENSORS_OF_A_CHECKPOINT * max(weights.values()),
        probabilities=FLOAT16
        * len(plan.models)
        * len(plan.labels)
        * data_set.cropped_voxels
        * measured["probabilities"],
        entry=2 * FOLDS * max(sum(_shipped(plan, weights, pair)) for pair in combinations(plan.models, 2))
        + measured["image_without_weights"],
    )


def _store_voxels(data_set: DataSet, configuration: Configuration) -> float:
    """Voxels of all training images on a configuration's grid; slices of a 2D one keep their own distance."""
    z, y, x = configuration.median_shape
    return (data_set.slices if configuration.dimensions == 2 else data_set.images * z) * y * x


def _shipped(plan: Plan, weights: dict[str, int], models: tuple[str, ...]) -> list[int]:
    """Bytes of one fold's weights of some models, those that a cascade needs included, each once."""
    before = [plan.previous_stage_of(model) for model in models]
    return [weights[model] for model in dict.fromkeys([*models, *filter(None, before)])]
