"""What only shows between the cases of a data set: duplicates, outliers, structures that are nowhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import nibabel
import numpy as np

from nnunet_box.dataset.cases import SourceCase
from nnunet_box.dataset.dataset import Dataset
from nnunet_box.dataset.findings import Finding
from nnunet_box.dataset.geometry import IDENTITY, Geometry

SPACING_RATIO = 3.0
"""A spacing this many times the median, or a fraction as small, is an outlier: scanners differ by less."""

RARELY_ABSENT = 0.1
"""A structure that this share of the cases or fewer lack is worth a look; lacking in more, it is the disease's way."""


@dataclass(frozen=True)
class CaseFacts:
    """What is kept of a case when its voxels are gone.

    geometry: of the image. digest: hash of the image's voxels. labels: values that occur; None without a label.
    """

    case: SourceCase
    geometry: Geometry
    digest: str
    labels: frozenset[int] | None

    @property
    def file(self) -> str:
        return str(self.case.reference_file)

    @property
    def orientation(self) -> str:
        """Axis codes in RAS of the file's axes (x, y, z), such as "LPS"."""
        return "".join(code or "?" for code in nibabel.aff2axcodes(self.geometry.affine_ras()))


def cohort_findings(dataset: Dataset, facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Findings between cases, training and test alike; all of them warnings, since each can be meant."""
    test = {case.id for case in dataset.test_cases}
    yield from _duplicates(facts, test)
    yield from _orientations(facts)
    yield from _spacings(facts)
    yield from _structures(dataset, [known for known in facts if known.labels is not None])


def _duplicates(facts: Sequence[CaseFacts], test: set[str]) -> Iterator[Finding]:
    first: dict[str, CaseFacts] = {}
    for known in facts:
        other = first.setdefault(known.digest, known)
        if other is known or _two_raters(known.case, other.case):
            continue
        across = (known.case.id in test) != (other.case.id in test)
        yield Finding(
            "warning",
            known.file,
            "an image of its own" + (" in the test set" if across else ""),
            f"the voxels of {other.case.id}{' in the training set' if across else ''}",
            "Leave one of them out: what is trained on cannot test."
            if across or known.case.group != other.case.group
            else "Leave one of them out, or name the raters in cases.json if they differ in the label.",
        )


def _two_raters(case: SourceCase, other: SourceCase) -> bool:
    """Whether two cases are one scan that two people labelled, as cases.json says."""
    return case.group == other.group and None not in (case.rater, other.rater) and case.rater != other.rater


def _orientations(facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    ranked = Counter(known.orientation for known in facts).most_common()
    for orientation, count in ranked[1:]:
        known = next(known for known in facts if known.orientation == orientation)
        more = f", as in {count - 1} more" if count > 1 else ""
        yield Finding(
            "warning",
            known.file,
            f"axes {ranked[0][0]} as {ranked[0][1]} of {len(facts)} cases",
            f"{orientation}{more}",
            "Look at it beside another case: if it lies the same way there, its header is wrong; if not, "
            "reorient image and label together.",
        )


def _spacings(facts: Sequence[CaseFacts]) -> Iterator[Finding]:
    if not facts:
        return
    median = np.median([known.geometry.spacing for known in facts], axis=0)
    expected = f"about {_millimetres(median)} (Z, Y, X), the median"
    for known in facts:
        ratio = np.asarray(known.geometry.spacing) / median
        # Where the others have 1 mm as well, the spacing is right whatever became of the rest.
        if _without_spacing(known.geometry) and not np.allclose(median, 1.0, atol=0.05):
            found = "1 x 1 x 1 mm, no origin and no direction: a header that was never filled in"
            yield Finding("warning", known.file, expected, found, "Take the spacing from another copy of the scan.")
        elif np.any((ratio >= SPACING_RATIO) | (ratio <= 1 / SPACING_RATIO)):
            found = _millimetres(known.geometry.spacing)
            yield Finding("warning", known.file, expected, found, "Check the header against the scan's protocol.")


def _without_spacing(geometry: Geometry) -> bool:
    """The grid that a file has by default: unit voxels at the origin, along the axes of RAS or LPS."""
    return (
        geometry.spacing == (1.0, 1.0, 1.0)
        and geometry.origin == (0.0, 0.0, 0.0)
        and geometry.direction in (IDENTITY, (-1.0, *IDENTITY[1:4], -1.0, *IDENTITY[5:]))
    )


def _millimetres(spacing: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:g}" for value in spacing) + " mm"


def _structures(dataset: Dataset, labelled: Sequence[CaseFacts]) -> Iterator[Finding]:
    for value in dataset.foreground_labels:
        lacking = [known for known in labelled if known.labels is not None and value not in known.labels]
        name = f"label {value} ({dataset.labels[value]})"
        if labelled and len(lacking) == len(labelled):
            yield Finding(
                "warning",
                str(dataset.folder / "dataset.json"),
                f"{name} in some case",
                f"none of {len(labelled)} has it",
                "Drop it from dataset.json, or look for the labels it was given instead.",
            )
        # A label map of background only has been told already.
        elif 0 < len(lacking) <= RARELY_ABSENT * len(labelled):
            for known in lacking:
                if known.labels and max(known.labels) > 0:
                    yield Finding(
                        "warning",
                        str(known.case.label),
                        f"{name}, as in {len(labelled) - len(lacking)} of {len(labelled)} cases",
                        "none",
                        "Leave it if the structure is really absent.",
                    )
