"""The experiment's page in a real browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from stream_ctr.experiments.report.model import Report
from tests.experiments.report.page.conftest import Site, later, visit

pytestmark = pytest.mark.browser

VIEWS = ("difference", "total", "window")
MAIN = ("ctr", "advv", "log_loss", "auc")


def choose(page: Page, view: str) -> None:
    page.locator(f"input[value={view}]").check()


def test_the_verdict_comes_first_and_then_arms_and_metrics(page: Page, site: Site) -> None:
    said = page.locator("#verdict li").all_inner_texts()
    assert [text.split("\n")[-1] for text in said] == site.report.verdict
    assert page.title() == "main · Stream CTR"
    names = [arm.name for arm in site.report.arms]
    assert page.locator("#arms .arm").evaluate_all("cards => cards.map(c => c.dataset.arm)") == names
    helen = page.locator(".arm[data-arm=helen]").inner_text()
    for text in (
        "49.7 %",
        "50.0 %",
        "3,978",
        "87,066",
        "2,895",
        "fallback 37",
        "helen-790",
        "from all traffic",
    ):
        assert text in helen
    row = page.locator("tr[data-figure=ctr]").first.inner_text()
    for text in ("▲ better", "3.14 %", "2.98 to 3.31", "3.33 %", "+0.25 pp", "+0.07 to +0.43", "p 0.003"):
        assert text in row
    assert page.locator("#charts .chart").count() == len(MAIN)
    page.locator("#every").check()
    with_bounds = {name for point in site.report.series for own in point.comparisons.values() for name in own}
    assert page.locator("#charts .chart").count() == len(with_bounds)


def test_updates_are_announced_to_screen_readers_only_when_the_verdict_changes(
    page: Page, site: Site
) -> None:
    page.evaluate("""() => { window.rewrites = 0;
        new MutationObserver(() => { window.rewrites++; }).observe(document.getElementById("verdict"),
            { childList: true, subtree: true, characterData: true }); }""")
    live = page.locator("[aria-live]")
    assert live.evaluate_all("all => all.map(e => e.id)") == ["verdict"]
    site.report.generated_ms += 1000
    site.report.arms[0].clicks = 4321
    later(page)
    expect(page.locator(".arm[data-arm=control]")).to_contain_text("4,321")
    assert page.evaluate("window.rewrites") == 0
    site.report.generated_ms += 1000
    site.report.verdict[1] = "helen: nothing is known any more."
    later(page)
    expect(page.locator("#verdict")).to_contain_text("nothing is known any more")
    assert page.evaluate("window.rewrites") > 0


def test_an_unsound_split_and_a_killed_arm_come_before_all_metrics(page: Page, site: Site) -> None:
    report = site.report
    report.generated_ms += 1000
    report.sample_ratio.sound, report.sample_ratio.p = False, 0.0004
    report.verdict = ["The traffic split is not sound: effects are withheld."]
    report.arms[1].killed = True
    for point in report.series:
        point.comparisons = {}
    for comparison in report.comparisons:
        for figure in comparison.figures.values():
            figure.estimate = figure.low = figure.high = figure.p = None
            figure.verdict, figure.why = "withheld", "the traffic split is not sound"
    later(page)
    expect(page.locator("#verdict li").first).to_have_text(
        "✕The traffic split is not sound: effects are withheld."
    )
    status = page.locator("#status").inner_text()
    assert "Effects are withheld" in status
    assert "helen is switched off" in status
    expect(page.locator("tr[data-figure=ctr] .verdict-cell").first).to_have_text(
        "✕ withheld: the traffic split is not sound"
    )
    assert page.locator("tr[data-figure=ctr] .difference").first.inner_text().endswith("\N{EN DASH}")
    assert page.locator(".plot-area").first.inner_text() == "withheld: the traffic split is not sound"
    assert page.locator(".plot-area[tabindex='0']").count() == 0
    assert page.locator("[data-arm=helen] .badge").inner_text() == "switched off"


def test_markup_in_a_report_is_text(context: BrowserContext, site: Site) -> None:
    evil = "<img src=x onerror=\"document.title='taken'\">"
    site.report.experiment = site.report.verdict[0] = site.report.notes[0] = evil
    site.report.arms[1].model.version = evil
    page = visit(context, site)
    assert page.locator("#name").inner_text() == evil
    assert page.locator("img").count() == 0
    assert page.title() == f"{evil} · Stream CTR"


def test_there_are_no_external_requests_and_no_errors(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.clock.install()
    page.goto(site.url)
    page.wait_for_selector("#charts svg")
    for view in VIEWS:
        choose(page, view)
        page.locator("summary").evaluate_all("all => all.forEach(e => { e.parentElement.open = true; })")
    with page.expect_response("**/report.json"):
        later(page)
    assert set(asked) == {site.url, f"{site.url}report.json"}
    assert wrong == []


def expected_table(report: Report, name: str, view: str) -> dict[int, list[float]]:
    """Values of a figure's table by end of window, row by row: a transcription from the report itself."""
    rows: dict[int, list[float]] = {}
    for point in report.series:
        values: list[float | None] = []
        for arm in report.arms:
            own = point.arms[arm.name]
            if view == "window":
                values.append(own.window.get(name))
            else:
                bounded = own.total if view == "total" else point.comparisons.get(arm.name, {})
                if name in bounded:
                    values += [bounded[name].estimate, bounded[name].low, bounded[name].high]
        if any(value is not None for value in values):
            rows[point.end_ms] = [value for value in values if value is not None]
    return rows


@pytest.mark.parametrize("view", VIEWS)
def test_the_table_beside_each_chart_holds_the_data(page: Page, site: Site, view: str) -> None:
    choose(page, view)
    for index, name in enumerate(MAIN):
        chart = page.locator("#charts .chart").nth(index)
        chart.locator("summary").click()
        chart.locator("tbody tr").first.wait_for()
        rows: list[dict[str, Any]] = chart.locator("tbody tr").evaluate_all(
            """rows => rows.map(row => ({ t: Date.parse(row.querySelector("time").dateTime),
                values: [...row.querySelectorAll("data")].map(d => Number(d.value)),
                texts: [...row.querySelectorAll("data")].map(d => d.textContent),
                label: row.lastChild.textContent }))"""
        )
        assert {row["t"]: row["values"] for row in rows} == expected_table(site.report, name, view)
        assert [row["label"] for row in rows] == [
            "final" if point.final else "provisional"
            for point in site.report.series
            if point.end_ms in {row["t"] for row in rows}
        ]
        for row in rows:
            for value, text in zip(row["values"], row["texts"], strict=True):
                found = re.fullmatch(r"([+-]?[\d.]+)( %| pp)?", text.replace("\N{MINUS SIGN}", "-"))
                assert found is not None, text
                decimals = len(found[1].partition(".")[2])
                assert decimals >= 1
                assert abs(float(found[1]) - value * (100 if found[2] else 1)) <= 0.5001 * 10**-decimals
