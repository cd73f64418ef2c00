"""What ``nnbox doctor`` finds of software: packages, extras, schedulers, where a network can be trained."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType

from nnunet_box.cli.doctor_finding import Finding
from nnunet_box.memory import GIB

PACKAGES = (
    "nnunet_box",
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "SimpleITK",
    "blosc2",
    "batchgenerators",
    "numba",
    "safetensors",
    "docker",
)
"""The packages whose versions decide results or failures."""

USES = {
    "openvino": "predict on a CPU, build-submission image --runtime cpu",
    "ray": "train-all --executor ray",
    "tensorboard": "train --tracker tensorboard",
    "mlflow": "train --tracker mlflow",
}
"""What an extra of nnunet_box is for; one that is not here is told with its own name."""
NOT_FOR_PEOPLE = ("dev",)

TRAINING = "train, train-all, ablate"
SPEED = "trainings of full length"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def version_of(package: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def examine_packages() -> list[Finding]:
    """Python, and the packages the engine stands on."""
    findings = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")]
    for package in PACKAGES:
        version = version_of(package)
        if version is None:
            advice = f"Install nnunet_box again, or: {_pip()} {package}"
            findings.append(Finding(package, "missing", "not installed", advice))
        else:
            findings.append(Finding(package, "ok", version))
    return findings


def extras() -> dict[str, list[str]]:
    """What each extra of nnunet_box asks for (``{"ray": ["ray>=2.40"]}``), as its own metadata say."""
    found: dict[str, list[str]] = {}
    try:
        requirements: Iterable[str] = metadata.requires("nnunet_box") or ()
    except metadata.PackageNotFoundError:
        requirements = ()
    for requirement in requirements:
        asked = re.fullmatch(r"""\s*([^;]*?)\s*;.*\bextra\s*==\s*['"]([\w-]+)['"].*""", requirement)
        if asked is not None and asked[2] not in NOT_FOR_PEOPLE:
            found.setdefault(asked[2], []).append(asked[1])
    return found


def examine_extras() -> list[Finding]:
    """The extras, each with what it is for and the line that installs it."""
    findings = []
    for extra, requirements in extras().items():
        names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements]
        versions = {name: version_of(name) for name in names}
        used = USES.get(extra, f"what the extra {extra} adds")
        if None in versions.values():
            lacking = [one for one, name in zip(requirements, names, strict=True) if versions[name] is None]
            advice = f"{_pip()} {' '.join(map(repr, lacking))}"
            findings.append(Finding(extra, "optional", "not installed", advice, used))
        else:
            found = ", ".join(version or "" for version in versions.values())
            findings.append(Finding(extra, "ok", found, needed_for=used))
    return findings


def _pip() -> str:
    return f"{Path(sys.executable).name} -m pip install"


def examine_slurm() -> list[Finding]:
    """Whether jobs can be submitted from this machine."""
    used, there = "train-all --executor slurm", shutil.which("sbatch")
    if there is None:
        advice = "Run nnbox on a machine of the cluster from which jobs are submitted."
        return [Finding("slurm", "optional", "no sbatch on the PATH", advice, used)]
    return [Finding("slurm", "ok", there, needed_for=used)]


def examine_devices() -> list[Finding]:
    """Where a network can be trained: the CPU's usable cores, and each CUDA device that torch can use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    findings = [Finding("cpu", "ok", f"{cores} usable cores")]
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = f"Install torch again: {_pip()} --force-reinstall torch"
        return [*findings, Finding("torch devices", "missing", f"torch does not load: {error}", advice, TRAINING)]
    if not torch.cuda.is_available():
        findings.append(_no_gpu(torch))
        return findings
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


def driver_version() -> str | None:
    """Version of NVIDIA's driver in the kernel; None where it is not loaded."""
    try:
        text = NVIDIA_DRIVER.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found is not None else "of unknown version"


def _no_gpu(torch: ModuleType) -> Finding:
    """Why torch can use no CUDA device: none there, one that is hidden, a torch without CUDA, or one that the driver
    cannot serve.
    """
    driver, hidden = driver_version(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if driver is None:
        advice = "Training works on the CPU; give it a time with --budget. A card of NVIDIA's needs its driver first."
        return Finding("gpu", "warning", "no CUDA device that torch can use", advice, SPEED)
    there = f"NVIDIA's driver {driver} is loaded"
    if torch.version.cuda is None:
        advice = "Install a torch for CUDA: the page Get Started of pytorch.org has the line for this machine."
        return Finding("gpu", "warning", f"{there}, but torch {torch.__version__} has no CUDA", advice, SPEED)
    if hidden is not None and not re.match(r"\d|GPU-|MIG-", hidden):
        advice = "Run without that variable: unset CUDA_VISIBLE_DEVICES"
        return Finding("gpu", "warning", f"{there}, but CUDA_VISIBLE_DEVICES={hidden!r} hides it", advice, SPEED)
    try:
        torch.cuda.init()
        reason = "torch does not say why it cannot use a card"
    except (RuntimeError, AssertionError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    advice = f"Update the driver for CUDA {torch.version.cuda}, or install a torch for the CUDA that nvidia-smi names."
    return Finding("gpu", "warning", f"{there}; {reason}", advice, SPEED)
