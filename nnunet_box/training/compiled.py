"""numba's compiler with the settings all kernels share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
OPTIONS: dict[str, Any] = {
    "fastmath": {"nsz", "arcp", "contract", "reassoc"},
    "error_model": "numpy",
    "nogil": True,
}


def compiled(kernel: Kernel) -> Kernel:
    """The function as machine code, made at its first call and kept beside its module, or in the user's cache."""
    try:
        return cast(Kernel, njit(cache=True, **OPTIONS)(kernel))
    except RuntimeError:  # neither place can be written
        return cast(Kernel, njit(**OPTIONS)(kernel))
