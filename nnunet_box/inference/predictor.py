"""Sliding-window prediction with mirroring, averaged over networks (paper, Method, Inference)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_box.inference.ahead import outputs_ahead
from nnunet_box.inference.runtime import Runtime
from nnunet_box.inference.tiles import tile_starts, tile_weight
from nnunet_box.preprocessing.previous_stage import foreground_channels

Voxel = TypeVar("Voxel", bound=np.generic)
Outputs = NDArray[np.floating[Any]]
"""Probabilities or logits: float32, or float16 where sums are kept in half precision."""
VOXELS_A_CALL = 2_000_000
"""Patches and mirrored copies are put into one call of the network up to about this many voxels."""


def mirror_axes(axes: Sequence[int], mirroring: bool) -> list[tuple[int, ...]]:
    """All combinations of spatial ``axes`` to flip; only the empty one without mirroring."""
    if not mirroring:
        return [()]
    return list(chain.from_iterable(combinations(axes, count) for count in range(len(axes) + 1)))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax along axis 1, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


@dataclass(frozen=True)
class Windows:
    """How a network is moved over an image.

    patch: voxels of a window; one of two axes is moved over every slice along the first axis. mirrors: axes of the
    patch to mirror along, all of them where left out. average_logits: average those, not the softmax. half_precision:
    sums are kept so, which halves their memory, and the result is float16.
    """

    patch: tuple[int, ...]
    classes: int
    mirroring: bool = True
    weighting: str = "gaussian"
    mirrors: tuple[int, ...] | None = None
    average_logits: bool = False
    half_precision: bool = False

    @property
    def planar(self) -> bool:
        """Whether the patch is a part of a slice."""
        return len(self.patch) == 2

    @property
    def edges(self) -> tuple[int, ...]:
        """Voxels (Z, Y, X) of a window."""
        return (1, *self.patch) if self.planar else self.patch

    @property
    def flips(self) -> list[tuple[int, ...]]:
        """Combinations of the patch's axes to mirror along."""
        return mirror_axes(range(len(self.patch)) if self.mirrors is None else self.mirrors, self.mirroring)

    def groups(self, shape: Sequence[int]) -> list[list[tuple[int, ...]]]:
        """First voxels of the windows over an image of at least their size, in scan order, as they go into a call."""
        starts = tile_starts(shape, self.edges)
        together = max(1, VOXELS_A_CALL // int(np.prod(self.edges)) // len(self.flips))
        return [starts[first : first + together] for first in range(0, len(starts), together)]


def predict_probabilities(
    networks: Iterable[Runtime],
    image: NDArray[np.float32],
    windows: Windows,
    previous: NDArray[np.int8] | None = None,
) -> Outputs:
    """Mean softmax (K, Z, Y, X) of (C, Z, Y, X) over networks, windows and mirrored copies; the mean of their logits
    where ``windows`` say so.

    Memory does not grow with the number of networks: ``networks`` may be a generator that loads them one by one.
    previous: the label map (Z, Y, X) of a cascade's first stage; networks see its one-hot foreground after the image.
    It is expanded window by window, so that it costs a byte a voxel.
    """
    if windows.half_precision:
        return _mean_of_halves(networks, image, windows, previous)
    grid = _on_grid(image, windows, previous)
    total = np.zeros((windows.classes, *grid.shape), dtype=np.float32)
    weights = np.zeros(grid.shape, dtype=np.float32)
    count = 0
    for count, network in enumerate(networks, start=1):
        for group in grid.weighted(network):
            for window, outputs in group:
                total[(slice(None), *window)] += outputs
                if count == 1:
                    weights[window] += grid.weight
    weights *= count
    total /= weights
    return total[(slice(None), *grid.inside)]


def _mean_of_halves(
    networks: Iterable[Runtime], image: NDArray[np.float32], windows: Windows, previous: NDArray[np.int8] | None
) -> Outputs:
    """As nnU-Net does: each network's sums are divided before they are added."""
    total = np.zeros((windows.classes, *image.shape[1:]), dtype=np.float16)
    count = 0
    for network in networks:
        count += 1
        first = 0
        for planes in predict_planes(network, image, windows, previous):
            total[:, first : first + planes.shape[1]] += planes
            first += planes.shape[1]
            del planes  # or the next network's lie beside this one's
    total /= count
    return total


def predict_planes(
    network: Runtime, image: NDArray[np.float32], windows: Windows, previous: NDArray[np.int8] | None = None
) -> Iterator[Outputs]:
    """What ``predict_probabilities`` returns for one network, in order along the first axis: (K, planes, Y, X) at a
    time, as soon as no further window touches them.

    However large the image is, no more planes are kept than a window has, or a call's windows together. What is yielded
    lies in memory that the next windows are added to: take what is needed of it before going on.
    """
    grid = _on_grid(image, windows, previous)
    finished = [group[0][0] for group in grid.groups[1:]] + [grid.shape[0]]
    """Planes that no window touches any more, after each group."""
    began = [0, *finished[:-1]]
    held = max(group[-1][0] + windows.edges[0] - first for group, first in zip(grid.groups, began, strict=True))
    kind = np.float16 if windows.half_precision else np.float32
    sums = np.zeros((windows.classes, held, *grid.shape[1:]), dtype=kind)
    weights = np.zeros(sums.shape[1:], dtype=kind)
    for group, first, done in zip(grid.weighted(network), began, finished, strict=True):
        for (z, y, x), outputs in group:
            window = (slice(z.start - first, z.stop - first), y, x)
            sums[(slice(None), *window)] += outputs
            weights[window] += grid.weight
        if done == first:
            continue
        complete = sums[:, : done - first]
        complete /= weights[: done - first]
        along_z = slice(max(grid.inside[0].start - first, 0), max(grid.inside[0].stop - first, 0))
        planes = complete[(slice(None), along_z, *grid.inside[1:])]
        if planes.shape[1]:
            yield planes
        for part in sums:
            _shift(part, done - first)
        _shift(weights, done - first)


@dataclass(frozen=True)
class _Grid:
    """An image (C, Z, Y, X) and a previous stage's labels (Z, Y, X), padded to the window, and the windows over it.

    inside: where the image then lies. groups: first voxels of the windows of each call. weight: of a window's voxels.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int8] | None
    inside: tuple[slice, ...]
    windows: Windows
    groups: list[list[tuple[int, ...]]]
    weight: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        return self.image.shape[1:]

    def weighted(self, network: Runtime) -> Iterator[Iterator[tuple[tuple[slice, ...], NDArray[np.float32]]]]:
        """For each group its windows and their outputs (K, Z, Y, X) times the weight. The network works ahead."""
        planar, flips = self.windows.planar, self.windows.flips
        answers = outputs_ahead(network, self._batches(flips))
        for group in self.groups:
            calls = len(_together(flips, len(group), self.windows.edges))
            outputs = islice(answers, calls)
            mean = _mirrored_mean(outputs, flips, len(group), self.windows.average_logits)
            yield self._times_weight(group, mean[:, :, None] if planar else mean)

    def _batches(self, flips: Sequence[tuple[int, ...]]) -> Iterator[NDArray[np.float32]]:
        """What goes into each call: of each group the windows, and as many mirrored copies as go together."""
        for group in self.groups:
            patches = np.stack([self._patch(_window(start, self.windows.edges)) for start in group])
            patches = patches[:, :, 0] if self.windows.planar else patches
            for some in _together(flips, len(group), self.windows.edges):
                yield np.concatenate([np.flip(patches, tuple(axis + 2 for axis in axes)) for axes in some])

    def _times_weight(
        self, group: Sequence[tuple[int, ...]], mean: NDArray[np.float32]
    ) -> Iterator[tuple[tuple[slice, ...], NDArray[np.float32]]]:
        for start, outputs in zip(group, mean, strict=True):
            outputs *= self.weight
            yield _window(start, self.windows.edges), outputs

    def _patch(self, window: tuple[slice, ...]) -> NDArray[np.float32]:
        """One window of the image, followed by that of the previous stage's labels where there are any."""
        patch = self.image[(slice(None), *window)]
        if self.labels is None:
            return patch
        return np.concatenate([patch, foreground_channels(self.labels[window], self.windows.classes)])


def _on_grid(image: NDArray[np.float32], windows: Windows, previous: NDArray[np.int8] | None) -> _Grid:
    edges = windows.edges
    padded, inside = _pad(image, edges)
    labels = None if previous is None else _pad(previous[None], edges)[0][0]
    weight = tile_weight(edges, windows.weighting)
    return _Grid(padded, labels, inside, windows, windows.groups(padded.shape[1:]), weight)


def _shift(array: NDArray[Any], planes: int) -> None:
    """Drop the first ``planes`` along the first axis, move the others there and put zeros after them, in place."""
    kept = len(array) - planes
    # Parts that do not overlap, or numpy would make a copy of the whole.
    for first in range(0, kept, planes):
        part = array[first + planes : min(first + 2 * planes, len(array))]
        array[first : first + len(part)] = part
    array[kept:] = 0


def _together(flips: Sequence[tuple[int, ...]], patches: int, edges: Sequence[int]) -> list[Sequence[tuple[int, ...]]]:
    """Flips by the call they go into, for so many patches."""
    count = max(1, VOXELS_A_CALL // (int(np.prod(edges)) * patches))
    return [flips[first : first + count] for first in range(0, len(flips), count)]


def _mirrored_mean(
    answers: Iterable[NDArray[np.float32]], flips: Sequence[tuple[int, ...]], patches: int, average_logits: bool
) -> NDArray[np.float32]:
    """Mean softmax, or mean logits, of (B, K, ...) over mirrored copies, turned back. answers: of ``patches`` patches,
    one copy after the other.
    """
    total: NDArray[np.float32] | None = None
    left = list(flips)
    for outputs in answers:
        if not average_logits:
            outputs = softmax(outputs)
        for copy in np.split(outputs, len(outputs) // patches):
            axes = left.pop(0)
            turned = np.flip(copy, tuple(axis + 2 for axis in axes))
            if total is None:
                # The outputs are the caller's: a copy that was not turned need not be made again.
                total = turned if not axes else turned.copy()
            else:
                total += turned
    assert total is not None and not left
    total /= len(flips)
    return total


def _window(start: Sequence[int], edges: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + edge) for first, edge in zip(start, edges, strict=True))


def _pad(image: NDArray[Voxel], edges: Sequence[int]) -> tuple[NDArray[Voxel], tuple[slice, ...]]:
    """Pad (C, Z, Y, X) with 0 to at least the patch, evenly on both sides; also where the image then lies."""
    margins, inside = [], []
    for length, edge in zip(image.shape[1:], edges, strict=True):
        missing = max(0, edge - length)
        margins.append((missing // 2, missing - missing // 2))
        inside.append(slice(missing // 2, missing // 2 + length))
    if not any(sum(margin) for margin in margins):
        return image, tuple(inside)
    return np.pad(image, [(0, 0), *margins]), tuple(inside)
