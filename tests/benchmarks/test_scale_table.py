"""docs/scale.md: its table is what the program writes, and what the program counts is counted right."""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from scale.__main__ import DOCUMENT, kept
from scale.__main__ import lines as kept_lines
from scale.cost import Speed, disk, network_of, plan_network, trainings
from scale.data_sets import DataSet
from scale.text import BEGIN, END, details, tables
from torch.utils.flop_counter import FlopCounterMode

from nnunet_box.network.unet import UNet
from nnunet_box.planning.plan import Configuration

REFERENCE = json.loads((Path(__file__).parents[1] / "planning" / "reference_plans.json").read_text())
TWO_STAGES = Configuration(
    patch_size=(4, 8, 8),
    batch_size=3,
    num_pool_per_axis=(0, 1, 1),
    pool_kernel_sizes=((1, 2, 2),),
    conv_kernel_sizes=((1, 3, 3), (3, 3, 3)),
    spacing=(1.0, 1.0, 1.0),
    median_shape=(4, 8, 8),
    in_plane_augmentation=False,
)


@pytest.fixture(scope="module")
def lines():
    return {line.data_set.name: line for line in kept_lines()}


def data_set(name: str) -> DataSet:
    return next(DataSet.of(entry) for entry in kept("datasets.json")["data_sets"] if entry["task"] == name)


def test_document_holds_the_table_that_the_program_writes(lines):
    text = DOCUMENT.read_text(encoding="utf-8")
    written = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert written == tables(list(lines.values())), "PYTHONPATH=benchmarks python -m scale"


def test_every_challenge_has_its_line(lines):
    assert len(lines) == 15 and len({line.data_set.challenge for line in lines.values()}) == 6
    assert details(list(lines.values())).count("\n") == 1 + sum(len(line.trainings) for line in lines.values())


def test_multiply_adds_and_parameters_of_a_network_of_two_stages():
    inputs, classes, fine, coarse = 2, 3, 4 * 8 * 8, 4 * 4 * 4
    kernels = {"in plane": 9, "cube": 27, "up": 4}
    weights = {
        "encoder": (inputs * 30 + 30 * 30) * kernels["in plane"] * fine,
        "bottleneck": (30 * 60 + 60 * 60) * kernels["cube"] * coarse,
        "up": 60 * 30 * kernels["up"] * coarse,
        "decoder": (60 * 30 + 30 * 30) * kernels["in plane"] * fine,
        "head": 30 * classes * fine,
    }
    counted = network_of(TWO_STAGES, inputs, classes)
    assert counted.forward == sum(weights.values())
    # Back through all of them, once for the weights and once for what comes before; nothing comes before the image.
    first = inputs * 30 * kernels["in plane"] * fine
    assert counted.step == TWO_STAGES.batch_size * (3 * counted.forward - first)
    convolved = (inputs * 30 + 30 * 30 + 60 * 30 + 30 * 30) * 9 + (30 * 60 + 60 * 60) * 27 + 60 * 30 * 4 + 30 * classes
    biases_and_norms = 3 * (4 * 30 + 2 * 60)
    assert counted.parameters == convolved + biases_and_norms


@pytest.mark.parametrize(("task", "model"), [("Task05_Prostate", "3d_fullres"), ("Task04_Hippocampus", "2d")])
def test_counts_are_torchs_own(task, model):
    plan = data_set(task).plan()
    configuration, inputs = plan.configuration_of(model), plan.inputs_of(model)
    with torch.device("meta"):
        network = UNet(configuration, inputs, len(plan.labels))
        with FlopCounterMode(display=False) as counter:
            logits = network(torch.empty((configuration.batch_size, inputs, *configuration.patch_size)))
            forward = counter.get_total_flops() // 2
            logits.sum().backward()
    counted = plan_network(plan, model)
    assert counted.forward * configuration.batch_size == forward
    assert counted.step == counter.get_total_flops() // 2
    assert counted.parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("task", "reference"),
    [
        ("Task02_Heart", "heart_like"),
        ("Task05_Prostate", "prostate_like"),
        ("Task03_Liver", "liver_like"),
        ("LiTS", "liver_like"),
        ("BCV", "bcv_like"),
    ],
)
def test_plans_are_those_of_the_authors_code(task, reference):
    planned = data_set(task).plan().configurations
    expected = REFERENCE[reference]["configurations"]
    assert {name: (list(one.patch_size), one.batch_size) for name, one in planned.items()} == {
        name: (one["patch_size"], one["batch_size"]) for name, one in expected.items()
    }


