"""Accessibility of the page: keyboard, contrast, small screens, reduced motion, and lost connections."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.experiments.report.page.conftest import Site, later, visit
from tests.experiments.report.page.test_page import VIEWS, choose

pytestmark = pytest.mark.browser

CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const ratio = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + 0.05) / (dark + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    throw new Error("no background");
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const parent = texts.currentNode.parentElement;
    const shown = parent.checkVisibility() && !parent.closest("script, noscript");
    if (!shown || !texts.currentNode.data.trim()) continue;
    const style = getComputedStyle(parent);
    const colour = parse(parent.namespaceURI.endsWith("svg") ? style.fill : style.color);
    found.push({ what: texts.currentNode.data.trim().slice(0, 40), ratio: ratio(colour, behind(parent)) });
  }
  for (const line of document.querySelectorAll("path[data-line], .swatch line, .whisker line")) {
    found.push({ what: `line ${line.dataset?.line ?? "swatch"}`, line: true,
      ratio: ratio(parse(getComputedStyle(line).stroke), behind(line.closest("div, article, td, li"))) });
  }
  return found;
}"""


def focused(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """() => { const e = document.activeElement; const box = e.getBoundingClientRect();
        const style = getComputedStyle(e);
        return { tag: e.tagName, name: e.getAttribute("aria-label") ?? e.value ?? e.textContent,
          inside: box.top >= 0 && box.bottom <= innerHeight, outline: parseFloat(style.outlineWidth),
          kind: style.outlineStyle, role: e.getAttribute("role") }; }"""
    )
    return found


def test_tab_reaches_every_control_in_order_with_a_visible_focus(page: Page) -> None:
    walked = []
    page.keyboard.press("Tab")
    while focused(page)["tag"] != "BODY":
        at = focused(page)
        assert at["outline"] >= 2, at
        assert at["kind"] != "none", at
        assert at["inside"], at
        walked.append((at["tag"], at["name"]))
        assert len(walked) < 40
        page.keyboard.press("Tab")
    charts = [pair for title in ("CTR", "ADVV", "log loss", "AUC")
              for pair in (("DIV", f"Time cursor of {title}"), ("SUMMARY", f"Table of {title}"))]  # fmt: skip
    assert walked == [
        ("INPUT", "difference"),
        ("INPUT", "on"),
        *charts,
        ("SUMMARY", "Definitions and methods"),
        ("A", "Report as JSON"),
        ("A", "Prometheus metrics"),
    ]


def test_keys_choose_the_view_move_through_time_and_open_the_table(page: Page, site: Site) -> None:
    page.locator("input[value=difference]").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#view-note")).to_contain_text("Cumulative value of each arm")
    slider = page.get_by_role("slider", name="Time cursor of CTR")
    slider.focus()
    values = []
    for key in ("Home", "ArrowRight", "PageUp", "ArrowLeft", "End"):
        page.keyboard.press(key)
        values.append(int(slider.get_attribute("aria-valuenow") or -1))
    last = sum(point.final for point in site.report.series) - 1
    assert values == [0, 1, 11, 10, last]
    page.keyboard.press("Home")
    first = site.report.series[0].arms["control"].total["ctr"]
    assert first.estimate is not None
    value = slider.get_attribute("aria-valuetext") or ""
    assert value.startswith("until ")
    assert "final: control" in value
    assert f"{first.estimate * 100:.2f} %" in value
    readouts = page.locator(".readout .when").all_inner_texts()
    assert len(readouts) == 4
    assert len(set(readouts)) == 1, "every chart shows the same time"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Table of CTR").locator("tbody tr")).to_have_count(last + 1)


def test_hovering_a_chart_selects_a_time_and_leaving_it_the_latest(page: Page) -> None:
    area = page.get_by_role("slider", name="Time cursor of CTR")
    latest = page.locator(".readout .when").first.inner_text()
    area.hover(position={"x": 150, "y": 100})
    expect(page.locator(".readout .when").first).not_to_have_text(latest)
    assert page.locator("[data-cursor] line").count() == 4
    page.mouse.move(5, 5)
    expect(page.locator(".readout .when").first).to_have_text(latest)


