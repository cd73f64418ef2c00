"""One self-contained HTML page: texts and tables as they stand, charts drawn by a script in it, no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import nnunet_box
from nnunet_box.dataset.cases import SourceCase, read_labelled
from nnunet_box.errors import InvalidData
from nnunet_box.evaluation.summary import read_label_map
from nnunet_box.files import write_text
from nnunet_box.parallel import map_cases
from nnunet_box.report import tables
from nnunet_box.report.colours import fold_colours, page_colours
from nnunet_box.report.contours import Plane, case_planes
from nnunet_box.report.gather import Facts, shown_cases
from nnunet_box.web import D3, PLOT

LIBRARIES = (D3, PLOT)
"""What draws the charts, in the order in which they are needed."""
SECTIONS = (
    ("dataset", "Data set"),
    ("plan", "Plan"),
    ("training", "Training"),
    ("cross-validation", "Cross-validation"),
    ("pictures", "Cases"),
    ("selection", "Selection"),
    ("published", "Published scores"),
    ("image", "Shipped"),
    ("provenance", "Versions"),
)
DIGITS = 4


def write_report(facts: Facts, file: Path, bundle_folder: Path, processes: int | None = None) -> None:
    """Write the page to ``file``, whole or not at all.

    bundle_folder: where the bundle's weights lie. processes: cases drawn at once.

    Raises
    ------
    InvalidData: a case or a prediction that is shown cannot be read. NnboxError: the disk is full.
    """
    write_text(file, report_page(facts, draw_cases(facts, processes), bundle_folder, datetime.now(UTC)))


def draw_cases(facts: Facts, processes: int | None = None) -> dict[str, list[Plane]]:
    """Planes of the cases that are shown, by id.

    Raises
    ------
    InvalidData: an image, a label or a prediction cannot be read.
    """
    scored = facts.chosen
    if scored is None:
        return {}
    wanted = {case for cases in shown_cases(facts).values() for case in cases}
    cases = [case for case in facts.dataset.cases if case.id in wanted]
    draw = partial(drawn_case, predictions=scored.predictions, declared=frozenset(facts.dataset.labels))
    found: dict[str, list[Plane]] = {}
    with closing(map_cases(draw, cases, "Drawing cases", processes)) as drawn:
        for case, planes in drawn:
            found[case.id] = planes
    return found


def drawn_case(case: SourceCase, predictions: Mapping[str, Path], declared: frozenset[int]) -> list[Plane]:
    """Planes of one case; its first channel is what lies under the outlines.

    Raises
    ------
    InvalidData: a file cannot be read, or the prediction is of another shape.
    """
    assert case.label is not None  # It was scored against it.
    image, reference, geometry = read_labelled(case, case.label, set(declared))
    prediction, _ = read_label_map(predictions[case.id], declared)
    if prediction.shape != reference.shape:
        raise InvalidData(
            predictions[case.id], f"shape {reference.shape}", f"{prediction.shape}", "Train the fold again."
        )
    return case_planes(image[0], reference, prediction, geometry)


def report_page(facts: Facts, pictures: Mapping[str, Sequence[Plane]], bundle_folder: Path, made: datetime) -> str:
    """The page's text. pictures: by case id, of those shown. bundle_folder: as ``write_report``."""
    labels, scored = facts.dataset.foreground_labels, facts.chosen
    rows = tables.case_rows(facts, scored) if scored is not None else []
    by_id = {row["id"]: row for row in rows}
    groups = [
        (kind.capitalize(), [{**by_id[case], "planes": pictures[case]} for case in cases if case in pictures])
        for kind, cases in shown_cases(facts).items()
    ]
    weights = facts.bundle.weights_files if facts.bundle is not None else ()
    sizes = {
        entry.file: (bundle_folder / entry.file).stat().st_size
        for entry in weights
        if (bundle_folder / entry.file).is_file()
    }
    scripts = [library.read_text(encoding="utf-8") for library in LIBRARIES] + [_part("page.js")]
    values: dict[str, Any] = {
        "name": facts.dataset.name,
        "challenge": facts.challenge.title if facts.challenge is not None else None,
        "version": nnunet_box.__version__,
        "verdict": tables.verdict(facts),
        "colours": page_colours(labels),
        "folds": fold_colours(len(facts.folds)),
        "dataset_facts": tables.dataset_facts(facts),
        "histograms": facts.cohort.histograms,
        "ranges": tables.ranges(facts),
        "plan": tables.plan_facts(facts),
        "models": list(dict.fromkeys(run.model for run in facts.runs)),
        "runs": tables.run_rows(facts),
        "structures": [(label, facts.dataset.labels[label]) for label in labels],
        "scored": [one.name for one in facts.scores],
        "chosen": scored.name if scored is not None else None,
        "fold_numbers": sorted({row["fold"] for row in rows if row["fold"] is not None}),
        "rows": rows,
        "pictured": set(pictures),
        "pictures": [(kind, cases) for kind, cases in groups if cases],
        "selection": tables.selection_facts(facts),
        "published": tables.published_rows(facts),
        "bundle": tables.bundle_facts(facts, sizes),
        "images": [tables.image_facts(record) for record in facts.images],
        "provenance": tables.provenance(facts, made),
        "css": Markup(_part("page.css")),  # noqa: S704 - our own files, which hold no markup
        "scripts": [Markup(text) for text in scripts],  # noqa: S704
        "policy": _policy(scripts),
        "data": Markup(_embedded(chart_data(facts))),  # noqa: S704 - escaped there
    }
    shown = {"plan": values["plan"], "training": values["models"], "cross-validation": values["scored"]}
    shown |= {name: values[name] for name in ("pictures", "selection", "published")}
    shown |= {"image": values["bundle"] or values["images"]}
    values["sections"] = [(anchor, title) for anchor, title in SECTIONS if shown.get(anchor, True)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_part("page.html")).render(values)


def chart_data(facts: Facts) -> dict[str, Any]:
    """What the charts are drawn from. scores: of each case its mean, then the Dice of each structure."""
    labels = facts.dataset.foreground_labels
    curves: dict[str, list[dict[str, Any]]] = {}
    for run in facts.runs:
        epochs = [[epoch.epoch, _rounded(epoch.loss), _rounded(epoch.validation_dice)] for epoch in run.epochs]
        curves.setdefault(run.model, []).append({"fold": run.fold, "epochs": epochs})
    return {
        "structures": [{"label": label, "name": facts.dataset.labels[label]} for label in labels],
        "cases": [case.model_dump(mode="json") for case in facts.cohort.cases],
        "histograms": [histogram.model_dump(mode="json") for histogram in facts.cohort.histograms],
        "curves": curves,
        "scores": {
            scored.name: {
                case: [_rounded(value) for value in (scored.mean_of(case), *(dice.get(label) for label in labels))]
                for case, dice in scored.cases.items()
            }
            for scored in facts.scores
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _part(name: str) -> str:
    return files("nnunet_box.report").joinpath(name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """JSON that nothing in it can end the element of: ``<`` is what a tag begins with."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded, and only the page's own scripts run."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )
