"""Network calls one ahead: while the caller works on the outputs of one, the next runs in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.runtime import Runtime

_this_thread = threading.local()


class Unwanted(Exception):
    """A call ended early, as nobody waits for its outputs any more."""


def asked_to_end() -> bool:
    """Whether the thread this is called in runs a network whose outputs nobody waits for any more."""
    end: threading.Event | None = getattr(_this_thread, "end", None)
    return end is not None and end.is_set()


def outputs_ahead(network: Runtime, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """What ``network`` makes of each of ``batches``, in order. Libraries that compute leave Python's lock, so the next
    call runs while the caller is busy, and the batch after it is asked for meanwhile. A single call needs no thread.

    Where the caller stops early, a runtime that looks at ``asked_to_end`` stops in the middle of a call.
    """
    waiting = iter(batches)
    first, following = next(waiting, None), next(waiting, None)
    if first is None:
        return
    if following is None:
        yield network(first)
        return
    from concurrent.futures import ThreadPoolExecutor

    end = threading.Event()

    def call(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        _this_thread.end = end
        return network(batch)

    pool = ThreadPoolExecutor(1)
    try:
        running = pool.submit(call, first)
        del first
        while True:
            outputs = running.result()
            if following is None:
                break
            running = pool.submit(call, following)
            following = next(waiting, None)
            yield outputs
            del outputs
        del running
        yield outputs
    finally:
        end.set()
        pool.shutdown(wait=True, cancel_futures=True)
