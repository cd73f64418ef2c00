"""The demo's last step: the submission image, built, run as an organiser would run it, and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_box import __version__
from nnunet_box.errors import EngineUnavailable, NnboxError

if TYPE_CHECKING:
    from nnbox_containers.engine import ContainerEngine

LOCAL_BASE_IMAGE = "nnbox-base:bookworm"
"""What ``containers/base/debian.sh`` makes where no image registry can be reached."""
MOST_DIFFERENT_VOXELS = 1e-3
"""Share of an image's voxels that may differ between here and the container: rounding decides where two labels tie."""
AGAIN = "and run nnbox demo --keep"


def usable_base(name: str | None) -> tuple[ContainerEngine, str, str]:
    """An engine that answers, a base image that fits, and the engine's identifier of it.

    Without a name: the default base image, or the local one if only that is here.

    Raises
    ------
    EngineUnavailable: no engine. ImageMissing, UsageError: no base image, or one that this machine's wheels do not fit.
    """
    from nnbox_containers.build import DEFAULT_BASE_IMAGE, check_base
    from nnbox_containers.docker_engine import DockerEngine
    from nnbox_containers.engine import ImageMissing

    engine = DockerEngine()
    wanted = name or DEFAULT_BASE_IMAGE
    if name is None:
        for candidate in (DEFAULT_BASE_IMAGE, LOCAL_BASE_IMAGE):
            try:
                engine.inspect(candidate)
            except ImageMissing:
                continue
            wanted = candidate
            break
    return engine, wanted, check_base(engine, wanted)


def build_and_run(
    bundle_folder: Path, tests: Path, predictions: Path, workspace: Path, base_image: str | None
) -> tuple[str | None, str]:
    """Build the image of a bundle, run it without a network on ``tests``, compare with ``predictions`` made here.

    Returns the tag and what the comparison says; or None and why there is no image, where what it takes is not here.

    Raises
    ------
    NnboxError: the build or the container failed, or its label maps are not those predicted here.
    """
    from nnbox_containers.build import build_image, image_recipe
    from nnbox_containers.display import BuildDisplay
    from nnbox_containers.dockerfile import default_tag
    from nnbox_containers.profiles import FOLDER
    from nnbox_containers.wheelhouse import choose_runtime, fill_wheelhouse, image_needs, inference_pins
    from nnunet_box.bundle import load_bundle

    try:
        engine, base, identifier = usable_base(base_image)
    except EngineUnavailable as error:
        return None, f"Image skipped: {error} To have it built too, start an engine (systemctl start docker) {AGAIN}."
    except NnboxError as error:
        return None, f"Image skipped: {error} Name a base image that is here with --base-image {AGAIN}."
    try:
        needs = image_needs(choose_runtime(), "acdc", FOLDER.output_suffixes)
        wheels = fill_wheelhouse(workspace / "wheelhouse", needs)
    except NnboxError as error:
        return None, f"Image skipped: {error}"
    bundle = load_bundle(bundle_folder, check_weights=True)
    tag = default_tag(f"{bundle.dataset}-demo", __version__)
    recipe = image_recipe(
        bundle_folder,
        bundle,
        FOLDER,
        inference_pins(needs),
        wheels,
        tag=tag,
        base_image=base,
        base_identifier=identifier,
        runtime=needs.runtime,
    )
    with BuildDisplay(f"Building {tag} on {base}") as display:
        build_image(engine, recipe, display)
    return tag, run_and_compare(engine, tag, tests, predictions, workspace / "submissions" / bundle.dataset)


def run_and_compare(engine: ContainerEngine, tag: str, tests: Path, predictions: Path, output: Path) -> str:
    """Run the image under every limit it promises to work under; returns how well its files agree with ``predictions``.

    Raises
    ------
    NnboxError: the container failed, a file is missing or too many, or is not what was predicted here.
    """
    import shutil

    from nnbox_containers.engine import Mount
    from nnbox_containers.profiles import FOLDER
    from nnunet_box.progress import say

    say(f"Running {tag} on {tests}")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    output.chmod(0o777)  # the container's user is nobody here and has to write
    mounts = (Mount(tests.resolve(), FOLDER.input, read_only=True), Mount(output.resolve(), FOLDER.output))
    result = engine.run(tag, mounts=mounts, limits=FOLDER.strictest)
    if result.exit_code != 0:
        said = (result.stderr or result.stdout).strip().splitlines() or ["it said nothing"]
        raise NnboxError(f"{tag} ended with exit code {result.exit_code}: {said[-1]}")
    ours, theirs = ({path.name for path in folder.glob("*.nii.gz")} for folder in (predictions, output))
    if ours != theirs or not (output / "run.json").is_file():
        odd = sorted(ours ^ theirs) or ["run.json"]
        raise NnboxError(f"{tag} wrote other files to {output} than were predicted here: {', '.join(odd[:3])}.")
    worst = max(different_voxels(predictions / name, output / name) for name in ours)
    if worst > MOST_DIFFERENT_VOXELS:
        raise NnboxError(f"{tag} predicts otherwise than here: up to {worst:.2%} of an image's voxels differ.")
    agreement = "voxel for voxel as here" if worst == 0 else f"at most {worst:.4%} of an image's voxels other than here"
    return f"{tag}, run without a network: {len(theirs)} files, {agreement}"


def different_voxels(ours: Path, theirs: Path) -> float:
    """Share of voxels with another label, after checking that type, shape, spacing and place are the same.

    Raises
    ------
    NnboxError: one of those differs.
    """
    import numpy as np

    from nnunet_box.dataset.volumes import read_volume

    here, there = read_volume(ours), read_volume(theirs)
    if here.geometry != there.geometry or here.header["dtype"] != there.header["dtype"]:
        raise NnboxError(
            f"{theirs}: {there.header['dtype']} on {there.geometry}; "
            f"predicted here: {here.header['dtype']} on {here.geometry}."
        )
    return float(np.mean(here.array != there.array))
