"""The ISBI 2015 longitudinal MS lesion challenge: four MR contrasts, two raters, several time points a patient.

Layout, raters and terms: smart-stats-tools.org/lesion-challenge-2015; Carass et al., NeuroImage 148:77-102, 2017.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

from nnbox_challenges import published
from nnbox_challenges.base import Adapter
from nnbox_challenges.layout import plain_cases, require_folder
from nnbox_challenges.ms_lesions_layout import CHANNELS, COMPLETE, RATERS, Scan, find_scans
from nnunet_box.dataset.cases import ChannelFile, Fusion, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, ChallengeOption, Recognition, TaskFacts
from nnunet_box.errors import InvalidData, UsageError

LABELS = {0: "background", 1: "lesion"}
CHANNEL_NAMES = ("FLAIR", "MPRAGE", "PD", "T2")
TRAINING_SCANS = 21
TEST_SCANS = 61
TEAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class MsLesions(Adapter):
    """Each rater's mask of a scan is a training example of its own (the paper); the scan's image is kept once.

    rater: whose masks are taken. team: in the names of submitted files. connectivity: neighbours of a voxel that make
    a lesion, for the scores; 18 as far as is known of the challenge's own code.

    Raises
    ------
    UsageError: a team's name that does not fit into a file's.
    """

    name = "ms_lesions"
    title = "ISBI 2015 longitudinal MS lesion segmentation challenge"
    options = (
        ChallengeOption("rater", "both", "whose masks to train on", ("both", "1", "2", *get_args(Fusion))),
        ChallengeOption("team", "nnUNet", "the team's name in the names of submitted files"),
        ChallengeOption("connectivity", "18", "neighbours that make a lesion, for the scores", ("6", "18", "26")),
    )
    facts = ChallengeFacts(
        tasks=(TaskFacts("MSLesions", LABELS, CHANNEL_NAMES, 2 * TRAINING_SCANS, TEST_SCANS),),
        group="the patient, all time points and both raters together; leave-one-patient-out",
        metrics="weighted sum of Dice, PPV, lesion-wise true and false positive rates and volume correlation",
        submission="61 uncompressed files testPP_TT_TEAM.nii on the preprocessed grid",
        licence="research and education, by registration; not to be passed on (see the shipped licence)",
        reference="Carass et al., NeuroImage 148:77-102, 2017, doi:10.1016/j.neuroimage.2016.12.064",
        obtain=(
            "smart-stats-tools.org/lesion-challenge-2015: training_final_v4.zip and testdata_website_2016-03-24.zip; "
            "unpack both and give the folder that holds them"
        ),
        published=published.MS_LESIONS,
        certainty={
            "labels": "verified",
            "counts": "verified",
            "group": "verified",
            "metrics": "secondary",
            "connectivity of lesions": "memory",
            "scale of the website's score": "memory",
            "submission": "verified",
            "layout of the zip": "memory",
            "licence": "secondary",
            "reference": "verified",
            "obtain": "secondary",
        },
    )

    def __init__(self, rater: str = "both", team: str = "nnUNet", connectivity: str = "18") -> None:
        if not TEAM.fullmatch(team):
            raise UsageError(f"team {team!r}: letters, digits, dot and dash only, since it is part of a file's name.")
        self.rater, self.team, self.connectivity = rater, team, connectivity

    def recognise(self, folder: Path) -> Recognition:
        """Find training and test scans by the names of their files, in whatever folders."""
        scans = find_scans(folder)
        training = [scan for scan in scans if scan.kind == "training"]
        test = [scan for scan in scans if scan.kind == "test"]
        if not training:
            raise InvalidData(
                folder, "training scans", f"{len(test)} test scans only", "Give the folder that holds training too."
            )
        raters = [rater for rater in RATERS if any(rater in scan.masks for scan in training)]
        cases = [case for scan in training for case in self._training(scan, raters)]
        patients, test_patients = ({scan.group for scan in part} for part in (training, test))
        messages = [
            f"{len(training)} of {TRAINING_SCANS} training scans of {len(patients)} patients, "
            f"{len(test)} of {TEST_SCANS} test scans of {len(test_patients)} patients",
            f"rater {self.rater}: {len(cases)} training examples",
        ]
        if len(raters) == 1:
            messages.append(f"masks of rater {raters[0]} only; the challenge has two")
        return Recognition(
            require_folder(folder),
            self.name,
            LABELS,
            CHANNEL_NAMES,
            tuple(cases),
            tuple(self._case(scan, scan.id) for scan in test),
            tuple(messages),
            splits="leave-one-group-out",
        )

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """The test scans; where ``folder`` holds training scans only, those, each once.

        Raises
        ------
        InvalidData: no scans, one without its four channels, or a model with another number of channels.
        """
        if channels != len(CHANNELS):
            raise InvalidData(
                folder,
                f"a model with {channels} channels",
                f"the challenge's four, {', '.join(CHANNEL_NAMES)}",
                "Use a model trained on it.",
            )
        plain = plain_cases(require_folder(folder), channels)
        if plain is not None:
            return plain
        scans = find_scans(folder)
        chosen = [scan for scan in scans if scan.kind == "test"] or scans
        return tuple(self._case(scan, scan.id) for scan in chosen)

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """The challenge's parts and their weighted sum, against each rater; see ``ms_lesions_scores.evaluate``."""
        from nnbox_challenges.ms_lesions_scores import Connectivity, evaluate

        return evaluate(Path(predictions), Path(references), cast(Connectivity, int(self.connectivity)))

    def _training(self, scan: Scan, raters: Sequence[int]) -> list[SourceCase]:
        """The training examples of a scan. raters: those that the download has masks of."""
        if self.rater == "both":
            wanted = list(raters) or list(RATERS)
        else:
            wanted = [int(self.rater)] if self.rater.isdigit() else list(RATERS)
        absent = [rater for rater in wanted if rater not in scan.masks]
        if absent:
            name = f"{scan.id}_mask{absent[0]}.nii"
            raise InvalidData(
                scan.channels[CHANNELS[0]].parent.parent / "masks" / name,
                f"rater {absent[0]}'s mask of {scan.id} (rater {self.rater})",
                "no such file",
                COMPLETE if absent[0] in raters or not raters else f"Give --option rater={raters[0]}, which is there.",
            )
        if self.rater == "both":
            ids = {rater: f"{scan.id}_mask{rater}" for rater in wanted}
            shared = {rater: None if rater == wanted[0] else ids[wanted[0]] for rater in wanted}
            return [
                self._case(scan, ids[rater], label=scan.masks[rater], rater=str(rater), image_of=shared[rater])
                for rater in wanted
            ]
        masks = [scan.masks[rater] for rater in wanted]
        if len(masks) == 1:
            return [self._case(scan, scan.id, label=masks[0], rater=self.rater)]
        fusion = cast(Fusion, self.rater)
        return [
            self._case(scan, scan.id, label=masks[0], rater=self.rater, fusion=fusion, other_labels=tuple(masks[1:]))
        ]

    def _case(self, scan: Scan, case_id: str, **changes: Any) -> SourceCase:
        return SourceCase(
            id=case_id,
            group=scan.group,
            channels=tuple(ChannelFile(scan.channels[name]) for name in CHANNELS),
            output_name=f"{case_id}_{self.team}.nii",
            facts={"patient": scan.patient, "time_point": scan.time},
            **changes,
        )
