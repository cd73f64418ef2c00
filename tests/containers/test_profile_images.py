"""Every profile's contract, on a real image of a small model: built, started as its organiser does, and strictest."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from image_samples import LABELS, SHAPE, ProfileImage, given_case, label_map, voxels

from nnbox_containers.engine import RunLimits
from nnbox_containers.profiles import PROFILES
from nnbox_containers.staging import DRIVER_MARK, Start, files_left, stage
from nnunet_box.bundle import load_bundle
from nnunet_box.inference.ensemble import InferenceOptions, predict_case
from nnunet_box.inference.torch_runtime import choose_device, plan_network

pytestmark = pytest.mark.docker
Build = Callable[[str], ProfileImage]
AGREE = 0.998
"""Share of the 1260 voxels that must have the label torch gives here: the image computes with OpenVINO, and where two
labels of a random network tie, rounding decides."""


@pytest.fixture(params=PROFILES)
def image(request: pytest.FixtureRequest, profile_image: Build) -> ProfileImage:
    return profile_image(request.param)


@pytest.fixture(scope="module")
def expected(profile_image: Build) -> list[np.ndarray]:
    """What torch predicts here for the cases of seeds 0 and 1."""
    model = profile_image("folder").model
    bundle = load_bundle(model)
    load = partial(plan_network, plan=bundle.plan, device=choose_device("cpu"))
    spacing, members = (2.0, 1.5, 1.25), bundle.ensemble(model)
    return [
        predict_case(voxels(seed)[None], spacing, bundle.plan, members, load, InferenceOptions()) for seed in range(2)
    ]


def staged(image: ProfileImage, scratch: Path) -> list[Start]:
    cases = [given_case(name, seed) for seed, name in enumerate(("one", "two"))]
    return stage(cases, image.profile, image.contract, image.facts, scratch)


def start(image: ProfileImage, one: Start, limits: RunLimits):
    return image.engine.run(image.tag, one.command, one.mounts, limits, one.entrypoint)


@pytest.mark.parametrize("strictness", ["limits", "strictest"])
def test_it_writes_what_the_organiser_takes_and_nothing_else(image, expected, tmp_path, strictness):
    profile = image.profile
    for one in staged(image, tmp_path):
        result = start(image, one, getattr(profile, strictness))
        assert result.exit_code == 0, result.stderr or result.stdout
        left = files_left(one)
        for case in one.cases:
            wanted = one.expected[case.id]
            file = wanted if not wanted.endswith("/") else f"{wanted}{case.id}.mha"
            assert file in left
            left.remove(file)
            found, truth = label_map(one.output / file), expected[("one", "two").index(case.id)]
            assert found.dtype == np.uint8
            assert found.shape == SHAPE
            assert np.mean(found == truth) >= AGREE
            assert len(np.unique(truth)) == 3
            if profile.output_suffixes:
                assert file.endswith(profile.output_suffixes)
        assert left == (["run.json"] if profile.record else [])
        if profile.silent_stderr:
            assert result.stderr == ""


def test_a_damaged_case_ends_with_a_message_and_no_file(image, tmp_path):
    one = staged(image, tmp_path)[0]
    (damaged, *_) = sorted(path for path in one.output.parent.rglob("*") if path.name.endswith((".mha", ".nii.gz")))
    damaged.write_bytes(b"no image")
    result = start(image, one, image.profile.strictest)
    said = result.stdout + result.stderr
    # The driver of an HTTP server tells that it was not answered with 201.
    assert result.exit_code == (1 if image.profile.entry == "http" else 3), said
    assert damaged.name in said
    assert "Traceback" not in said
    left = {name for name in files_left(one) if name not in (damaged.name, "run.json")}
    assert left == ({"two.nii.gz"} if len(one.cases) > 1 else set())


def test_the_image_says_who_it_is(image):
    facts, profile = image.facts, image.profile
    assert facts.user == "1000:1000"
    assert facts.working_directory == profile.working_directory
    assert facts.exposed_ports == (() if profile.port is None else (f"{profile.port}/tcp",))
    assert profile.labels.items() <= facts.labels.items()
    assert facts.labels["org.nnunet-box.profile"] == profile.name
    assert facts.labels["org.nnunet-box.runtime"] == "cpu"
    assert "org.nnunet-box.stage" not in facts.labels
    if profile.entry == "script":
        assert (facts.entrypoint, facts.command) == ((), ("sh", "predict.sh"))
    else:
        assert facts.entrypoint[1:] == ("-m", "nnunet_box.inference.entry")


def test_profile_and_bill_of_materials_lie_inside_for_everyone(image):
    program = (
        "import json; print(json.dumps([open(f'/opt/nnbox/{n}').read() for n in ('profile.json', 'sbom.cdx.json')]))"
    )
    python = ["/opt/nnbox/venv/bin/python", "-c", program]
    result = image.engine.run(image.tag, limits=RunLimits(user="12345:12345"), entrypoint=python)
    profile, bill = map(json.loads, json.loads(result.stdout))
    assert profile == json.loads(image.contract.model_dump_json())
    assert {part["name"] for part in bill["components"]} >= {"numpy", "openvino", "nnunet-box"}


def test_profiles_share_every_layer_up_to_the_model(profile_image):
    one, other = profile_image("grand-challenge").facts.layers, profile_image("brats").facts.layers
    shared = [layer for layer, same in zip(one, other, strict=False) if layer == same]
    # Only profile.json and its working folder come after the weights.
    assert len(one) - len(shared) <= 2


def test_a_server_answers_twice_and_ends_on_sigterm(profile_image, tmp_path):
    image = profile_image("grand-challenge-invoke")
    one = staged(image, tmp_path)[0]
    asked = 'told["invoke"] = ask('
    twice = tuple(word.replace(asked, f'ask("POST", "/invoke", 60); {asked}') for word in one.command)
    assert twice != one.command
    result = image.engine.run(image.tag, twice, one.mounts, image.profile.strictest, one.entrypoint)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith(DRIVER_MARK)]
    told = json.loads(line.removeprefix(DRIVER_MARK))
    assert told["invoke"] == 201
    assert told["exit_code"] == 143
    assert told["stop_seconds"] < 5
    assert files_left(one) == [f"images/{LABELS}/one.mha"]
