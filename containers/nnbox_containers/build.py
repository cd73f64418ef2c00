"""From a bundle to an image: what goes into the context, whether the base fits, and the build."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from nnbox_containers.checks import NO_CHALLENGE
from nnbox_containers.context import CHUNK_BYTES, BuildContext, ContextFile
from nnbox_containers.dockerfile import COMMAND, COMMAND_TEXT, SCRIPT, SCRIPT_TEXT, render_dockerfile
from nnbox_containers.engine import BuildFailed, ContainerEngine, ImageFacts, LineListener, StartFailed
from nnbox_containers.front_end import image_contract
from nnbox_containers.lock import locked_requirements
from nnbox_containers.profile import Profile
from nnbox_containers.sbom import software_bill
from nnbox_containers.wheelhouse import Pin
from nnunet_box import __version__
from nnunet_box.bundle import BUNDLE_FILE, Bundle
from nnunet_box.contract import CONTRACT_FILE, Contract
from nnunet_box.errors import UsageError
from nnunet_box.files import write_beside

DEFAULT_BASE_IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
# Everything that decides whether a wheel made for this Python installs and runs in the base. A virtual environment is
# made there; pip comes with the wheels.
PROBE = """
import json, platform, sys, venv
version = "%d.%d" % sys.version_info[:2]
print(json.dumps({"python": version, "machine": platform.machine(), "libc": platform.libc_ver()[0]}))
"""


@dataclass(frozen=True)
class ImageRecipe:
    """Everything about an image before an engine sees it."""

    tag: str
    profile: Profile
    base_image: str
    dockerfile: str
    context: BuildContext


def agreed_challenge(folder: Path, bundle: Bundle, challenge: str | None) -> str | None:
    """The challenge an image is for: the bundle's, or the one asked for where the bundle names none.

    None where neither names one: the image then reads a plain folder of cases.

    Raises
    ------
    UsageError: the two differ.
    """
    if challenge is not None and bundle.challenge not in (None, challenge):
        raise UsageError(
            f"{folder}: the bundle is for the challenge {bundle.challenge}, not {challenge}: "
            f"--challenge {bundle.challenge}, or name another DATASET."
        )
    return challenge or bundle.challenge


def bundle_files(folder: Path, bundle: Bundle) -> tuple[ContextFile, ...]:
    """The bundle as an image holds it: ``bundle`` as ``bundle.json``, and the weights of ``folder``."""
    text = json.dumps(bundle.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    return (
        ContextFile(f"bundle/{BUNDLE_FILE}", text.encode()),
        *(ContextFile(f"bundle/{entry.file}", folder / entry.file) for entry in bundle.weights_files),
    )


def image_recipe(
    folder: Path,
    bundle: Bundle,
    profile: Profile,
    pins: Sequence[Pin],
    wheels: Sequence[Path],
    *,
    tag: str,
    base_image: str = DEFAULT_BASE_IMAGE,
    base_identifier: str | None = None,
    contract: Contract | None = None,
    runtime: str = "cuda",
    weights_apart: bool = False,
) -> ImageRecipe:
    """Decide the Dockerfile and the files of the context; nothing is built, and no engine is asked.

    folder: where the bundle's weights are. bundle: what the image says of itself, its challenge included.
    pins, wheels: what ``inference_pins`` and ``fill_wheelhouse`` return, pip's and nnunet_box's own wheel last.
    base_identifier: the engine's name for the very base image, for the labels. contract: what ``image_contract`` says
    of this submission; its defaults where it is None. runtime: for the labels. weights_apart: the image holds no model,
    one is mounted where the profile says.

    Raises
    ------
    UsageError: the organiser mounts no model.
    """
    challenge = bundle.challenge
    if weights_apart and profile.model is None:
        raise UsageError(f"Profile {profile.name} mounts no model; build the image with its weights inside.")
    bundled = bundle_files(folder, bundle)
    *needed, pip, program = wheels
    requirements = locked_requirements(pins, needed).encode()
    labels = image_labels(bundle, profile, base_image, base_identifier) | {
        "org.nnunet-box.runtime": runtime,
        "org.nnunet-box.challenge": challenge or NO_CHALLENGE,
        "org.nnunet-box.model.sha256": files_sha256(bundled),
        "org.nnunet-box.lock.sha256": hashlib.sha256(requirements).hexdigest(),
    }
    dockerfile = render_dockerfile(profile, base_image, challenge, labels, weights_apart, runtime)
    known = contract or image_contract(profile, bundle)
    title = labels["org.opencontainers.image.title"]
    context = BuildContext(
        (
            ContextFile("Dockerfile", dockerfile.encode()),
            ContextFile("requirements.txt", requirements),
            *(ContextFile(f"wheels/{wheel.name}", wheel) for wheel in needed),
            ContextFile(f"pip/{pip.name}", pip),
            ContextFile(f"program/{program.name}", program),
            ContextFile(f"start/{COMMAND}", COMMAND_TEXT.encode(), executable=True),
            *([ContextFile(SCRIPT, SCRIPT_TEXT.encode(), executable=True)] if profile.entry == "script" else []),
            *(() if weights_apart else bundled),
            ContextFile(f"nnbox/{CONTRACT_FILE}", (known.model_dump_json(indent=1) + "\n").encode()),
            ContextFile("nnbox/requirements.txt", requirements),
            ContextFile(
                "nnbox/sbom.cdx.json",
                software_bill(title, __version__, pins, needed, program, base_image, base_identifier),
            ),
        )
    )
    return ImageRecipe(tag, profile, base_image, dockerfile, context)


def image_labels(bundle: Bundle, profile: Profile, base_image: str, base_identifier: str | None) -> dict[str, str]:
    """Labels by the OCI's names (github.com/opencontainers/image-spec, annotations.md), the organiser's and ours.

    ``created`` is the time in SOURCE_DATE_EPOCH where that is set (reproducible-builds.org), else now.

    Raises
    ------
    UsageError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        created = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH={epoch}: seconds since 1970 are a whole number.") from error
    labels = {
        "org.opencontainers.image.title": f"nnU-Net for {bundle.dataset}",
        "org.opencontainers.image.description": profile.title,
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.created": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "org.opencontainers.image.base.name": base_image,
        "org.nnunet-box.dataset": bundle.dataset,
        "org.nnunet-box.profile": profile.name,
        "org.nnunet-box.postprocessing": bundle.postprocessing.model_dump_json(),
    }
    if base_identifier is not None:
        labels["org.opencontainers.image.base.digest"] = base_identifier
    return labels | dict(profile.labels)


