"""The report in a real browser: draws, sorts, filters, switches outlines, loads nothing, can be used by everybody."""

from __future__ import annotations

import json

import pytest

from nnunet_box.report.gather import shown_cases
from nnunet_box.report.tables import case_rows
from tests.report.conftest import facts, finished, page_file  # noqa: F401 - fixtures

pytestmark = pytest.mark.browser

WIDTHS = (400, 1400)


def drawn(page):
    """Waits until every chart is drawn."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('figure.chart .plot')].every((plot) => plot.querySelector('svg'))"
    )


def column(page, number):
    """Texts of the visible rows' cells."""
    return page.eval_on_selector_all(
        "#cases tbody tr:not([hidden])", f"(rows) => rows.map((row) => row.cells[{number}].textContent.trim())"
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_it_draws_everything_loads_nothing_and_passes_axe(open_page, page_file, width, dark):  # noqa: F811
    opened = open_page(page_file, width=width, dark=dark)
    drawn(opened.page)
    assert opened.axe() == []
    opened.screenshot(f"report-{width}-{'dark' if dark else 'light'}")
    assert opened.errors == []
    assert opened.foreign_requests(page_file.as_uri()) == []
    scrolls = opened.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not scrolls, "the page itself is wider than the window"
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_charts_hold_the_numbers_they_are_of(open_page, page_file, facts):  # noqa: F811
    opened = open_page(page_file)
    drawn(opened.page)
    dots = opened.page.locator('[data-chart="distribution"] svg [data-mark="dot"] circle[r="2.5"]').count()
    scored = facts.chosen
    assert dots == sum(value is not None for dice in scored.cases.values() for value in dice.values())
    lines = opened.page.locator('[data-chart="loss"][data-of="2d"] svg [data-mark="line"] path')
    colours = {lines.nth(fold).evaluate("(line) => getComputedStyle(line).stroke") for fold in range(lines.count())}
    assert lines.count() == 5 and len(colours) == 5
    curves = opened.page.locator('[data-chart="intensities"] svg [data-mark="line"] path').count()
    assert curves == 1 + len(facts.dataset.foreground_labels)


def test_the_table_sorts_by_mouse_and_keyboard(open_page, page_file, facts):  # noqa: F811
    page = open_page(page_file).page
    ranked = [row["id"] for row in case_rows(facts, facts.chosen)]
    assert column(page, 0) == ranked
    page.get_by_role("button", name="Mean").click()
    assert column(page, 0) == ranked[::-1]
    heads = page.locator("#cases th[scope=col]")
    assert heads.nth(3).get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="Case", exact=True).focus()
    page.keyboard.press("Enter")
    assert column(page, 0) == sorted(ranked) and heads.nth(3).get_attribute("aria-sort") == "none"
    page.get_by_role("button", name="myocardium").click()
    values = [float(value) for value in column(page, 5)]
    assert values == sorted(values) and values[0] < values[-1]


def test_the_table_filters_and_changes_its_model(open_page, page_file, facts):  # noqa: F811
    page = open_page(page_file).page
    page.get_by_label("Case or group").fill("patient003")
    assert column(page, 0) == [one for one in column(page, 0) if one.startswith("patient003")] and column(page, 0)
    page.get_by_label("Case or group").fill("")
    page.get_by_label("Fold", exact=True).select_option("2")
    assert set(column(page, 0)) == set(facts.folds[2].val)
    page.get_by_label("Fold", exact=True).select_option("")
    means = sorted(float(value) for value in column(page, 3))
    page.get_by_label("Mean Dice below").fill(f"{means[4]:.4f}")
    assert len(column(page, 0)) == 4 and page.locator("#shown-count").text_content() == f"4 of {len(means)} cases"
    page.get_by_label("Mean Dice below").fill("")
    other = next(scored for scored in facts.scores if scored.name != facts.chosen.name)
    page.get_by_label("Model").select_option(other.name)
    assert column(page, 3) == [f"{row['mean']:.4f}" for row in case_rows(facts, other)]
    assert page.locator("#table-model").text_content() == other.name


def test_every_case_shown_has_three_pictures_and_outlines_that_can_be_switched(open_page, page_file, facts):  # noqa: F811
    opened = open_page(page_file)
    page = opened.page
    cases = [case for group in shown_cases(facts).values() for case in group]
    for case in cases:
        article = page.locator(f"#case-{case}")
        article.scroll_into_view_if_needed()
        sizes = article.locator("image").evaluate_all(
            "(images) => Promise.all(images.map(async (one) => {"
            " const picture = new Image(); picture.src = one.href.baseVal; await picture.decode();"
            " return picture.naturalWidth * picture.naturalHeight; }))"
        )
        assert len(sizes) == 3 and min(sizes) > 1000
        assert article.locator("path.reference").count() and article.locator("path.prediction").count()
    assert opened.errors == []

    def visible(kind):
        return sum(path.is_visible() for path in page.locator(f".planes path.{kind}").all())

    both = visible("reference"), visible("prediction")
    page.get_by_label("prediction", exact=True).uncheck()
    assert (visible("reference"), visible("prediction")) == (both[0], 0)
    page.get_by_label("prediction", exact=True).check()
    page.get_by_role("group", name="Outlines").get_by_label("myocardium").uncheck()
    assert 0 < visible("reference") < both[0] and 0 < visible("prediction") < both[1]
    assert not any(path.is_visible() for path in page.locator('.planes path[data-label="2"]').all())


def test_a_case_in_the_table_leads_to_its_picture(open_page, page_file, facts):  # noqa: F811
    page = open_page(page_file).page
    worst = shown_cases(facts)["worst"][0]
    page.get_by_role("link", name=worst).click()
    page.wait_for_function(f"() => location.hash === '#case-{worst}'")
    assert page.locator(f"#case-{worst}").evaluate("(one) => one.getBoundingClientRect().top < innerHeight")


def test_colours_can_be_chosen(open_page, page_file):  # noqa: F811
    opened = open_page(page_file)
    opened.page.get_by_role("button", name="dark").click()
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert opened.page.get_by_role("button", name="dark").get_attribute("aria-pressed") == "true"
    assert opened.axe() == []


def test_without_scripts_the_numbers_are_there(open_page, page_file, facts):  # noqa: F811
    page = open_page(page_file, java_script_enabled=False).page
    assert page.locator("#cases tbody tr").count() == len(facts.dataset.cases)
    assert page.locator(".planes image").count() == 36


def test_it_prints_without_its_controls(open_page, page_file):  # noqa: F811
    page = open_page(page_file, dark=True).page
    drawn(page)
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and not page.locator(".theme").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('.tall')).overflowY") == "visible"
    assert len(page.pdf()) > 50_000


def test_a_hostile_name_runs_nothing(open_page, finished, facts, tmp_path):  # noqa: F811
    from dataclasses import replace
    from datetime import UTC, datetime

    from nnunet_box.report.page import report_page

    evil = "</script><svg onload=\"document.title='run'\">"
    hostile = replace(facts, dataset=replace(facts.dataset, name=evil, labels=facts.dataset.labels | {1: evil}))
    file = tmp_path / "hostile.html"
    file.write_text(report_page(hostile, {}, finished[0].bundle, datetime.now(UTC)), encoding="utf-8")
    opened = open_page(file)
    drawn(opened.page)
    assert opened.page.title() == f"{evil}: nnbox report" and opened.errors == []
    assert json.loads(opened.page.locator("#data").text_content())["structures"][0]["name"] == evil
