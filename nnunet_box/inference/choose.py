"""Which runtime runs a plan's networks, decided without importing the ones that do not."""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from nnunet_box.errors import UsageError
from nnunet_box.inference.ensemble import LoadNetwork
from nnunet_box.planning.plan import Plan

RuntimeName = Literal["auto", "torch", "openvino"]
RUNTIMES: tuple[RuntimeName, ...] = ("auto", "torch", "openvino")
GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""What a driver for CUDA (Linux, WSL) or ROCm puts there; without one torch need not be asked, which takes seconds."""


def network_loader(plan: Plan, runtime: str = "auto", device: str = "auto") -> tuple[LoadNetwork, str]:
    """How the networks of ``plan`` are loaded, and what runs them, for ``run.json`` and a line to the user.

    runtime: ``torch``, ``openvino``, or ``auto``: torch on a GPU where there is one, else OpenVINO, which is faster on
    a CPU (``benchmarks/runtimes.py``), else torch. device: as ``torch_runtime.choose_device``.

    Raises
    ------
    UsageError: an unknown runtime, one that is not installed, or a device that it cannot use.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime {runtime}: there are {', '.join(RUNTIMES)}.")
    chosen = choose_runtime(device) if runtime == "auto" else runtime
    _require(chosen, runtime, device)
    if chosen == "torch":
        from nnunet_box.inference import torch_runtime

        place = torch_runtime.choose_device(device)
        return partial(torch_runtime.plan_network, plan=plan, device=place), f"torch on {place}"
    if device not in ("auto", "cpu"):
        raise UsageError(f"--device {device}: the runtime openvino uses the CPU; --runtime torch for a GPU.")
    from nnunet_box.cpus import usable_threads
    from nnunet_box.inference import openvino_runtime

    threads = usable_threads()
    load = partial(openvino_runtime.plan_network, plan=plan, threads=threads)
    return load, f"openvino on {openvino_runtime.device_name()}, {threads} threads"


def choose_runtime(device: str = "auto") -> str:
    """The faster runtime of those installed for a device; ``torch`` where none is, so that a message names it."""
    if device not in ("auto", "cpu"):
        return "torch"
    if device == "auto" and gpu_is_usable():
        return "torch"
    return "openvino" if find_spec("openvino") is not None else "torch"


def gpu_is_usable() -> bool:
    """Whether torch could use a GPU here. Only where torch is built for one and a driver is there is torch asked."""
    if not torch_has_gpu_support() or not any(Path(name).exists() for name in GPU_DEVICES):
        return False
    from nnunet_box.inference.torch_runtime import choose_device

    return choose_device("auto").type == "cuda"


def torch_has_gpu_support() -> bool:
    """Whether the installed torch is built for CUDA or ROCm, as its version file says; read, not imported."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^(cuda|hip)\b[^=]*= *['\"]", text, re.MULTILINE) is not None


def _require(name: str, asked: str, device: str) -> None:
    if find_spec(name) is not None:
        return
    if asked == "auto" and find_spec("openvino") is not None:
        raise UsageError(f"--device {device}: torch, which uses a GPU, is not installed; leave it out for the CPU.")
    if asked == "auto":
        raise UsageError("Neither torch nor openvino is installed: python -m pip install 'nnunet_box[openvino]'.")
    package = "nnunet_box[openvino]" if name == "openvino" else name
    raise UsageError(f"--runtime {asked}: {name} is not installed: python -m pip install '{package}'.")
