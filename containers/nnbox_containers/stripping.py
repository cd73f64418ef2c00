"""What of the wheels never runs in an image, and is therefore deleted after it is installed: readable in one place.

Patterns are paths below ``site-packages``, as a shell globs them. A wrong one shows: the build's last step imports the
program, and ``tests/containers/test_cpu_image.py`` predicts with the result.
"""

from __future__ import annotations

EVERYWHERE = (
    "numpy/f2py",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/random/lib",
    "numpy/random/_examples",
    "nibabel/benchmarks",
    "nibabel/cmdline",
    "pip",
    "pip-*.dist-info",
)
"""Interfaces to Fortran and C, programs, and what installed the rest."""

BY_RUNTIME: dict[str, tuple[str, ...]] = {
    "cpu": (
        # Plugins for other devices, and those that spread work over several.
        "openvino/libs/libopenvino_intel_gpu_plugin.so",
        "openvino/libs/cache.json",
        "openvino/libs/libopenvino_intel_npu_*",
        "openvino/libs/libopenvino_auto_plugin.so",
        "openvino/libs/libopenvino_auto_batch_plugin.so",
        "openvino/libs/libopenvino_hetero_plugin.so",
        # Readers of model files: networks are built in memory.
        "openvino/libs/libopenvino_*_frontend.so*",
        "openvino/frontend/jax",
        "openvino/frontend/onnx",
        "openvino/frontend/paddle",
        "openvino/frontend/pytorch",
        "openvino/frontend/tensorflow",
        "openvino/libs/libopenvino_c.so*",
        # The converter, which reports every import to its maker, and what compiles against the library.
        "openvino/tools",
        "openvino/torch",
        "openvino/include",
        "openvino/cmake",
    ),
    "cuda": (
        # C++ headers, compilers of messages, test programs.
        "torch/include",
        "torch/share/cmake",
        "torch/test",
        "torch/bin/protoc*",
        "torch/bin/*[Tt]est*",
        "torch/bin/*.pt*",
        "torch/bin/upgrader_models",
    ),
}

NAMED = ("tests",)
"""Folders of this name are deleted wherever they are."""

ENDINGS = (".pyi",)
"""Files that end so are deleted: types, for whoever writes programs."""


def stripping_command(runtime: str) -> str:
    """A shell command for the folder of the installed packages; raises ``KeyError`` for an unknown runtime."""
    patterns = " ".join((*EVERYWHERE, *BY_RUNTIME[runtime]))
    folders = " -o ".join(f"-name {name}" for name in NAMED)
    files = " -o ".join(f"-name '*{ending}'" for ending in ENDINGS)
    return (
        f"rm -rf {patterns} && find . -type d \\( {folders} \\) -prune -exec rm -rf {{}} + "
        f"&& find . -type f \\( {files} \\) -delete"
    )
