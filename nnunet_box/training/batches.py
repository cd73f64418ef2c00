"""Batches: drawn, read and augmented as a pure function of (seed, fold, epoch, batch), so that any run can be
continued exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nnunet_box.planning.plan import Configuration
from nnunet_box.planning.variant import PAPER, Recipe, recipe
from nnunet_box.preprocessing.previous_stage import open_previous
from nnunet_box.preprocessing.store import StoredCase, open_case
from nnunet_box.training.augmentation import SpatialRanges, build_augmentation
from nnunet_box.training.patches import Patch, forced_foreground, patch_start, read_patch, slice_with_foreground

TRAINING, VALIDATION = 0, 1
NO_AUGMENTATION = recipe(["no-augmentation"])


@dataclass(frozen=True)
class BatchSource:
    """Where batches come from.

    store: the configuration's case store. cases: ids to draw from. batch_size: samples a batch. purpose: training or
        validation, which draw different batches. recipe: whose augmentation. previous: for a cascade,
        the store of the first stage's label maps, of ``classes`` labels, background included.
    """

    store: Path
    cases: tuple[str, ...]
    configuration: Configuration
    batch_size: int
    mask_image: bool
    seed: int
    fold: int
    purpose: int = TRAINING
    recipe: Recipe = PAPER
    previous: Path | None = None
    classes: int = 0


class BatchSet(Dataset[tuple[Tensor, Tensor]]):
    """Batch number ``epoch * batches_per_epoch + batch`` as (images (B, C, [Z,] Y, X), labels (B, [Z,] Y, X) int64).

    A cascade's images end in the one-hot foreground of the previous stage's label map, one channel a label.
    """

    def __init__(self, source: BatchSource) -> None:
        self.source = source
        previous = 0 if source.previous is None else source.classes
        self.transform = build_augmentation(source.configuration, source.mask_image, source.recipe, previous)
        self.patch_size = tuple(source.configuration.patch_size)
        ranges = SpatialRanges.of(source.configuration, source.recipe)
        self.read_size = self.patch_size if source.recipe.augmentation == "none" else ranges.source_size()
        # The patch left after augmentation lies in the middle of what is read, and it is what is placed in the case.
        self.margin = [(read - kept) // 2 for read, kept in zip(self.read_size, self.patch_size, strict=True)]
        self._open: dict[str, StoredCase] = {}

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        source = self.source
        entropy = np.random.SeedSequence([source.seed, source.fold, source.purpose, number])
        random = np.random.default_rng(entropy)
        # batchgenerators draws from numpy's global state.
        np.random.seed(entropy.generate_state(4))
        patches = [self._sample(random, foreground) for foreground in forced_foreground(source.batch_size)]
        batch = self.transform(
            data=np.stack([patch.image for patch in patches]),
            seg=np.stack([patch.label_maps for patch in patches]),
        )
        labels: NDArray[np.int8] = batch["seg"][:, 0]
        return torch.from_numpy(np.ascontiguousarray(batch["data"])), torch.from_numpy(labels.astype(np.int64))

    def _sample(self, random: np.random.Generator, foreground: bool) -> Patch:
        case = self._case(self.source.cases[random.integers(len(self.source.cases))])
        if len(self.read_size) == 3:
            start = patch_start(case, self.patch_size, foreground, random)
            return read_patch(case, self._with_margin(start), self.read_size)
        plane = slice_with_foreground(case, random) if foreground else int(random.integers(case.shape[0]))
        in_plane = _one_slice(case, plane) if foreground else case
        start = patch_start(in_plane, (1, *self.patch_size), foreground, random)
        patch = read_patch(case, (plane, *self._with_margin(start[1:])), (1, *self.read_size))
        return Patch(patch.image[:, 0], patch.labels[0])

    def _with_margin(self, start: Sequence[int]) -> list[int]:
        return [first - margin for first, margin in zip(start, self.margin, strict=True)]

    def _case(self, case_id: str) -> StoredCase:
        if case_id not in self._open:
            case = open_case(self.source.store, case_id)
            if self.source.previous is not None:
                case = replace(case, previous=open_previous(self.source.previous, case_id))
            self._open[case_id] = case
        return self._open[case_id]


def _one_slice(case: StoredCase, plane: int) -> StoredCase:
    """The case with only the foreground locations of one slice."""
    kept = {value: voxels[voxels[:, 0] == plane] for value, voxels in case.locations.items()}
    return StoredCase(
        case.id, case.image, case.labels, {value: voxels for value, voxels in kept.items() if len(voxels)}
    )


def batch_loader(source: BatchSource, numbers: Iterable[int], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches ``numbers``, in order whatever the number of worker processes; 0 makes them in this process."""
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        BatchSet(source),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_single_thread if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader


def _single_thread(_: int) -> None:
    torch.set_num_threads(1)
