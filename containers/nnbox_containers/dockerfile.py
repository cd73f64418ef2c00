"""From values to the text of a Dockerfile, without asking anyone: the same values give the same text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from nnbox_containers.profile import Profile
from nnbox_containers.stripping import stripping_command
from nnbox_containers.wheelhouse import ADAPTERS
from nnunet_box.errors import UsageError

ENTRY_MODULE = "nnunet_box.inference.entry"
RUNTIME_CHECKS = {
    "cpu": "from nnunet_box.inference.openvino_runtime import device_name; device_name()",
    "cuda": "import nnunet_box.inference.torch_runtime",
}
VENV_PYTHON = "/opt/nnbox/venv/bin/python"
BUNDLE = "/opt/nnbox/bundle"
COMMAND, SCRIPT = "nnbox-predict", "predict.sh"
COMMAND_TEXT = f'#!/bin/sh\nexec {VENV_PYTHON} -m {ENTRY_MODULE} "$@"\n'
"""What a command line in the image finds on its PATH."""
SCRIPT_TEXT = f'#!/bin/sh\nexec {COMMAND} "$@"\n'

# The grammar of image names (distribution/reference): a registry may come first, path parts are lower-case.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REGISTRY = r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]+)?"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_NAME = re.compile(rf"(?:{_REGISTRY}/)?{_PART}(?:/{_PART})*(?P<tag>:{_TAG})?(?P<digest>@sha256:[0-9a-f]{{64}})?")


def start_instructions(profile: Profile) -> list[str]:
    """How a container of the image starts: what differs between profiles and is no more than a line or two.

    A program in exec form: no shell stands between it and a signal. For a script the organiser names the command, so
    there must be no entry point that takes it for options; that bash is there is tried while building.
    """
    lines = []
    if profile.entry == "script":
        lines += [f"COPY {SCRIPT} {profile.working_directory}/{SCRIPT}", 'RUN ["/bin/bash", "-c", "sh -c true"]']
    if profile.port is not None:
        lines.append(f"EXPOSE {profile.port}")
    lines.append(f"WORKDIR {profile.working_directory}")
    if profile.entry == "script":
        return [*lines, "ENTRYPOINT []", f"CMD {json.dumps(['sh', SCRIPT])}"]
    return [*lines, f"ENTRYPOINT {json.dumps([VENV_PYTHON, '-m', ENTRY_MODULE])}"]


def import_check(challenge: str | None, runtime: str) -> list[str]:
    """A command that fails unless all that the program, its runtime and the challenge's adapter import is there."""
    program = f"import {ENTRY_MODULE}; import nnunet_box.inference.jobs; {RUNTIME_CHECKS[runtime]}"
    if challenge is None:
        return [VENV_PYTHON, "-c", program]
    adapter = f"(found,) = entry_points(group={ADAPTERS!r}, name={challenge!r}); found.load()"
    return [VENV_PYTHON, "-c", f"{program}; from importlib.metadata import entry_points; {adapter}"]


def render_dockerfile(
    profile: Profile,
    base_image: str,
    challenge: str | None,
    labels: Mapping[str, str],
    weights_apart: bool = False,
    runtime: str = "cuda",
) -> str:
    """The Dockerfile of a submission image for ``challenge``; ``labels`` become its last instruction.

    weights_apart: the model is not in the image but mounted. runtime: ``cpu`` or ``cuda``, which decides what is
    stripped.

    Raises
    ------
    UsageError: ``base_image`` is not the name of an image.
    """
    if not _NAME.fullmatch(base_image):
        raise UsageError(f"{base_image!r} is not the name of an image, such as python:3.11-slim.")
    uid, gid = profile.user.split(":")
    template = Template(files("nnbox_containers").joinpath("templates", "image.Dockerfile").read_text(encoding="utf-8"))
    return template.substitute(
        profile=profile.name,
        weights="" if weights_apart else f"COPY bundle/ {BUNDLE}/",
        base_image=base_image,
        uid=uid,
        gid=gid,
        output=profile.output,
        stripping=stripping_command(runtime),
        import_check=json.dumps(import_check(challenge, runtime)),
        start="\n".join(start_instructions(profile)),
        labels=" \\\n      ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in sorted(labels.items())),
    )


def check_tag(tag: str, forbidden: Sequence[str] = ()) -> str:
    """The tag, if an engine takes it as the name of a new image and the organiser its version.

    Raises
    ------
    UsageError: it is not a name; says what one looks like. Or its version is among ``forbidden``.
    """
    found = _NAME.fullmatch(tag)
    if found is None or found["digest"] is not None:
        raise UsageError(
            f"--tag {tag!r} is not the name of an image: lower-case letters and digits, parted by . _ - or /, "
            "then perhaps :VERSION, for example nnbox-acdc:1.0."
        )
    whole = tag if found["tag"] else f"{tag}:latest"
    version = whole.rsplit(":", 1)[1]
    if version in forbidden:
        raise UsageError(
            f"--tag {tag}: the organiser takes no version {version!r}; say one, such as {tag.split(':')[0]}:v1.0.0."
        )
    return whole


def default_tag(dataset: str, version: str) -> str:
    """``nnbox-<dataset>:<version>``, made a valid name: lower case, everything else a hyphen."""
    words = re.sub(r"[^a-z0-9_]+", "-", dataset.lower())
    words = re.sub(r"_{3,}", "__", re.sub(r"[-_]*-[-_]*", "-", words)).strip("-_")
    return check_tag(f"nnbox-{words or 'dataset'}:{re.sub(r'[^A-Za-z0-9_.-]+', '-', version)}")


def _quoted(text: str) -> str:
    """A label's key or value as the Dockerfile wants it: one line, and no variable of the build is put in."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return '"' + re.sub(r"\s*[\r\n]+\s*", " ", escaped) + '"'
