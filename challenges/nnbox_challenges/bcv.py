"""BCV, Multi-Atlas Labeling Beyond the Cranial Vault (MICCAI 2015): thirteen abdominal organs in CT.

Layout, labels and terms: synapse.org syn3193805.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from typing import Any

from nnbox_challenges import published
from nnbox_challenges.base import Adapter
from nnbox_challenges.bcv_layout import TEST_IDS, TRAINING_IDS, Scans, case_id, check_organs, find_scans
from nnbox_challenges.layout import plain_cases, require_folder
from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, ChallengeOption, Recognition, TaskFacts
from nnunet_box.errors import InvalidData, UsageError

LABELS = {
    0: "background",
    1: "spleen",
    2: "right kidney",
    3: "left kidney",
    4: "gallbladder",
    5: "esophagus",
    6: "liver",
    7: "stomach",
    8: "aorta",
    9: "inferior vena cava",
    10: "portal and splenic veins",
    11: "pancreas",
    12: "right adrenal gland",
    13: "left adrenal gland",
}
CHANNELS = ("CT",)
PATTERN = "label%04d.nii.gz"
"""How submitted files are called is not stated where it can be read without an account; hence an option."""


class Bcv(Adapter):
    """One case a scan, ``imgNNNN``. pattern: names of submitted files, with ``%04d`` for the number.

    Raises
    ------
    UsageError: a pattern without ``%04d``, with a folder, or of another format than NIfTI.
    """

    name = "bcv"
    title = "BCV, Multi-Atlas Labeling Beyond the Cranial Vault: abdomen"
    options = (ChallengeOption("pattern", PATTERN, "names of submitted files, %04d for the case's number"),)
    facts = ChallengeFacts(
        tasks=(TaskFacts("BCV", LABELS, CHANNELS, len(TRAINING_IDS), len(TEST_IDS)),),
        group="the scan (one a patient)",
        metrics="Dice, average surface distance and Hausdorff distance per organ, mean over cases, then over organs",
        submission="20 files label0061.nii.gz to label0080.nii.gz (the names are an option), on the image's own grid",
        licence="by Synapse account and acceptance of its conditions; not to be passed on",
        reference="Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015, doi:10.7303/syn3193805",
        obtain="synapse.org, syn3193805: Abdomen/RawData.zip; unpack and give the folder RawData",
        published=published.BCV,
        certainty={
            "labels": "verified",
            "counts": "secondary",
            "group": "inferred",
            "metrics": "secondary",
            "distances": "memory",
            "submission": "inferred",
            "file names": "inferred",
            "licence": "memory",
            "reference": "secondary",
            "obtain": "secondary",
        },
    )

    def __init__(self, pattern: str = PATTERN) -> None:
        if pattern.count("%") != 1 or "%04d" not in pattern or PurePath(pattern).name != pattern or "\\" in pattern:
            raise UsageError(f"pattern {pattern!r}: one file name with %04d for the case's number, such as {PATTERN}.")
        if not re.search(r"\.nii(\.gz)?$", pattern):
            raise UsageError(f"pattern {pattern!r}: has to end in .nii.gz or .nii.")
        self.pattern = pattern

    def recognise(self, folder: Path) -> Recognition:
        """Find training and test scans in the layouts the data goes around in, MONAI's included."""
        scans = find_scans(folder)
        if not scans.training:
            raise InvalidData(
                folder, "training images img0001 to img0040", f"{len(scans.test)} test images only", "Give RawData."
            )
        cases = tuple(self._training(scans, number) for number in scans.training)
        check_organs(scans.labels[scans.training[0]])
        messages = [
            f"{len(cases)} of {len(TRAINING_IDS)} training cases, {len(scans.test)} of {len(TEST_IDS)} test cases"
        ]
        unused = sorted(set(scans.labels) - set(scans.training))
        if unused:
            messages.append(f"labels of {', '.join(map(case_id, unused[:3]))} stay out of the data set")
        test = tuple(self._case(scans, number) for number in scans.test)
        return Recognition(scans.root, self.name, LABELS, CHANNELS, cases, test, tuple(messages))

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """Images 0061 to 0080; where ``folder`` holds training images only, those. Labels are never images.

        Raises
        ------
        InvalidData: no images, or a model with more than one channel.
        """
        if channels != len(CHANNELS):
            raise InvalidData(
                folder, f"a model with {channels} channels", "BCV's single CT", "Use a model trained on BCV."
            )
        plain = plain_cases(require_folder(folder), channels)
        if plain is not None:
            return plain
        scans = find_scans(folder)
        return tuple(self._case(scans, number) for number in scans.test or scans.training)

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """Dice and surface distances per organ; see ``bcv_scores.evaluate``."""
        from nnbox_challenges.bcv_scores import evaluate

        return evaluate(Path(predictions), Path(references), LABELS)

    def _training(self, scans: Scans, number: int) -> SourceCase:
        if number not in scans.labels:
            raise InvalidData(
                scans.images[number].parent.parent / "label" / f"label{number:04d}.nii.gz",
                f"the label of {case_id(number)}",
                "no such file",
                "The copy is incomplete: unpack RawData.zip again.",
            )
        return self._case(scans, number, scans.labels[number])

    def _case(self, scans: Scans, number: int, label: Path | None = None) -> SourceCase:
        return SourceCase(
            id=case_id(number),
            group=case_id(number),
            channels=(ChannelFile(scans.images[number]),),
            label=label,
            output_name=self.pattern % number,
        )
