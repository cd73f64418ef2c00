"""PROMISE12, Prostate MR Image Segmentation (MICCAI 2012): T2-weighted MRI of four centres.

Layout and terms: promise12.grand-challenge.org, zenodo.org/records/8026660; Litjens et al., Medical Image Analysis
18(2), 2014.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnbox_challenges import published
from nnbox_challenges.base import Adapter
from nnbox_challenges.layout import a_few, plain_cases, require_folder
from nnbox_challenges.promise12_layout import (
    PARTS,
    SHIPPED,
    Found,
    Part,
    centre,
    converted_images,
    find_cases,
    require_images,
)
from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, Recognition, TaskFacts
from nnunet_box.dataset.dataset import load_dataset
from nnunet_box.dataset.metaimage import grid_fields, open_metaimage, write_labels
from nnunet_box.dataset.volumes import strip_suffix
from nnunet_box.errors import InvalidData
from nnunet_box.progress import say

LABELS = {0: "background", 1: "prostate"}
CHANNELS = ("T2",)
PART_TITLES: dict[Part, str] = {"train": "training", "test": "test", "live": "live challenge"}


class Promise12(Adapter):
    """Cases named ``train_Case00``, ``test_Case00``, ``live_Case00``: every part of the challenge starts at ``Case00``.

    observer: a second observer's mean measures, for scores from 0 to 100; see ``promise12_scores``.
    """

    name = "promise12"
    title = "PROMISE12, Prostate MR Image Segmentation"
    kept_files = ("LICENSE.TXT",)
    facts = ChallengeFacts(
        tasks=(TaskFacts("PROMISE12", LABELS, CHANNELS, SHIPPED["train"], SHIPPED["test"]),),
        group="the case; folds balanced over the four centres",
        metrics="Dice, relative volume difference, average boundary distance and HD95 of whole gland, base and apex",
        submission="30 pairs CaseNN.mhd and CaseNN.raw, uint8, uncompressed, header fields as the image's",
        licence="LICENSE.TXT of the Zenodo record; no redistribution assumed",
        reference="Litjens et al., Medical Image Analysis 18(2):359-373, 2014, doi:10.1016/j.media.2013.12.002",
        obtain=(
            "zenodo.org/records/8026660: training_data.zip, test_data.zip, livechallenge_test_data.zip; "
            "unpack and give the folder that holds them"
        ),
        published=published.PROMISE12,
        certainty={
            "labels": "secondary",
            "counts": "secondary",
            "group": "inferred",
            "centres of the training cases": "secondary",
            "metrics": "verified",
            "thirds for base and apex": "memory",
            "second observer's measures": "memory",
            "submission": "inferred",
            "layout of the zip": "memory",
            "licence": "memory",
            "reference": "verified",
            "obtain": "secondary",
        },
    )

    def __init__(self, observer: Path | None = None) -> None:
        self.observer = observer

    def recognise(self, folder: Path) -> Recognition:
        """Find training, test and live cases, in any of the layouts the data was distributed in."""
        found = find_cases(folder)
        require_images(found)
        counts = Counter(case.part for case in found)
        if not counts["train"]:
            raise InvalidData(
                folder,
                "training cases",
                f"{counts['test']} test and {counts['live']} live challenge cases only",
                "Give the folder that holds the training data too.",
            )
        cases = {case.id: _case(case, with_label=case.part == "train") for case in found}
        return Recognition(
            require_folder(folder),
            self.name,
            LABELS,
            CHANNELS,
            tuple(cases[case.id] for case in found if case.part == "train"),
            tuple(cases[case.id] for case in found if case.part != "train"),
            tuple(_messages(found, [case.stratum or "" for case in cases.values() if case.label is not None])),
        )

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """The test cases; where there are none those of the live challenge, else the training cases: one part at a
        time, since predictions are named alike.

        ``_segmentation`` files are never images. A converted data set or its ``imagesTs`` gives the leaderboard's files
        too.

        Raises
        ------
        InvalidData: no cases, or one that is incomplete; more than one channel asked for.
        """
        if channels != len(CHANNELS):
            raise InvalidData(
                folder,
                f"a model with {channels} channels",
                "PROMISE12's single T2",
                "Use a model trained on PROMISE12.",
            )
        folder = require_folder(folder)
        converted = folder.parent if folder.name == "imagesTs" else folder
        if (converted / "cases.json").is_file():
            cases = _one_part(load_dataset(converted).test_cases)
            if not cases:
                raise InvalidData(converted / "imagesTs", "test cases", "none", "Convert a download with test data.")
            return cases
        plain = plain_cases(folder, channels)
        if plain is not None:
            return plain
        images = [path for path in converted_images(folder) if path.suffix.lower() != ".mhd"]
        if images:
            names = [strip_suffix(path) for path in images]
            return tuple(
                SourceCase(name, name, (ChannelFile(path),), output_name=f"{name}.nii.gz")
                for name, path in zip(names, images, strict=True)
            )
        found = find_cases(folder)
        require_images(found)
        return _one_part(tuple(_case(case, with_label=False) for case in found))

    def export(self, labels: NDArray[np.uint8], case: SourceCase, output: Path) -> Path:
        """Write ``CaseNN.mhd`` and ``CaseNN.raw``: the original header's grid, letter by letter, also from a converted
        case, since NIfTI would turn signs and round.

        Raises
        ------
        InvalidData: the labels have another shape than the source.
        """
        if "metaimage" not in case.facts:
            return super().export(labels, case, output)
        file = Path(output) / case.output_name
        write_labels(file, labels, case.facts["metaimage"])
        return file

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """Measures of whole gland, base and apex; see ``promise12_scores.evaluate``."""
        from nnbox_challenges.promise12_scores import evaluate

        return evaluate(Path(predictions), Path(references), self.observer)


def _case(case: Found, with_label: bool) -> SourceCase:
    assert case.image is not None
    try:
        image = open_metaimage(case.image)
        stratum = centre(case, image)
    except InvalidData:
        if with_label:
            raise
        # Predicting it says so, and does the others.
        file = (ChannelFile(case.image),)
        return SourceCase(case.id, case.id, file, output_name=f"{case.name}.mhd", facts={"part": case.part})
    if with_label and case.reference is None:
        raise InvalidData(
            case.image.with_name(f"{case.name}_segmentation.mhd"),
            f"the reference of {case.image.name}",
            "no such file",
            "The copy is incomplete: copy the folder again.",
        )
    return SourceCase(
        id=case.id,
        group=case.id,
        channels=(ChannelFile(case.image),),
        label=case.reference if with_label else None,
        stratum=stratum,
        output_name=f"{case.name}.mhd",
        facts={"part": case.part, "metaimage": grid_fields(image)},
    )


def _one_part(cases: tuple[SourceCase, ...]) -> tuple[SourceCase, ...]:
    """Of the first part that is there, in the order of what a person wants predicted."""
    for part in ("test", "live", "train"):
        chosen = tuple(case for case in cases if case.facts.get("part") == part)
        if chosen:
            break
    if len(chosen) < len(cases):
        say(
            f"{len(chosen)} {PART_TITLES[part]} cases; {len(cases) - len(chosen)} of other parts have the same names "
            "and are left out: give their folder to predict them"
        )
    return chosen


def _messages(found: list[Found], centres: list[str]) -> list[str]:
    counts = Counter(case.part for case in found)
    messages = [", ".join(f"{counts[part]} of {SHIPPED[part]} {PART_TITLES[part]} cases" for part in PARTS)]
    messages.append("centres: " + ", ".join(f"{name} {count}" for name, count in sorted(Counter(centres).items())))
    unnamed = [case.id for case in found if not case.named]
    if unnamed:
        messages.append(
            f"no folder says which part {a_few(unnamed)} belong to: cases with a _segmentation are taken as training"
        )
    beyond = [case.id for case in found if int(case.number) >= SHIPPED[case.part]]
    if beyond:
        messages.append(f"{a_few(beyond)} are beyond the published numbering")
    foreign = [
        case.id
        for case in found
        if case.image is not None and open_metaimage(case.image).data.stem.lower() != case.image.stem.lower()
    ]
    if foreign:
        messages.append(f"the headers of {a_few(foreign)} name voxels of another name; look whether they were renamed")
    referenced = sum(case.part != "train" and case.reference is not None for case in found)
    if referenced:
        messages.append(f"references of {referenced} test cases stay out of the data set; nnbox evaluate reads them")
    return messages
