"""What engines say while they build, in one language: that of Docker's classic builder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nnbox_containers.docker_connection import advised


def as_docker_says(line: str) -> str:
    """A line of a build; Podman's steps and layers in the words of Docker's classic builder."""
    if step := re.fullmatch(r"(?:\[\d+/\d+\] )?STEP (\d+/\d+): (.*)", line):
        return f"Step {step[1]} : {step[2]}"
    if layer := re.fullmatch(r"--> ([0-9a-f]+)", line):
        return f"---> {layer[1]}"
    return line


def failure(tag: str, step: str, reason: str, tail: Sequence[str]) -> str:
    """The message of a build that failed at ``step``, with the end of its output."""
    output = "".join(f"\n    {line}" for line in tail if not line.startswith(("Step ", "--->")))
    return f"{tag}: the build failed at {step!r}: {advised(reason)}{output}"


def pulling(event: dict[str, Any]) -> str:
    """A line for the events of a base image that is fetched: without the counters, which change many times a second."""
    return f"{event['status']} {event.get('id', '')}" if "status" in event and not event.get("progressDetail") else ""
