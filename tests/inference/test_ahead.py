"""The network works one call ahead of its caller, and never more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_box.inference.ahead import Unwanted, asked_to_end, outputs_ahead

Batch = NDArray[np.float32]


def batches(count: int, asked: list[int]) -> Iterator[Batch]:
    for number in range(count):
        asked.append(number)
        yield np.full(3, number, np.float32)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_outputs_come_in_order(count: int) -> None:
    found = [float(outputs[0]) for outputs in outputs_ahead(lambda batch: batch * 2, batches(count, []))]
    assert found == [2.0 * number for number in range(count)]


def test_the_next_call_runs_while_the_caller_has_the_last_outputs() -> None:
    began: list[int] = []
    seen = threading.Condition()

    def network(batch: Batch) -> Batch:
        with seen:
            began.append(int(batch[0]))
            seen.notify_all()
        return batch

    asked: list[int] = []
    for number, _ in enumerate(outputs_ahead(network, batches(5, asked))):
        with seen:
            assert seen.wait_for(lambda n=number: len(began) >= min(5, n + 2), timeout=60), "it waits for its caller"
            assert len(began) <= number + 2, "outputs pile up"
        assert len(asked) <= number + 3
    assert began == [0, 1, 2, 3, 4]


def test_a_single_call_is_made_in_the_callers_thread() -> None:
    threads: list[threading.Thread] = []

    def network(batch: Batch) -> Batch:
        threads.append(threading.current_thread())
        return batch

    list(outputs_ahead(network, batches(1, [])))
    assert threads == [threading.main_thread()]
    list(outputs_ahead(network, batches(3, [])))
    assert threading.main_thread() not in threads[1:] and len(set(threads[1:])) == 1


def test_a_call_that_nobody_waits_for_is_asked_to_end() -> None:
    running, ended = threading.Event(), threading.Event()

    def network(batch: Batch) -> Batch:
        if batch[0] == 0:
            return batch
        running.set()
        while not asked_to_end():
            if ended.wait(0.01):
                pytest.fail("never asked")
        raise Unwanted

    outputs = outputs_ahead(network, batches(9, []))
    next(outputs)
    assert running.wait(60)
    timer = threading.Timer(60, ended.set)
    timer.start()
    outputs.close()
    timer.cancel()
    assert not ended.is_set()
    assert not asked_to_end(), "this thread runs no network"


def test_an_error_of_the_network_reaches_the_caller() -> None:
    def network(batch: Batch) -> Batch:
        if batch[0] == 2:
            raise MemoryError
        return batch

    found: list[float] = []
    with pytest.raises(MemoryError):
        for outputs in outputs_ahead(network, batches(5, [])):
            found.append(float(outputs[0]))
    assert found == [0.0, 1.0]
