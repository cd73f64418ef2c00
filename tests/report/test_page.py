"""The page as text: whole, escaped, small, and allowed to load nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from nnunet_box.report.colours import DARK_GROUND, LEAST_CONTRAST, LIGHT_GROUND, contrast, page_colours
from nnunet_box.report.contours import MOST_CHARACTERS
from nnunet_box.report.gather import gather, shown_cases
from nnunet_box.report.network_drawing import draw_network
from nnunet_box.report.page import draw_cases, report_page
from nnunet_box.report.results import Scored
from tests.report.finished_workspace import planned_workspace

MADE = datetime(2026, 1, 2, tzinfo=UTC)


class Outline(HTMLParser):
    """Identifiers, and what refers to them or to anything else; elements that are not closed."""

    VOID = frozenset({"meta", "input", "link", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.identifiers: list[str] = []
        self.targets: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.identifiers.append(value)
            if name in ("href", "src", "data", "action", "xlink:href"):
                self.targets.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(page_file):
    return page_file.read_text(encoding="utf-8")


def test_elements_are_closed_and_links_lead_within_the_page(text):
    outline = Outline(text)
    assert outline.open == [] and len(set(outline.identifiers)) == len(outline.identifiers)
    for target in outline.targets:
        assert target.startswith("data:image/webp;base64,") or target[1:] in outline.identifiers, target[:80]


def test_every_part_is_there(text, facts):
    for anchor in ("dataset", "plan", "training", "cross-validation", "pictures", "selection", "published", "image"):
        assert f'<section id="{anchor}"' in text and f'href="#{anchor}"' in text
    for case in facts.dataset.cases:
        assert f'data-case="{case.id}"' in text
    for cases in shown_cases(facts).values():
        for case in cases:
            assert f'id="case-{case}"' in text
    assert all(entry.sha256 in text for entry in facts.bundle.weights_files)


def test_only_the_pages_own_scripts_may_run_and_nothing_may_be_loaded(text):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert len(scripts) == 3 and policy.startswith("default-src 'none'")
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert "connect-src" not in policy and "http" not in policy


def test_names_cannot_become_markup(finished, facts):
    evil = '</script><img src=x onerror="alert(1)">'
    labels = facts.dataset.labels | {1: evil}
    hostile = replace(facts, dataset=replace(facts.dataset, labels=labels, name=evil))
    page = report_page(hostile, {}, finished[0].bundle, MADE)
    assert evil not in page and "<img" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)[1]
    assert json.loads(data)["structures"][0]["name"] == evil


def test_a_report_of_a_planned_data_set_has_no_empty_sections(tmp_path):
    workspace, dataset = planned_workspace(tmp_path, patients=5)
    page = report_page(gather(workspace, dataset, processes=1), {}, workspace.bundle, MADE)
    assert Outline(page).open == []
    for anchor in ("training", "cross-validation", "pictures", "selection", "image"):
        assert f'id="{anchor}"' not in page and f'href="#{anchor}"' not in page
    assert 'id="plan"' in page


def test_two_hundred_cases_of_fourteen_structures_stay_below_five_megabytes(finished, facts):
    """Three models, with curves of 1000 epochs, and outlines as long as they may be."""
    ids = [f"case_{number:03d}" for number in range(200)]
    labels = {0: "background", **{label: f"structure {label}" for label in range(1, 15)}}
    case, measured = facts.dataset.cases[0], facts.cohort.cases[0]
    dataset = replace(facts.dataset, labels=labels, cases=tuple(replace(case, id=name, group=name) for name in ids))
    dice = {name: {label: 0.123456 + number / 300 for label in range(1, 15)} for number, name in enumerate(ids)}
    scores = tuple(Scored(name, dice, {}) for name in ("2d", "3d_fullres", "2d+3d_fullres"))
    volumes = {label: 123.4567 for label in range(1, 15)}
    cases = tuple(measured.model_copy(update={"id": name, "volumes": volumes}) for name in ids)
    folds = tuple(fold.model_copy(update={"val": ids[number::5]}) for number, fold in enumerate(facts.folds))
    runs = tuple(replace(run, epochs=run.epochs * 25) for run in facts.runs)
    many = replace(
        facts,
        dataset=dataset,
        cohort=facts.cohort.model_copy(update={"cases": cases}),
        scores=scores,
        folds=folds,
        runs=runs,
        selection=None,
    )
    drawn = draw_cases(facts, processes=1)
    largest = max(drawn.values(), key=lambda planes: sum(len(plane.picture) for plane in planes))
    path = {1: "M" * MOST_CHARACTERS}
    largest = [replace(plane, reference=path, prediction=path) for plane in largest]
    shown = [name for names in shown_cases(many).values() for name in names]
    page = report_page(many, dict.fromkeys(shown, largest), finished[0].bundle, MADE)
    assert len(shown) == 12 and page.count("<tr data-case=") == 200
    assert len(page.encode()) < 5_000_000 - 12 * 3 * 25_000  # pictures of real cases are less than 25 kB each


def test_colours_can_be_told_from_the_ground():
    for light, dark, _ in page_colours(range(1, 15)).values():
        for text, ground in ((light, LIGHT_GROUND), (dark, DARK_GROUND)):
            rgb = tuple(int(text[at : at + 2], 16) for at in (1, 3, 5))
            assert contrast(rgb, ground) >= LEAST_CONTRAST
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


def test_a_network_is_drawn_as_planned(facts):
    configuration = facts.plan.configurations["3d_fullres"]
    drawing = draw_network(configuration, 1, 4)
    depth = len(configuration.pool_kernel_sizes)
    assert [stage.features for stage in drawing.stages[: depth + 1]] == list(configuration.features)
    assert [stage.features for stage in drawing.stages[depth:]] == list(configuration.features)[::-1]
    assert drawing.stages[0].size == "×".join(str(size) for size in configuration.patch_size)
    assert len(drawing.skips) == depth and len(drawing.arrows) == 2 * depth
    assert all(stage.x >= 0 and stage.x + stage.width <= drawing.width for stage in drawing.stages)
    assert all(stage.y + stage.height <= drawing.height for stage in drawing.stages)


def test_a_report_needs_no_torch():
    program = "import sys, nnunet_box.report.gather, nnunet_box.report.page; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