def test_a_slower_card_takes_longer_and_batches_that_come_slowly_are_waited_for():
    chosen = data_set("Task02_Heart")
    plan = chosen.plan()
    speed = Speed(rate=1e14, predicting=1e13, fed=1e9, least=0.0)
    fast, slow = (trainings(chosen, plan, one) for one in (speed, replace(speed, rate=5e13)))
    for one, other in zip(fast, slow, strict=True):
        assert other.hours[0] == pytest.approx(2 * one.hours[0])
        assert one.step == pytest.approx(one.network.step / 1e14)
    for starved in trainings(chosen, plan, replace(speed, fed=1e3)):
        patches = starved.configuration.batch_size * prod(starved.configuration.patch_size)
        assert starved.hours[1] == pytest.approx(1000 * 300 * patches / 1e3 / 3600)
    for least in trainings(chosen, plan, replace(speed, least=7.0)):
        assert least.hours[1] == pytest.approx(1000 * 300 * 7 / 3600)


def test_speed_is_that_of_the_network_measured():
    plan = data_set("Task02_Heart").plan()
    alone = plan.model_copy(update={"configurations": {"3d_fullres": plan.configurations["3d_fullres"]}})
    figures = {
        "step_milliseconds": 50,
        "float32_step_milliseconds": 200,
        "loop_batches_a_second": 10,
        "small_network_batch_milliseconds": 4,
    }
    speed = Speed.measured(figures, alone)
    assert speed.rate == pytest.approx(20 * plan_network(plan, "3d_fullres").step)
    assert speed.predicting == pytest.approx(speed.rate / 4)
    assert speed.fed == 10 * 2 * 64 * 192 * 160 and speed.least == 0.004


MEASURED = {
    "kinds": {"brain": {"image_file": 2.0, "label_file": 0.5, "store_image": 3.0, "store_labels": 0.25}},
    "probabilities": 0.1,
    "image_without_weights": 1e6,
}


def test_disk_of_cases_that_share_images():
    lesions = data_set("MSLesions")
    found = disk(lesions, lesions.plan(), MEASURED)
    file, cropped = 181 * 217 * 181, 138 * 169 * 138
    assert found.images == pytest.approx(file * ((21 + 61) * 4 * 2.0 + 42 * 0.5))
    # 2d and 3d_fullres, both at the files' spacing; images once for both raters, labels for each.
    locations = 42 * 10_000 * 12
    assert found.stores == pytest.approx(2 * (cropped * (21 * 4 * 3.0 + 42 * 0.25) + locations))
    assert found.probabilities == pytest.approx(2 * 2 * 2 * 21 * cropped * 0.1)


def test_weights_checkpoint_and_entry_of_a_cascade():
    bcv = data_set("BCV")
    plan = bcv.plan()
    parameters = {model: plan_network(plan, model).parameters for model in plan.models}
    found = disk(bcv, plan, MEASURED | {"kinds": {"CT": MEASURED["kinds"]["brain"]}})
    assert found.weights == 5 * 4 * sum(parameters.values())
    assert found.checkpoint == 2 * 4 * 4 * max(parameters.values())
    with_first_stage = sum(parameters[model] for model in ("3d_lowres", "3d_fullres", "3d_cascade_fullres"))
    with_slices = sum(parameters[model] for model in ("2d", "3d_lowres", "3d_cascade_fullres"))
    assert found.entry == 1e6 + 2 * 5 * 4 * max(with_first_stage, with_slices)
    assert (
        found.total
        == sum((found.images, found.stores, found.weights, found.checkpoint, found.probabilities)) + found.entry
    )
