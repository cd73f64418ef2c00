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
from nnunet_box.errors import NnboxError
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


def examine_engine() -> list[Finding]:
    """Which container engine answers, where it keeps images, and which limits it can apply; needed for images only."""
    try:
        from nnbox_containers.docker_connection import connect, engine_facts, is_local

        client = connect(ENGINE_TIMEOUT_SECONDS)
        facts, local = engine_facts(client), is_local(client)
    except ImportError as error:
        return [Finding("container engine", "missing", str(error), "Install the docker package for Python.")]
    except NnboxError as error:
        advice = "Needed for images only; everything else works without."
        return [Finding("container engine", "missing", str(error), advice)]
    rootless = ", rootless" if facts.rootless else ""
    found = f"{facts.name} {facts.version}, {facts.architecture}, API {facts.api_version}{rootless}"
    findings = [Finding("container engine", "ok", found)]
    groups = f"control groups version {facts.cgroup_version}"
    if facts.missing_limits:
        advice = "An image cannot be verified under these; mount the control groups, or use version 2 with delegation."
        lacking = f"{groups}, without limits on {', '.join(facts.missing_limits)}"
        findings.append(Finding("container limits", "warning", lacking, advice))
    else:
        found = f"{groups}; the engine limits memory, swap, processes and CPUs"
        findings.append(Finding("container limits", "ok", found))
    if local and facts.storage is not None:
        findings.append(_room("image storage", facts.storage, "Free space: docker system df shows what fills it."))
    return findings


def _room(what: str, place: Path, advice: str) -> Finding:
    """Free space on the disk of ``place``, or of the nearest folder above it that is there and may be looked at."""
    while not os.path.exists(place):  # noqa: PTH110 - no error where the folder may not be looked into
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    enough = free >= LEAST_FREE_GIB
    return Finding(what, "ok" if enough else "warning", f"{free:.0f} GiB free at {place}", "" if enough else advice)


def examine_room(workspace: Path) -> list[Finding]:
    """Memory, and disk space where the workspace is or would be."""
    place = workspace.absolute()
    while not place.exists():
        place = place.parent
    findings = [_room("disk", place, "Free space or choose another --workspace.")]
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
    return [*examine_packages(), *examine_devices(), *examine_engine(), *examine_room(workspace)]


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