def write_model_archive(file: Path, folder: Path, bundle: Bundle) -> None:
    """Write the model as the ``tar.gz`` that a platform unpacks where ``Profile.model`` says, whole or not at all.

    Equal models give equal bytes.

    Raises
    ------
    NnboxError: the disk is full or the folder cannot be written.
    """
    files = [replace(entry, name=entry.name.removeprefix("bundle/")) for entry in bundle_files(folder, bundle)]
    with (
        write_beside(file) as temporary,
        temporary.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=1, mtime=0) as archive,
    ):
        for piece in BuildContext(tuple(files)).chunks():
            archive.write(piece)


def files_sha256(files: Sequence[ContextFile]) -> str:
    """One SHA-256 over names and contents, in the order of the names; large files are read in pieces."""
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        one = hashlib.sha256()
        if isinstance(file.source, bytes):
            one.update(file.source)
        else:
            with file.source.open("rb") as stream:
                while piece := stream.read(CHUNK_BYTES):
                    one.update(piece)
        whole.update(f"{one.hexdigest()}  {file.name}\n".encode())
    return whole.hexdigest()


def check_base(engine: ContainerEngine, base_image: str) -> str:
    """Start the base image once and compare its Python with this one, for which the wheels are; return its identifier.

    Raises
    ------
    UsageError: it has no python3 that can make a virtual environment, or one that this program's wheels do not fit.
    ImageMissing: it is not here and cannot be fetched.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    ours = {"python": version, "machine": platform.machine(), "libc": platform.libc_ver()[0]}
    advice = f"--base-image takes another, for example {DEFAULT_BASE_IMAGE}."
    try:
        result = engine.run(base_image, ["-c", PROBE], entrypoint=["python3"])
    except StartFailed as error:
        raise UsageError(f"Base image {base_image} has no python3 to start: {advice}") from error
    if result.exit_code != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
        raise UsageError(f"Base image {base_image}: its python3 cannot make a virtual environment ({reason}): {advice}")
    theirs = json.loads(result.stdout.strip().splitlines()[-1])
    if theirs != ours:
        wrong = [f"{key} {theirs[key] or 'unknown'} instead of {ours[key]}" for key in ours if theirs[key] != ours[key]]
        raise UsageError(
            f"Base image {base_image} has {', '.join(wrong)}, and wheels of this machine do not fit: "
            f"{advice} Or run nnbox with the base's Python."
        )
    return engine.inspect(base_image).identifier


def build_image(engine: ContainerEngine, recipe: ImageRecipe, listen: LineListener) -> ImageFacts:
    """Build the image of a recipe, telling ``listen`` each line; return its facts.

    Raises
    ------
    BuildFailed: with the failing step and the end of its output; or another build took the tag meanwhile.
    """
    identifier = engine.build(recipe.context, recipe.tag, listen)
    facts = engine.inspect(recipe.tag)
    if facts.identifier != identifier:
        raise BuildFailed(f"{recipe.tag}: another build took that name meanwhile: choose another --tag, build again.")
    return facts
