"""What is known of the challenges' data sets without having them, and the plans that follow."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from nnunet_box.dataset.challenge import load_challenge
from nnunet_box.planning.fingerprint import Fingerprint
from nnunet_box.planning.plan import Plan
from nnunet_box.planning.planner import plan_configurations


@dataclass(frozen=True)
class DataSet:
    """One task of a challenge. spacing: mm, size: voxels of the typical case cropped to nonzero, both (Z, Y, X).
    images: training images, fewer than cases where cases share one. slices, file_voxels: of all training images
    together, cropped, and as their files hold them. kind: the files measured that its bytes a voxel are like.
    """

    name: str
    challenge: str
    kind: str
    cases: int
    test_cases: int
    channels: int
    classes: int
    spacing: tuple[float, float, float]
    size: tuple[int, int, int]
    images: int
    slices: int
    file_voxels: int

    @classmethod
    def of(cls, entry: dict[str, Any]) -> DataSet:
        """A line of ``datasets.json``, where ``images``, ``slices`` and ``file_size`` may be left out, with the facts
        of the challenge's adapter.
        """
        adapter = load_challenge(entry["challenge"])
        task = next(task for task in adapter.facts.tasks if task.name == entry["task"])
        size = tuple(entry["size"])
        images = entry.get("images", task.training)
        slices = entry.get("slices", images * size[0])
        return cls(
            name=task.name,
            challenge=adapter.title,
            kind=entry["kind"],
            cases=task.training,
            test_cases=task.test,
            channels=len(task.channels),
            classes=len(task.labels),
            spacing=tuple(entry["spacing"]),
            size=size,
            images=images,
            slices=slices,
            file_voxels=images * prod(entry["file_size"]) if "file_size" in entry else slices * prod(size[1:]),
        )

    @property
    def cropped_voxels(self) -> int:
        """Of all training images, cropped to nonzero."""
        return self.slices * prod(self.size[1:])

    def plan(self) -> Plan:
        """The plan for 12 GB. Normalisation, which costs nothing that is counted, is z-scores for all."""
        channels = tuple(f"channel {number}" for number in range(self.channels))
        fingerprint = Fingerprint(
            spacings=(self.spacing,),
            sizes=(self.size,),
            cases=self.cases,
            modalities=channels,
            foreground_classes=self.classes - 1,
            size_after_crop_ratio=1.0,
        )
        return Plan(
            dataset=self.name,
            channel_names=channels,
            labels={value: str(value) for value in range(self.classes)},
            normalisation=("zscore",) * self.channels,
            use_nonzero_mask=False,
            memory_gb=12.0,
            configurations=plan_configurations(fingerprint),
        )
