"""Running one function over many cases in a few processes, in order, stopping at the first error."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from nnunet_box.cpus import usable_threads
from nnunet_box.errors import NnboxError
from nnunet_box.memory import GIB, free_memory_gib
from nnunet_box.progress import track

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

Item = TypeVar("Item")
Result = TypeVar("Result")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
SHARE_OF_FREE_MEMORY = 0.5
"""What all workers together may take of what is free when they start; others use the machine too."""


def workers_that_fit(bytes_each: float) -> int:
    """One worker a core that may be used, fewer where their memory would not fit; never none."""
    cores = usable_threads()
    free = free_memory_gib()
    return cores if free is None else max(1, min(cores, int(SHARE_OF_FREE_MEMORY * free * GIB / bytes_each)))


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    processes: int | None = None,
    option: str = "--processes",
    preload: Sequence[str] = (),
) -> Generator[tuple[Item, Result], None, None]:
    """Yield (item, result) as they finish, with progress. In this process where one worker would do.

    option: the command line's name for ``processes``, for the message where memory ran out. preload: modules that
    ``function`` imports when it is called. A result is let go of once it is yielded. Who may stop in between closes the
    generator (``contextlib.closing``), so that work not yet begun is dropped then too.

    Raises whatever ``function`` raises; work not yet begun is then dropped.
    """
    workers = min(processes or usable_threads(), len(items))
    if workers <= 1:
        for item in track(items, what):
            yield item, function(item)
        return
    # Here, so that whoever predicts case by case (an image, through an adapter) does not wait for them.
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool

    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    # Workers read these when they load numpy; two levels of threads would only fight over the cores.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        with ProcessPoolExecutor(workers, _context([_module_of(function), *preload]), end_with_parent) as pool:
            futures = {pool.submit(function, item): item for item in items}
            try:
                for future in track(as_completed(futures), what, total=len(futures)):
                    yield futures.pop(future), future.result()
            except BrokenProcessPool as error:
                raise NnboxError(
                    f"{what}: a worker process was killed, most likely because memory ran out with {workers} cases at "
                    f"once. Run it again with fewer: {option} 1."
                ) from error
            except BaseException:
                # Waiting, as leaving the pool's block before it has heard of this takes it back.
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def end_with_parent() -> None:
    """In a worker process: end as soon as the process that wants its results is gone, even where it was killed.

    Left alone, a worker would finish what it was given, writing where the next run writes, and then wait for ever.
    """
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="nnbox-parent", daemon=True).start()


def _module_of(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):
        function = function.func
    return function.__module__


def _context(modules: Sequence[str]) -> BaseContext:
    """How workers are started: forked off one small server that has imported ``modules``, once for all of them.

    The server is this process's, for all its pools; only the first pool's modules are in it. It is no copy of this
    process, whose threads and memory may be many. Elsewhere than on Linux each worker is an interpreter of its own.
    """
    import multiprocessing

    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    try:
        forkserver.ensure_running()
    except OSError:
        # TMPDIR is longer than the name of a socket may be.
        return multiprocessing.get_context("spawn")
    return context
