"""Running a network with OpenVINO on the CPU: no torch, the same weights' file, labels as torch's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from nnunet_box.cpus import usable_threads
from nnunet_box.errors import InvalidData
from nnunet_box.inference.ahead import Unwanted, asked_to_end
from nnunet_box.inference.ensemble import Member
from nnunet_box.inference.openvino_graph import Mismatch, unet_model
from nnunet_box.planning.plan import Configuration, Plan
from nnunet_box.planning.variant import PAPER, Recipe, recipe

UNWANTED = ("openvino_telemetry", "openvino.tools.ovc")
"""Importing OpenVINO would import its converter, which tells the maker about every import, over the network."""
AGAIN = "Train the fold again or restore the bundle."
LOOK_EVERY_MS = 100
"""How often a call looks for a signal: one on a large patch takes seconds, and an organiser gives five to end."""


@contextmanager
def _blocked(names: tuple[str, ...]) -> Iterator[None]:
    """Modules that cannot be imported for a while; OpenVINO goes on without them."""
    absent = [name for name in names if name not in sys.modules]
    modules: dict[str, Any] = sys.modules
    modules.update(dict.fromkeys(absent))  # None is Python's own mark for what cannot be imported
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


@cache
def openvino() -> Any:
    """The module, imported without its converter and so without a word to anybody."""
    with _blocked(UNWANTED):
        import openvino as module
    return module


@cache
def _core() -> Any:
    return openvino().Core()


def device_name() -> str:
    """The processor, as OpenVINO's plugin for it tells; fails where the plugin or a library it needs is missing."""
    return str(_core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def cpu_properties(threads: int) -> dict[str, Any]:
    """How a network is compiled.

    float32 throughout: on newer processors the default is bfloat16, and labels would be others than torch's. Threads
    are bound to no core: beside another container they would all sit on the same.
    """
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }


class OpenVinoRuntime:
    """A U-Net compiled for the CPU."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = _core().compile_model(model, "CPU", cpu_properties(threads))
        self._request = self._model.create_infer_request()

    @classmethod
    def load(
        cls,
        weights: Path,
        configuration: Configuration,
        inputs: int,
        classes: int,
        chosen: Recipe = PAPER,
        threads: int | None = None,
    ) -> OpenVinoRuntime:
        """Network from safetensors. threads: as many as this process may use, if None.

        Raises
        ------
        InvalidData: the file is missing, damaged, or of another network.
        """
        arrays = _read_arrays(weights)
        try:
            model = unet_model(openvino(), configuration, inputs, classes, chosen, arrays)
        except Mismatch as error:
            raise InvalidData(weights, error.expected, error.found, AGAIN) from error
        return cls(model, threads or usable_threads())

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        # Both names are held until the end: the request itself keeps neither the tensor nor the array alive.
        array = np.ascontiguousarray(batch)
        tensor = openvino().Tensor(array, shared_memory=True)
        self._request.set_input_tensor(tensor)
        self._request.start_async()
        try:
            while not self._request.wait_for(LOOK_EVERY_MS):
                if asked_to_end():
                    raise Unwanted
        except BaseException:
            self._request.cancel()
            raise
        # A copy: the next call writes over the request's own memory.
        logits: NDArray[np.float32] = self._request.get_output_tensor().data.copy()
        return logits

    def release(self) -> None:
        """Give back the memory of the layers' outputs, several hundred megabytes for a large patch."""
        self._model.release_memory()


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file of safetensors, as ``network.tensors`` reads them with torch."""
    what = "weights of this plan's network"
    try:
        arrays: dict[str, NDArray[Any]] = load_file(file)
    except Exception as error:
        # A damaged header can fail in any way; none of it may end in a traceback.
        raise InvalidData(file, what, f"a file that does not open ({' '.join(str(error).split())})", AGAIN) from error
    for name, array in arrays.items():
        if array.dtype != (np.int64 if name.endswith("num_batches_tracked") else np.float32):
            raise InvalidData(file, f"{what} in float32", f"{name} in {array.dtype}", AGAIN)
        if not np.isfinite(array).all():
            raise InvalidData(file, f"{what}, finite", f"NaN or infinity in {name}", AGAIN)
    return arrays


def plan_network(member: Member, weights: Path, plan: Plan, threads: int | None = None) -> OpenVinoRuntime:
    """A trained network of ``plan`` on the CPU."""
    configuration, inputs = plan.configuration_of(member.configuration), plan.inputs_of(member.configuration)
    return OpenVinoRuntime.load(weights, configuration, inputs, len(plan.labels), recipe(member.variants), threads)
