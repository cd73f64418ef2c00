"""ACDC, the Automated Cardiac Diagnosis Challenge (MICCAI 2017): cine-MRI at end of diastole and end of systole.

Layout, labels and terms: creatis.insa-lyon.fr/Challenge/acdc; Bernard et al., IEEE TMI 37(11), 2018.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnbox_challenges import published
from nnbox_challenges.acdc_layout import PHASES, TEST_PATIENTS, Patient, find_patients
from nnbox_challenges.base import FILE_ENDING, Adapter
from nnbox_challenges.layout import a_few, plain_cases, require_folder
from nnunet_box.dataset.cases import ChannelFile, SourceCase
from nnunet_box.dataset.challenge import ChallengeFacts, Recognition, TaskFacts
from nnunet_box.errors import InvalidData

LABELS = {0: "background", 1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
CHANNELS = ("cineMRI",)
TRAINING_PATIENTS = 100


class Acdc(Adapter):
    """Two cases a patient, named ``patientNNN_ED`` and ``patientNNN_ES`` as the leaderboard names predictions.

    The frames' affine is a unit matrix; the spacing is only in ``pixdim``, so converted copies get both forms set from
    it.
    """

    name = "acdc"
    title = "ACDC, Automated Cardiac Diagnosis Challenge"
    kept_files = ("MANDATORY_CITATION.md",)
    facts = ChallengeFacts(
        tasks=(TaskFacts("ACDC", LABELS, CHANNELS, 2 * TRAINING_PATIENTS, 2 * len(TEST_PATIENTS)),),
        group="the patient, both phases together; folds balanced over the five diagnoses",
        metrics="Dice and Hausdorff distance per structure and phase; volumes and ejection fraction",
        submission="100 files patientNNN_ED.nii.gz and patientNNN_ES.nii.gz, uint8, on the frame's own grid",
        licence="CC BY-NC-SA 4.0, citation compulsory (MANDATORY_CITATION.md)",
        reference="Bernard et al., IEEE Trans. Med. Imaging 37(11):2514-2525, 2018, doi:10.1109/TMI.2018.2837502",
        obtain=(
            "humanheart-project.creatis.insa-lyon.fr/database: ACDC.zip; "
            "unpack and give the folder that holds training and testing"
        ),
        published=published.ACDC,
        certainty={
            "labels": "verified",
            "counts": "verified",
            "group": "verified",
            "metrics": "verified",
            "distances of an empty structure": "secondary",
            "submission": "verified",
            "voxel type and header": "secondary",
            "layout and size limit of the zip": "memory",
            "licence": "secondary",
            "reference": "verified",
            "obtain": "secondary",
        },
    )

    def recognise(self, folder: Path) -> Recognition:
        """Find training and testing patients, in any of the layouts the data was distributed in."""
        patients = find_patients(folder)
        training = [patient for patient in patients if patient.split == "train"]
        test = [patient for patient in patients if patient.split == "test"]
        cases = [case for patient in training for case in _cases(patient, with_label=True)]
        test_cases = [case for patient in test for case in _cases(patient, with_label=False)]
        if not cases:
            raise InvalidData(
                folder,
                "training patients",
                f"{len(test)} test patients only",
                "Give the folder that holds training and testing.",
            )
        return Recognition(
            require_folder(folder),
            self.name,
            LABELS,
            CHANNELS,
            tuple(cases),
            tuple(test_cases),
            tuple(_messages(training, test)),
        )

    def test_cases(self, folder: Path, channels: int) -> tuple[SourceCase, ...]:
        """ED and ES of each test patient; where ``folder`` holds training patients only, of those.

        ``_gt`` files are never images. Works without ``Group`` in ``Info.cfg`` (the test release of 2017).

        Raises
        ------
        InvalidData: no patients, or one without its frames; more than one channel asked for.
        """
        if channels != len(CHANNELS):
            raise InvalidData(
                folder, f"a model with {channels} channels", "ACDC's single cine-MRI", "Use a model trained on ACDC."
            )
        plain = plain_cases(require_folder(folder), channels)
        if plain is not None:
            return plain
        patients = find_patients(folder)
        test = [patient for patient in patients if patient.split == "test"] or patients
        return tuple(case for patient in test for case in _cases(patient, with_label=False))

    def evaluate(self, predictions: Path, references: Path) -> dict[str, Any]:
        """Dice, Hausdorff, volumes and ejection fraction; see ``acdc_scores.evaluate``."""
        from nnbox_challenges.acdc_scores import evaluate

        return evaluate(Path(predictions), Path(references), LABELS)


def _cases(patient: Patient, with_label: bool) -> list[SourceCase]:
    cases = []
    for phase, frame in patient.phases().items():
        label = patient.references.get(frame) if with_label else None
        if with_label and label is None:
            raise InvalidData(
                patient.folder / f"{patient.id}_frame{frame:02d}_gt.nii.gz",
                f"the reference of {patient.id}'s {phase} frame",
                "no such file",
                "The copy is incomplete: copy the patient's folder again.",
            )
        case_id = f"{patient.id}_{phase}"
        cases.append(
            SourceCase(
                id=case_id,
                group=patient.id,
                channels=(ChannelFile(patient.frames[frame]),),
                label=label,
                stratum=patient.info.get("Group"),
                output_name=f"{case_id}{FILE_ENDING}",
                facts={"phase": phase, "frame": frame, "info": patient.info},
            )
        )
    return cases


def _messages(training: list[Patient], test: list[Patient]) -> list[str]:
    messages = [
        f"{len(training)} of {TRAINING_PATIENTS} patients for training ({len(training) * len(PHASES)} images), "
        f"{len(test)} of {len(TEST_PATIENTS)} test patients ({len(test) * len(PHASES)} images)"
    ]
    guessed = [patient.id for patient in (*training, *test) if patient.guessed_phases]
    if guessed:
        messages.append(f"no Info.cfg for {a_few(guessed)}: the earlier frame is taken as ED")
    misplaced = [patient.id for patient in training if patient.number in TEST_PATIENTS]
    if misplaced:
        messages.append(
            f"{a_few(misplaced)} belong to the challenge's test set and lie in a training folder: they are trained on"
        )
    referenced = sum(bool(patient.references) for patient in test)
    if referenced:
        messages.append(f"references of {referenced} test patients stay out of the data set; nnbox evaluate reads them")
    return messages
