"""Sliding-window prediction with mirroring, averaged over networks (paper, Method, Inference)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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


def predict_probabilities(
    networks: Iterable[Runtime],
    image: NDArray[np.float32],
    patch: Sequence[int],
    classes: int,
    mirroring: bool = True,
    weighting: str = "gaussian",
    previous: NDArray[np.int8] | None = None,
    mirrors: Sequence[int] | None = None,
    average_logits: bool = False,
    half_precision: bool = False,
) -> Outputs:
    """Mean softmax (K, Z, Y, X) of (C, Z, Y, X) over networks, windows and mirrored copies; the mean of their logits
    with ``average_logits``.

    A patch of two axes is moved over every slice along the first axis. Memory does not grow with the number of
    networks:
    ``networks`` may be a generator that loads them one by one.
    previous: the label map (Z, Y, X) of a cascade's first stage; networks see its one-hot foreground after the image.
    It is expanded window by window, so that it costs a byte a voxel.
    mirrors: axes of the patch to mirror along; all of them where left out. half_precision: sums are kept so, which
    halves their memory, and the result is float16.
    """
    planar = len(patch) == 2
    edges = (1, *patch) if planar else tuple(patch)
    padded, inside = _pad(image, edges)
    labels = None if previous is None else _pad(previous[None], edges)[0][0]
    weight = tile_weight(edges, weighting)
    starts = tile_starts(padded.shape[1:], edges)
    sums = np.float16 if half_precision else np.float32
    weights = np.zeros(padded.shape[1:], dtype=sums)
    for start in starts:
        weights[_window(start, edges)] += weight
    flips = mirror_axes(range(len(patch)) if mirrors is None else mirrors, mirroring)
    together = max(1, VOXELS_A_CALL // int(np.prod(edges)) // len(flips))

    def add_windows(network: Runtime, total: Outputs) -> None:
        for first in range(0, len(starts), together):
            group = starts[first : first + together]
            patches = np.stack([_patch(padded, labels, _window(start, edges), classes) for start in group])
            mean = _mirrored_mean(network, patches[:, :, 0] if planar else patches, flips, average_logits)
            for start, outputs in zip(group, mean, strict=True):
                total[(slice(None), *_window(start, edges))] += (outputs[:, None] if planar else outputs) * weight

    total: Outputs = np.zeros((classes, *padded.shape[1:]), dtype=sums)
    count = 0
    for network in networks:
        count += 1
        if half_precision:
            # As nnU-Net does: each network's sums are divided before they are added.
            alone = np.zeros_like(total) if count > 1 else total
            add_windows(network, alone)
            alone /= weights
            total = total + alone if count > 1 else alone
        else:
            add_windows(network, total)
    total /= count if half_precision else weights * np.float32(count)
    return total[(slice(None), *inside)]


def _mirrored_mean(
    network: Runtime, patches: NDArray[np.float32], flips: Sequence[tuple[int, ...]], average_logits: bool
) -> NDArray[np.float32]:
    """Mean softmax, or mean logits, of (B, C, ...) over mirrored copies, turned back."""
    total: NDArray[np.float32] | None = None
    voxels = int(np.prod(patches.shape[2:])) * len(patches)
    together = max(1, VOXELS_A_CALL // voxels)
    for first in range(0, len(flips), together):
        group = flips[first : first + together]
        batch = np.concatenate([np.flip(patches, tuple(axis + 2 for axis in axes)) for axes in group])
        outputs = network(np.ascontiguousarray(batch))
        if not average_logits:
            outputs = softmax(outputs)
        for copy, axes in zip(np.split(outputs, len(group)), group, strict=True):
            turned = np.flip(copy, tuple(axis + 2 for axis in axes))
            total = turned.copy() if total is None else np.add(total, turned, out=total)
    assert total is not None
    total /= len(flips)
    return total


def _window(start: Sequence[int], edges: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + edge) for first, edge in zip(start, edges, strict=True))


def _patch(
    image: NDArray[np.float32], labels: NDArray[np.int8] | None, window: tuple[slice, ...], classes: int
) -> NDArray[np.float32]:
    """One window of (C, Z, Y, X), followed by that of the previous stage's labels where there are any."""
    patch = image[(slice(None), *window)]
    return patch if labels is None else np.concatenate([patch, foreground_channels(labels[window], classes)])


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