def test_a_new_report_keeps_focus_open_table_and_selected_time(page: Page, site: Site) -> None:
    page.locator("summary", has_text="Table of ADVV").click()
    slider = page.get_by_role("slider", name="Time cursor of ADVV")
    slider.focus()
    page.keyboard.press("Home")
    before = slider.get_attribute("aria-valuetext")
    site.report.generated_ms += 1000
    site.report.arms[0].clicks = 4321
    later(page)
    expect(page.locator(".arm[data-arm=control]")).to_contain_text("4,321")
    assert focused(page)["name"] == "Time cursor of ADVV"
    assert slider.get_attribute("aria-valuetext") == before
    assert page.locator("details[open] tbody tr").count() > 20


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_sufficient(browser: Browser, site: Site, scheme: str) -> None:
    site.report.arms[1].killed = True
    site.report.gaps[0].end_ms = None
    site.report.sample_ratio.sound = False
    figures = site.report.comparisons[0].figures
    figures["ctr"].verdict, figures["advv"].verdict = "worse", "early"
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
    page = visit(context, site)
    choose(page, "window")
    page.locator("details").evaluate_all("all => all.forEach(e => { e.open = true; })")
    page.wait_for_selector(".scroll td")
    found = page.evaluate(CONTRAST)
    assert len(found) > 300
    assert [entry for entry in found if entry["ratio"] < (3 if entry.get("line") else 4.5)] == []
    sides = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(sides) < 200) == (scheme == "dark")
    context.close()


def test_lines_differ_without_colour(page: Page) -> None:
    choose(page, "total")
    lines = page.locator("#charts .chart").nth(2).locator("path[data-line]")
    dashes = lines.evaluate_all("all => all.map(e => e.getAttribute('stroke-dasharray'))")
    assert len(dashes) == 3
    assert len(set(dashes)) == 3
    marks = page.locator("#charts .chart").nth(2).locator("[data-cursor] > :not(line)")
    assert len(set(marks.evaluate_all("all => all.map(e => e.tagName)"))) == 3
    verdicts = page.locator("#comparisons td.verdict-cell").all_inner_texts()
    assert all(text == "" or text[2:] in ("better", "not significant yet") for text in verdicts)


@pytest.mark.parametrize("width", [320, 360])
def test_a_phone_never_scrolls_sideways(browser: Browser, site: Site, width: int) -> None:
    site.report.arms[2].name = "a-very-long-name-of-an-arm-that-somebody-chose-one-late-evening"
    site.report.comparisons[1].arm = site.report.arms[2].name
    context = browser.new_context(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    page = visit(context, site)
    for view in VIEWS:
        choose(page, view)
        page.locator("details").evaluate_all("all => all.forEach(e => { e.open = true; })")
        page.wait_for_selector(".scroll td")
        wide = page.evaluate("""() => [...document.querySelectorAll("body *")]
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
            .filter(e => !e.closest(".scroll, svg, thead"))
            .map(e => `${e.tagName} ${e.textContent.slice(0, 30)}`)""")
        assert wide == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
    small = page.locator("label, summary").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().height).filter(h => h > 0 && h < 24)"
    )
    assert small == [], "targets for a finger"
    context.close()


def test_reduced_motion_disables_animation(browser: Browser, site: Site) -> None:
    def animation(motion: Any) -> str:
        context = browser.new_context(reduced_motion=motion)
        page = visit(context, site)
        site.report.generated_ms += 1000
        site.report.verdict[1] += " More."
        later(page)
        page.wait_for_selector(".fresh")
        name: str = page.locator(".fresh").first.evaluate("e => getComputedStyle(e).animationName")
        context.close()
        return name

    assert animation("no-preference") == "fresh"
    assert animation("reduce") == "none"


def test_a_lost_connection_is_reported_and_recovers(page: Page, site: Site) -> None:
    line = page.locator("#connection")
    expect(line).to_contain_text("Live.")
    site.stop()
    later(page)
    expect(line).to_contain_text("Connection lost")
    expect(line).to_contain_text("Retrying")
    assert "stale" in (page.locator("main").get_attribute("class") or "")
    assert page.locator("#verdict li").count() == 3, "what was known stays readable"
    site.start()
    later(page, 5)
    expect(line).to_contain_text("Live.")


def test_a_watcher_that_stops_writing_is_reported_as_stale(context: BrowserContext, site: Site) -> None:
    site.report.generated_ms -= 90_000
    page = context.new_page()
    page.goto(site.url)
    expect(page.locator("#connection")).to_contain_text("Stale")
    expect(page.locator("#connection")).to_contain_text(re.compile(r"\b(9\d|1[01]\d) s old"))


def test_before_the_first_report_the_page_says_so(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.clock.install()
    page.route("**/report.json", lambda route: route.fulfill(status=503, body="not there yet"))
    page.goto(site.url)
    expect(page.locator("#connection")).to_contain_text("No report yet")
    page.unroute("**/report.json")
    later(page)
    expect(page.locator("#connection")).to_contain_text("Live.")
    expect(page.locator("#verdict li")).to_have_count(3)
