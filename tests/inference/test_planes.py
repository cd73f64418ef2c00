"""Outputs that become labels plane by plane: the same labels, in memory that does not grow with the image."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nnunet_box.inference import predictor
from nnunet_box.inference.ensemble import InferenceOptions, Member, predict_prepared, prepare_members
from nnunet_box.inference.export import labels_on_source
from nnunet_box.inference.planes import labels_of_planes
from nnunet_box.inference.predictor import Windows, predict_planes, predict_probabilities
from nnunet_box.planning.conventions import Interpolation, Resampling
from nnunet_box.preprocessing.pipeline import Placement
from tests.training.toys import toy_plan

CLASSES = 4


class Squares:
    """A network of few voxels' reach: logits from the voxel, its square and its neighbour; counts its calls."""

    def __init__(self, seed: int = 0, classes: int = CLASSES) -> None:
        self.weights = np.random.default_rng(seed).normal(size=(classes, 3)).astype(np.float32)
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls.append(batch.shape)
        features = np.stack([batch[:, 0], batch[:, 0] ** 2, np.roll(batch[:, 0], 1, -1)], axis=1)
        return np.ascontiguousarray(np.einsum("kf,bf...->bk...", self.weights, features, dtype=np.float32))


def pieces(outputs: NDArray[np.floating], seed: int) -> Iterator[NDArray[np.floating]]:
    """Blocks of planes of any size, in one piece of memory that is written over."""
    random, first = np.random.default_rng(seed), 0
    while first < outputs.shape[1]:
        count = int(random.integers(1, 9))
        block = outputs[:, first : first + count].copy()
        yield block
        block[:] = np.nan
        first += count


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("grid", [(12, 20, 17), (21, 9, 30), (30, 31, 8), (40, 3, 4)])
@pytest.mark.parametrize(("order", "spacing"), [(1, (1.0, 1.0, 1.0)), (1, (5.0, 1.0, 1.0)), (3, (1.0, 1.2, 1.0))])
def test_planes_become_the_labels_that_the_whole_becomes(
    kind: type, axes: tuple[int, int, int], grid: tuple[int, int, int], order: int, spacing: tuple[float, float, float]
) -> None:
    """Of float16 outputs a voxel is now and then halfway between two classes; where axes are interpolated in another
    order its rounding differs.
    """
    shape, box = (26, 30, 24), ((2, 23), (0, 30), (1, 18))
    outputs_back = Resampling(outputs=Interpolation(order=order, order_apart=0))
    placement = Placement(shape, box, spacing, (1.0, 1.0, 1.0), grid, axes, outputs_back)
    sizes = [grid[axis] for axis in axes]
    outputs = np.random.default_rng(sum(grid)).normal(size=(CLASSES, *sizes)).astype(kind)
    found = labels_of_planes(pieces(outputs, order), placement)
    expected = labels_on_source([(outputs, placement)])
    assert found.dtype == np.uint8 and found.shape == shape
    assert (found != expected).mean() < (1e-3 if kind == np.float16 else 1e-4)
    assert len(np.unique(expected)) == CLASSES


@pytest.mark.parametrize("patch", [(8, 16, 16), (16, 16)])
@pytest.mark.parametrize("shape", [(9, 37, 14), (45, 20, 33), (5, 7, 9)])
@pytest.mark.parametrize("half", [False, True])
def test_planes_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, patch: tuple[int, ...], shape: tuple[int, int, int], half: bool
) -> None:
    monkeypatch.setattr(predictor, "VOXELS_A_CALL", 20_000)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    windows = Windows(patch, CLASSES, average_logits=half, half_precision=half)
    whole = predict_probabilities([Squares()], image, windows)
    planes = [block.copy() for block in predict_planes(Squares(), image, windows)]
    assert np.array_equal(np.concatenate(planes, axis=1), whole)
    assert len(planes) > 1 or shape == (5, 7, 9)


def test_calls_are_one_for_each_full_batch_of_windows_and_flips() -> None:
    """Windows and mirrored copies share calls up to 2 million voxels, and no slice is asked about twice."""
    network = Squares()
    image = np.zeros((1, 24, 64, 48), np.float32)
    list(predict_planes(network, image, Windows((8, 16, 16), CLASSES)))
    windows, copies, patch = 5 * 7 * 5, 8, 8 * 16 * 16
    assert sum(call[0] for call in network.calls) == windows * copies
    assert len(network.calls) == -(-windows // (2_000_000 // (patch * copies)))
    network.calls.clear()
    list(predict_planes(network, image, Windows((64, 48), CLASSES)))
    assert [call[0] for call in network.calls] == [24 * 4]


def peak_bytes(work: Callable[[], NDArray[Any]]) -> int:
    """Highest memory that ``work`` takes beside its result."""
    tracemalloc.start()
    try:
        result = work()
        return tracemalloc.get_traced_memory()[1] - result.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("conventions", ["paper", "nnunet-v2"])
def test_a_single_network_keeps_no_outputs_of_a_whole_image(monkeypatch: pytest.MonkeyPatch, conventions: str) -> None:
    """Bytes that each further voxel costs: less than a class's outputs, where keeping all took 16 for three classes.
    The images differ by far more than a call, as what the call ahead holds at the peak is a matter of time.
    """
    monkeypatch.setattr(predictor, "VOXELS_A_CALL", 4096)
    plan = toy_plan().model_copy(update={"conventions": conventions})
    network, members = Squares(classes=3), [Member("3d_fullres", (Path("x"),))]
    options = InferenceOptions(mirroring=False)
    peaks = []
    for planes in (80, 640):
        image = np.random.default_rng(0).random((1, planes, 24, 24)).astype(np.float32) + 1
        prepared = prepare_members(image, (1.0, 1.0, 1.0), plan, members)
        peaks.append(peak_bytes(lambda p=prepared: predict_prepared(p, plan, members, lambda *_: network, options)))
    assert (peaks[1] - peaks[0]) / (560 * 24 * 24) < 4


def test_several_networks_take_little_beside_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float32 the windows' weights, a quarter here; of float16 the planes at work; and the outputs of a window and
    of the one ahead.
    """
    monkeypatch.setattr(predictor, "VOXELS_A_CALL", 2048)
    image = np.random.default_rng(0).random((1, 40, 64, 48)).astype(np.float32)
    networks = [Squares(seed) for seed in range(3)]
    for half, share in ((False, 0.3), (True, 0.35)):
        windows = Windows((8, 16, 16), CLASSES, mirroring=False, average_logits=half, half_precision=half)
        size = CLASSES * image.size * (2 if half else 4)
        peak = peak_bytes(lambda w=windows: predict_probabilities(networks, image, w))
        assert peak < share * size + 10 * 8 * 16 * 16 * CLASSES * 4
