"""LiTS, the Liver Tumor Segmentation challenge (ISBI and MICCAI 2017): liver and its tumours in contrast CT.

Layout, names and submission: github.com/PatrickChrist/LITS-CHALLENGE; Bilic et al., Medical Image Analysis 84, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnbox_challenges import published
from nnbox_challenges.base import Adapter
from nnbox_challenges.layout import plain_cases, require_folder
from nnbox_challenges.lits_layout import Found, find_files, numbered, repair_of
from nnunet_box.dataset.cases import ChannelFile, Repair, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, Recognition, SubmissionForm, TaskFacts
from nnunet_box.errors import InvalidData

LABELS = {0: "background", 1: "liver", 2: "tumour"}
CHANNELS = ("CT",)
TRAINING, TEST = 131, 70
"""Cases the challenge ships, numbered from 0."""


class Lits(Adapter):
    """One case a scan. Headers that say nothing and exchanged axes are repaired on the copy, see ``lits_layout``.

    spacings: millimetres (Z, Y, X) of cases whose header says nothing, by case id, where the true ones are known.
    """

    name = "lits"
    title = "LiTS, Liver Tumor Segmentation challenge"
    modes = ("official", "clean")
    facts = ChallengeFacts(
        tasks=(TaskFacts("LiTS", LABELS, CHANNELS, TRAINING, TEST),),
        group="the scan (patients are not published)",
        metrics="Dice per case and global, lesion detection, volume and surface errors, tumour burden",
        submission="70 files test-segmentation-N.nii, uint8, not compressed, on the scan's own grid",
        licence="CC BY-NC-ND 4.0: what is made from it may not be passed on",
        reference="Bilic et al., Medical Image Analysis 84, 102680 (2023), arXiv:1901.04056",
        obtain="competitions.codalab.org/competitions/17094: Training Batch 1 and 2, LITS-Challenge-Test-Data; unpack",
        # The scorer compares arrays and takes the spacing from the reference.
        form=SubmissionForm(same_affine=False),
        published=published.LITS,
        certainty={
            "labels": "verified",
            "counts": "verified",
            "group": "verified",
            "metrics": "verified",
            "submission": "verified",
            "spacing of volumes with identity headers": "memory",
            "where to submit today": "memory",
            "licence": "secondary",
            "reference": "verified",
            "obtain": "secondary",
        },
    )

    def __init__(self, spacings: Mapping[str, tuple[float, float, float]] | None = None) -> None:
        self.spacings = dict(spacings or {})

    def recognise(self, folder: Path) -> Recognition:
        """Pair volumes and segmentations by number, in any layout in circulation."""
        found = find_files(folder)
        _refuse_halves(found)
        if not found.volumes:
            raise InvalidData(
                folder,
                "training volumes (volume-N.nii with segmentation-N.nii)",
                f"{len(found.test_volumes)} test volumes only",
                "Give the folder that holds Training Batch 1 and 2.",
            )
        training = tuple(
            self._case(f"volume-{number}", file, f"segmentation-{number}.nii", found.segmentations[number])
            for number, file in numbered(found.volumes)
        )
        test = self._test(found)
        messages = tuple(_messages(found, training, test))
        return Recognition(require_folder(folder), self.name, LABELS, CHANNELS, training, test, messages)

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """The test volumes; where ``folder`` holds training volumes only, those. Segmentations are never images.

        Raises
        ------
        InvalidData: no volumes; more than one channel asked for.
        """
        if channels != len(CHANNELS):
            raise InvalidData(folder, f"a model with {channels} channels", "LiTS's single CT", "Use a model of LiTS.")
        plain = plain_cases(require_folder(folder), channels)
        if plain is not None:
            return plain
        found = find_files(folder)
        cases = self._test(found) or tuple(
            self._case(f"volume-{number}", file, f"segmentation-{number}.nii")
            for number, file in numbered(found.volumes)
        )
        if not cases:
            raise InvalidData(folder, "test-volume-N.nii", "segmentations only", "Give the folder of the volumes.")
        return cases

    def evaluate(self, predictions: Path, references: Path, mode: str = "official") -> dict[str, Any]:
        """The organisers' metrics, with their quirks or without; see ``lits_scores.evaluate``."""
        from nnbox_challenges.lits_scores import evaluate

        return evaluate(Path(predictions), Path(references), set(LABELS), official=mode == "official")

    def _test(self, found: Found) -> tuple[SourceCase, ...]:
        return tuple(
            self._case(f"test-volume-{number}", file, f"test-segmentation-{number}.nii")
            for number, file in numbered(found.test_volumes)
        )

    def _case(self, case_id: str, volume: Path, output_name: str, segmentation: Path | None = None) -> SourceCase:
        try:
            repair = repair_of(volume, segmentation, self.spacings.get(case_id))
        except InvalidData:
            # Whoever reads the case is told, and can go on with the others.
            repair = Repair()
        return SourceCase(
            id=case_id,
            group=case_id,
            channels=(ChannelFile(volume),),
            label=segmentation,
            output_name=output_name,
            repair=repair,
        )


def _refuse_halves(found: Found) -> None:
    for have, need, what in (
        (found.volumes, found.segmentations, "segmentation"),
        (found.segmentations, found.volumes, "volume"),
    ):
        lonely = sorted(set(have) - set(need))
        if lonely:
            file = have[lonely[0]]
            more = f" and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise InvalidData(
                file,
                f"{what}-{lonely[0]} beside it or in another folder of the download",
                f"no such file{more}",
                "The copy is incomplete: unpack both training batches again.",
            )


def _messages(found: Found, training: tuple[SourceCase, ...], test: tuple[SourceCase, ...]) -> list[str]:
    messages = [f"{len(training)} of {TRAINING} training cases, {len(test)} of {TEST} test cases"]
    for files, limit, what in ((found.volumes, TRAINING, "training"), (found.test_volumes, TEST, "test")):
        odd = [number for number in files if number >= limit]
        if odd:
            messages.append(f"{what} numbers beyond {limit - 1}, which the challenge does not ship: {sorted(odd)[:5]}")
    if found.test_segmentations:
        messages.append(f"{len(found.test_segmentations)} test segmentations stay out; nnbox evaluate reads them")
    messages += [
        f"{case.id}: {reason}; the copy is repaired" for case in (*training, *test) for reason in case.repair.reasons
    ]
    return messages
