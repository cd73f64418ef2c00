"""Batches: drawn, read and augmented as a pure function of (seed, fold, epoch, batch), so that any run can be
continued exactly.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nnunet_box.errors import InvalidData
from nnunet_box.interrupts import SIGNALS
from nnunet_box.parallel import end_with_parent
from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import PAPER, Recipe, recipe
from nnunet_box.preprocessing.previous_stage import open_previous
from nnunet_box.preprocessing.store import AGAIN, StoredCase, open_case
from nnunet_box.training.augmentation import SpatialRanges, build_augmentation
from nnunet_box.training.device_augmentation import RawBatch, augment
from nnunet_box.training.draws import Draw, draw_sample
from nnunet_box.training.patches import (
    OUTSIDE,
    Patch,
    forced_foreground,
    patch_start,
    read_patch,
    slice_with_foreground,
)

TRAINING, VALIDATION = 0, 1
NO_AUGMENTATION = recipe(["no-augmentation"])


@dataclass(frozen=True)
class BatchSource:
    """Where batches come from.

    store: the configuration's case store. cases: ids to draw from. batch_size: samples a batch. purpose: training or
        validation, which draw different batches. recipe: whose augmentation. classes: labels, background included.
        previous: for a cascade, the store of the first stage's label maps.
    """

    store: Path
    cases: tuple[str, ...]
    configuration: Configuration
    batch_size: int
    mask_image: bool
    seed: int
    fold: int
    classes: int
    purpose: int = TRAINING
    recipe: Recipe = PAPER
    previous: Path | None = None


class BatchSet(Dataset[tuple[Tensor, Tensor]]):
    """Batch ``number`` as (images (B, C, [Z,] Y, X), labels (B, [Z,] Y, X) int64), augmented on the CPU.

    A cascade's images end in the one-hot foreground of the previous stage's label map, one channel a label.
    """

    def __init__(self, source: BatchSource, open_: Callable[[Path, str], StoredCase] | None = None) -> None:
        self.source, self.open = source, open_ or open_case
        self.ranges = SpatialRanges.of(source.configuration, source.recipe)
        previous = 0 if source.previous is None else source.classes
        self.transform = build_augmentation(source.configuration, source.mask_image, source.recipe, previous)
        self.patch_size = tuple(source.configuration.patch_size)
        augments = source.recipe.augmentation != "none"
        self.read_size = self.ranges.source_size() if augments else self.patch_size
        # The patch left after augmentation lies in the middle of what is read, and it is what is placed in the case.
        self.margin = [(read - kept) // 2 for read, kept in zip(self.read_size, self.patch_size, strict=True)]
        self._open: dict[str, StoredCase] = {}

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        entropy, random = self._randomness(number)
        # batchgenerators draws from numpy's global state.
        np.random.seed(entropy.generate_state(4))
        forced = forced_foreground(self.source.batch_size)
        patches = [self._sample(random, foreground, self._draw_case(random)) for foreground in forced]
        batch = self.transform(
            data=np.stack([patch.image for patch in patches]),
            seg=np.stack([patch.label_maps for patch in patches]),
        )
        labels: NDArray[np.int8] = batch["seg"][:, 0]
        return torch.from_numpy(np.ascontiguousarray(batch["data"])), torch.from_numpy(labels.astype(np.int64))

    def raw(self, number: int) -> RawBatch:
        """The same as it is read, with what ``augment`` shall do to it: a sample that is not moved without margin."""
        source = self.source
        entropy, random = self._randomness(number)
        samples: list[tuple[Draw, Patch]] = []
        for foreground in forced_foreground(source.batch_size):
            case = self._draw_case(random)
            draw = draw_sample(random, self.ranges, source.recipe, case.image.shape[0])
            samples.append((draw, self._sample(random, foreground, case, margin=draw.moves)))
        still, moved = ([pair for pair in samples if pair[0].moves is moves] for moves in (False, True))
        planes = 2 if self.ranges.in_plane or len(self.patch_size) == 2 else 3
        ordered = [draw for draw, _ in still + moved]
        channels = (samples[0][1].image.shape[0],)
        return RawBatch(
            _stacked([patch.image for _, patch in still], (*channels, *self.patch_size), np.float32),
            _stacked([patch.labels for _, patch in still], self.patch_size, np.int8),
            _stacked([patch.image for _, patch in moved], (*channels, *self.read_size), np.float32),
            _stacked([patch.labels for _, patch in moved], self.read_size, np.int8),
            _stacked([draw.affine for draw, _ in moved], (planes, planes), np.float32),
            _stacked([np.array([draw.alpha, draw.sigma]) for draw, _ in moved], (2,), np.float32),
            torch.tensor([draw.gamma for draw in ordered]),
            torch.tensor([draw.flips for draw in ordered]),
            torch.tensor(int(entropy.generate_state(1)[0])),
        )

    def _randomness(self, number: int) -> tuple[np.random.SeedSequence, np.random.Generator]:
        source = self.source
        entropy = np.random.SeedSequence([source.seed, source.fold, source.purpose, number])
        return entropy, np.random.default_rng(entropy)

    def _draw_case(self, random: np.random.Generator) -> StoredCase:
        return self._case(self.source.cases[random.integers(len(self.source.cases))])

    def _sample(self, random: np.random.Generator, foreground: bool, case: StoredCase, margin: bool = True) -> Patch:
        size = self.read_size if margin else self.patch_size
        margins = self.margin if margin else [0] * len(size)
        if len(size) == 3:
            start = patch_start(case, self.patch_size, foreground, random)
            return self._read(case, _before(start, margins), size)
        plane = slice_with_foreground(case, random) if foreground else int(random.integers(case.shape[0]))
        in_plane = _one_slice(case, plane) if foreground else case
        start = patch_start(in_plane, (1, *self.patch_size), foreground, random)
        patch = self._read(case, (plane, *_before(start[1:], margins)), (1, *size))
        return Patch(patch.image[:, 0], patch.labels[0])

    def _read(self, case: StoredCase, start: Sequence[int], size: Sequence[int]) -> Patch:
        """``read_patch``, of a store that may be damaged.

        Raises
        ------
        InvalidData: a chunk cannot be unpacked, or labels are not the plan's.
        """
        try:
            patch = read_patch(case, start, size)
        except (RuntimeError, ValueError) as error:
            raise InvalidData(self.source.store / case.id, "chunks that can be unpacked", f"{error}", AGAIN) from error
        if isinstance(patch.labels, np.ndarray):
            least, most = int(patch.labels.min()), int(patch.labels.max())
            if least < OUTSIDE or most >= self.source.classes:
                expected = f"labels from {OUTSIDE} to {self.source.classes - 1}"
                raise InvalidData(self.source.store / case.id, expected, f"{least} to {most}", AGAIN)
        return patch

    def _case(self, case_id: str) -> StoredCase:
        if case_id not in self._open:
            case = self.open(self.source.store, case_id)
            if self.source.previous is not None:
                case = replace(case, previous=open_previous(self.source.previous, case_id))
            self._open[case_id] = case
        return self._open[case_id]


def _before(start: Sequence[int], margins: Sequence[int]) -> list[int]:
    return [first - margin for first, margin in zip(start, margins, strict=True)]


def _stacked(arrays: Sequence[Any], shape: tuple[int, ...], dtype: type[np.generic]) -> Tensor:
    """Arrays, or tensors where they lie, as (N, *shape); N may be 0, and one alone is not copied."""
    if arrays and isinstance(arrays[0], Tensor):
        return torch.stack(list(arrays)) if len(arrays) > 1 else arrays[0][None]
    if len(arrays) == 1:
        return torch.from_numpy(arrays[0][None].astype(dtype, copy=False))
    return torch.from_numpy(np.stack(arrays).astype(dtype, copy=False) if arrays else np.zeros((0, *shape), dtype))


def _one_slice(case: StoredCase, plane: int) -> StoredCase:
    """The case with only the foreground locations of one slice."""
    kept = {value: voxels[voxels[:, 0] == plane] for value, voxels in case.locations.items()}
    return StoredCase(
        case.id, case.image, case.labels, {value: voxels for value, voxels in kept.items() if len(voxels)}
    )


Key = tuple[int, int]
"""Which of several sources, and which of its batches."""


class _Interleaved(Dataset[Any]):
    """Batches of several sources, by key, so that the same workers make both and none waits for the other."""

    def __init__(self, sources: Sequence[BatchSource], raw: Sequence[bool]) -> None:
        self.sets = [BatchSet(source) for source in sources]
        self.raw = raw

    def __getitem__(self, key: Key) -> Any:
        """A batch; or the refusal of a case, which a worker process cannot raise as what it is."""
        index, number = key
        try:
            return self.sets[index].raw(number) if self.raw[index] else self.sets[index][number]
        except InvalidData as refusal:
            return refusal


def augments_on_device(source: BatchSource, device: torch.device) -> bool:
    """Whether ``device`` itself augments: a GPU, the paper's recipe or none, and no cascade, whose input is spoilt by
    morphology that only the CPU does.
    """
    return device.type == "cuda" and source.recipe.augmentation in ("paper", "none") and source.previous is None


def batch_loader(
    sources: Sequence[BatchSource], keys: Iterable[Key], workers: int, device: torch.device, room_bytes: float = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of ``keys`` on ``device``, in order whatever the number of worker processes; 0 makes them in this
    process. room_bytes: where the device augments and all cases fit into so much of its memory, they are put there, and
    no processes are needed.

    Raises
    ------
    InvalidData: a stored case that cannot be read.
    """
    raw = [augments_on_device(source, device) for source in sources]
    if all(raw) and 0 < resident_bytes(sources) <= room_bytes:
        yield from _resident(sources, keys, device)
        return
    wanted, returned = itertools.tee(keys)
    loader: DataLoader[Any] = DataLoader(
        _Interleaved(sources, raw),
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_begin_worker if workers else None,
        pin_memory=device.type == "cuda",
    )
    for (index, _), batch in zip(returned, loader, strict=True):
        if isinstance(batch, InvalidData):
            raise batch
        if raw[index]:
            yield _augmented(sources[index], batch, device)
        else:
            image, labels = batch
            yield image.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _augmented(source: BatchSource, batch: RawBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    return augment(batch.to(device), source.configuration.patch_size, source.classes, source.mask_image)


def resident_bytes(sources: Sequence[BatchSource]) -> int:
    """What all cases of the sources take in memory, each once."""
    opened = [open_case(store, case) for store, case in {(s.store, case) for s in sources for case in s.cases}]
    return sum(math.prod(case.image.shape) * 4 + math.prod(case.labels.shape) for case in opened)


def _resident(
    sources: Sequence[BatchSource], keys: Iterable[Key], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of cases that lie on the device: cutting patches out is its work too."""
    held: dict[tuple[Path, str], StoredCase] = {}

    def on_device(store: Path, case_id: str) -> StoredCase:
        if (store, case_id) not in held:
            case = open_case(store, case_id)
            image, labels = (torch.from_numpy(array[:]).to(device) for array in (case.image, case.labels))
            held[store, case_id] = replace(case, image=image, labels=labels)
        return held[store, case_id]

    sets = [BatchSet(source, on_device) for source in sources]
    for index, number in keys:
        yield _augmented(sources[index], sets[index].raw(number), device)


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C on a terminal, and a scheduler's signals, come to all processes; the first one ends its batch, then these.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
