"""``nnbox doctor``: what this machine offers, and what is missing for which command."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from nnunet_box.memory import GIB, free_memory_gib

PACKAGES = (
    "nnunet_box",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "SimpleITK",
    "blosc2",
    "batchgenerators",
    "safetensors",
    "docker",
)
"""The packages whose versions decide results or failures."""

LEAST_FREE_GIB = 5.0
"""Below this a preprocessed dataset with its models, or an image, is likely not to fit."""
LEAST_MEMORY_GIB = 4.0
ENGINE_TIMEOUT_SECONDS = 5


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``advice`` says what to do; empty where nothing is to be done."""

    what: str
    state: Literal["ok", "warning", "missing"]
    found: str
    advice: str = ""


def versions() -> dict[str, str | None]:
    """Installed versions by distribution name; None where a package is missing."""
    from importlib import metadata

    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def examine_packages() -> list[Finding]:
    """Python, and the packages the engine stands on."""
    findings = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    for package, version in versions().items():
        if version is None:
            advice = "Install nnunet_box again: pip install nnunet_box."
            findings.append(Finding(package, "missing", "not installed", advice))
        else:
            findings.append(Finding(package, "ok", version))
    return findings


def examine_devices() -> list[Finding]:
    """Where a network can be trained: the CPU's usable cores, and each CUDA device that torch can use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [Finding("cpu", "ok", f"{cores} usable cores")]
    try:
        import torch
    except (ImportError, OSError) as error:
        findings.append(Finding("torch devices", "missing", f"torch does not load: {error}", "Install torch again."))
        return findings
    if not torch.cuda.is_available():
        advice = "Training works on the CPU; give it a time with --budget."
        findings.append(Finding("gpu", "warning", "no CUDA device that torch can use", advice))
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        capability = f"sm_{card.major}{card.minor}"
        built_for = torch.cuda.get_arch_list()
        fits = capability in built_for or any(arch.startswith(f"sm_{card.major}") for arch in built_for)
        findings.append(
            Finding(
                f"cuda:{index}",
                "ok" if fits else "warning",
                f"{card.name}, {card.total_memory / GIB:.0f} GiB, {capability}",
                "" if fits else f"This torch is built for {', '.join(built_for)}; install a build for the card.",
            )
        )
    return findings


def examine_engine() -> Finding:
    """Whether a container engine answers; needed for images only."""
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        return Finding("container engine", "missing", str(error), "Install the docker package for Python.")
    try:
        client = docker.from_env(timeout=ENGINE_TIMEOUT_SECONDS)
        try:
            facts = client.version()
        finally:
            client.close()
    except (DockerException, OSError) as error:
        advice = "Start it (systemctl start docker) to build and run images; everything else works without."
        return Finding("container engine", "missing", str(error).splitlines()[0], advice)
    return Finding("container engine", "ok", f"{facts.get('Version', '?')}, {facts.get('Os')}/{facts.get('Arch')}")


def examine_room(workspace: Path) -> list[Finding]:
    """Memory, and disk space where the workspace is or would be."""
    place = workspace.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    advice = "" if free >= LEAST_FREE_GIB else "Free space or choose another --workspace."
    findings = [
        Finding("disk", "ok" if free >= LEAST_FREE_GIB else "warning", f"{free:.0f} GiB free at {place}", advice)
    ]
    if not os.access(place, os.W_OK):
        findings.append(Finding("workspace", "missing", f"{place} is not writable", "Choose another --workspace."))
    memory = free_memory_gib()
    if memory is not None:
        enough = memory >= LEAST_MEMORY_GIB
        advice = "" if enough else "Close other programs, or plan with a smaller --memory-gb."
        findings.append(Finding("memory", "ok" if enough else "warning", f"{memory:.1f} GiB available", advice))
    return findings


def examine(workspace: Path) -> list[Finding]:
    """Everything ``nnbox doctor`` reports, in its order."""
    return [*examine_packages(), *examine_devices(), examine_engine(), *examine_room(workspace)]


def register(app: typer.Typer) -> None:
    """Add ``doctor``."""

    @app.command()
    def doctor(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
        """What this machine offers: torch, devices, container engine, disk, memory, versions.

        Ends with exit code 1 where something is missing that training or prediction needs; a missing container engine
        or GPU is only reported.
        """
        findings = examine(workspace)
        if as_json:
            print(json.dumps([asdict(finding) for finding in findings], indent=1))
        else:
            _show(findings)
        needed = [finding for finding in findings if finding.state == "missing" and finding.what != "container engine"]
        if needed:
            raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warning": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False)
    for column in ("", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        # Text, not markup: a path or a message of the system may hold square brackets.
        state = Text(finding.state, style=styles[finding.state])
        table.add_row(finding.what, state, Text(finding.found), Text(finding.advice))
    Console().print(table)
