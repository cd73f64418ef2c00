"""Running one function over many cases in a few processes, in order, stopping at the first error."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nnunet_box.errors import NnboxError
from nnunet_box.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")


def map_cases(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, processes: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, result) as they finish, with progress. In this process where one worker would do.

    Raises whatever ``function`` raises; work not yet begun is then dropped.
    """
    workers = min(processes or os.cpu_count() or 1, len(items))
    if workers <= 1:
        for item in track(items, what):
            yield item, function(item)
        return
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    # Spawned workers read these when they load numpy; two levels of threads would only fight over the cores.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(function, item): item for item in items}
            try:
                for future in track(as_completed(futures), what, total=len(futures)):
                    yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise NnboxError(
                    f"{what}: a worker process was killed, most likely because memory ran out with {workers} cases at "
                    "once. Run it again with fewer: --processes 1."
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
