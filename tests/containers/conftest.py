"""A small bundle, and the images of a small model that several tests look at."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from container_samples import make_bundle
from image_samples import LABELS, SOCKET, ProfileImage, small_model

from nnbox_containers.build import build_image, image_recipe
from nnbox_containers.docker_engine import DockerEngine
from nnbox_containers.front_end import image_contract
from nnbox_containers.profiles import PROFILES
from nnbox_containers.wheelhouse import fill_wheelhouse, image_needs, inference_pins
from nnunet_box.bundle import load_bundle
from nnunet_box.files import link_or_copy


@pytest.fixture
def bundle_folder(tmp_path: Path) -> Path:
    """Folder of a bundle for the challenge acdc that keeps the largest component of label 2."""
    make_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="session")
def wheelhouse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for wheels of this run's own, which begins with those of ``--wheelhouse``."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    given = request.config.getoption("--wheelhouse")
    for wheel in given.glob("*.whl") if given is not None else []:
        link_or_copy(wheel, folder / wheel.name)
    return folder


@pytest.fixture(scope="session")
def profile_image(
    base_image: str, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], ProfileImage]]:
    """The image of a profile by its name, built when it is first asked for; all share the layers up to the model.

    The first stage stays, as that of every build does: the next run begins with it.
    """
    engine = DockerEngine()
    model = small_model(tmp_path_factory.mktemp("model") / "bundle")
    bundle = load_bundle(model)
    needs = image_needs("cpu", "acdc")
    wheels, pins = fill_wheelhouse(wheelhouse, needs), inference_pins(needs)
    tags: list[str] = []

    @cache
    def built(name: str) -> ProfileImage:
        profile, tag = PROFILES[name], f"nnbox-test-{name}-{uuid.uuid4().hex[:12]}:1"
        sockets = ([SOCKET], LABELS) if profile.layout == "sockets" else ()
        contract = image_contract(profile, bundle, *sockets)
        recipe = image_recipe(
            model, bundle, profile, pins, wheels, tag=tag, base_image=base_image, contract=contract, runtime="cpu"
        )
        facts = build_image(engine, recipe, lambda line: None)
        tags.append(tag)
        return ProfileImage(engine, tag, profile, contract, facts, model)

    yield built
    for tag in tags:
        engine.remove(tag)
