"""``nnbox doctor``: what this machine offers, and what is missing for which command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nnunet_box.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from nnunet_box.errors import NnboxError

if TYPE_CHECKING:
    from nnunet_box.cli.doctor_finding import Finding

ENGINE = "container engine"
ENGINE_TIMEOUT_SECONDS = 5
IMAGES = "build-submission image, verify-submission image, demo --image"


def examine_engine() -> list[Finding]:
    """Which container engine answers, where it keeps images, and which limits it can apply; needed for images only."""
    from nnunet_box.cli.doctor_finding import Finding
    from nnunet_box.cli.doctor_machine import room

    try:
        from nnbox_containers.docker_connection import connect, engine_facts, is_local

        client = connect(ENGINE_TIMEOUT_SECONDS)
        facts, local = engine_facts(client), is_local(client)
    except ImportError as error:
        return [Finding(ENGINE, "missing", str(error), "Install the docker package: pip install docker", IMAGES)]
    except NnboxError as error:
        advice = "Start an engine, or name it with DOCKER_HOST; everything but images works without."
        return [Finding(ENGINE, "missing", str(error), advice, IMAGES)]
    rootless = ", rootless" if facts.rootless else ""
    found = f"{facts.name} {facts.version}, {facts.architecture}, API {facts.api_version}{rootless}"
    findings = [Finding(ENGINE, "ok", found, needed_for=IMAGES)]
    groups = f"control groups version {facts.cgroup_version}"
    if facts.missing_limits:
        advice = "An image cannot be verified under these; mount the control groups, or use version 2 with delegation."
        lacking = f"{groups}, without limits on {', '.join(facts.missing_limits)}"
        findings.append(Finding("container limits", "warning", lacking, advice, "verify-submission image"))
    else:
        found = f"{groups}; the engine limits memory, swap, processes and CPUs"
        findings.append(Finding("container limits", "ok", found))
    if local and facts.storage is not None:
        findings.append(room("image storage", facts.storage, "Free space: docker system df shows what fills it."))
    return findings


def examine(workspace: Path) -> list[Finding]:
    """Everything ``nnbox doctor`` reports, in its order."""
    from nnunet_box.cli import doctor_machine, doctor_software

    return [
        *doctor_software.examine_packages(),
        *doctor_software.examine_devices(),
        *doctor_machine.examine_kernels(),
        *doctor_machine.examine_memory(),
        *doctor_machine.examine_limits(),
        *doctor_machine.examine_workspace(workspace),
        *examine_engine(),
        *doctor_software.examine_extras(),
        *doctor_software.examine_slurm(),
    ]


def register(app: typer.Typer) -> None:
    """Add ``doctor``."""

    @app.command()
    def doctor(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
        """What this machine offers, what is missing for which command, and how to mend it.

        Looked at are packages, GPU and driver, memory, limits, the workspace's file system, the container engine, and
        what single commands need beyond that. Ends with exit code 1 where something is missing that training or
        prediction needs; a missing container engine or GPU is only reported.

        Example: nnbox doctor --workspace /shared/nnbox
        """
        from nnunet_box.cli.common import print_json

        findings = examine(workspace)
        if as_json:
            print_json([asdict(finding) for finding in findings])
        else:
            _show(findings)
        needed = [finding for finding in findings if finding.state == "missing" and finding.what != ENGINE]
        if needed:
            raise typer.Exit(1)


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warning": "yellow", "missing": "red", "optional": "dim"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in findings:
        # Text, not markup: a path or a message of the system may hold square brackets.
        told = Text(finding.found)
        if finding.advice:
            told.append(f"\n{finding.advice}", style="bold")
            told.append(f"\nneeded for: {finding.needed_for}" if finding.needed_for else "", style="dim")
        table.add_row(finding.what, Text(finding.state, style=styles[finding.state]), told)
    Console().print(table)
