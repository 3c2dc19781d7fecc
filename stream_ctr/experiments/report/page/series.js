// One metric over time: a chart, a cursor moved by pointer and keys, the values at the cursor, and a table.
const MAIN_FIGURES = ["ctr", "advv", "log_loss", "auc"];
const VIEWS = {
  difference: "Cumulative difference from the control, with always-valid intervals. A difference is significant if its interval excludes zero.",
  total: "Cumulative value of each arm, with always-valid intervals.",
  window: "Value of each arm in each window of time, without intervals. Hollow markers: labels are not final yet.",
};

// Time under the cursor of every chart, event time in ms; null: the latest.
let cursorTime = null;

function seriesOf(report, definition, view) {
  const name = definition.name;
  const lines = [];
  report.arms.forEach((arm, index) => {
    const points = [];
    for (const window of report.series) {
      const own = window.arms?.[arm.name];
      let found = null;
      if (view === "difference") found = window.comparisons?.[arm.name]?.[name];
      else if (view === "total") found = own?.total?.[name];
      else if (own && name in (own.window ?? {})) found = { estimate: own.window[name], low: null, high: null };
      if (!found) continue;
      points.push({ t: window.end_ms, start: window.start_ms, final: window.final, ...found });
    }
    if (points.some((point) => known(point.estimate))) lines.push({ name: arm.name, index, points });
  });
  const open = view === "window" ? report.series.find((window) => !window.final) : undefined;
  const spans = report.gaps.map((gap) => ({ from: gap.start_ms, to: gap.end_ms ?? report.generated_ms }));
  return { name, title: definition.title, unit: definition.unit, better: definition.better, view, lines, spans,
    difference: view === "difference", provisionalFrom: open?.start_ms,
    nothing: nothingText(report, name, view) };
}

// Why a chart is empty: the reasons of the verdicts, as in the table.
function nothingText(report, name, view) {
  if (view === "difference") {
    const whys = report.comparisons.map((comparison) => verdictText(comparison.figures[name])).filter(Boolean);
    if (whys.length) return [...new Set(whys)].join("; ");
  }
  const why = report.arms.map((arm) => arm.why?.[name]).filter(Boolean);
  return why.length ? [...new Set(why)].join("; ") : "No window has closed yet.";
}

const BETTER = { higher: "higher is better", lower: "lower is better", one: "best at 1" };

class ChartView {
  constructor() {
    this.heading = element("h3");
    this.area = element("div", { class: "plot-area", role: "slider", tabindex: "0", "aria-orientation": "horizontal" });
    this.readout = element("ul", { class: "readout" });
    this.table = element("table");
    this.summary = element("summary");
    this.details = element("details", {}, this.summary,
      element("div", { class: "scroll", tabindex: "0", role: "region" }, this.table));
    this.root = element("article", { class: "card chart" }, this.heading, this.area, this.readout, this.details);
    this.area.addEventListener("keydown", (event) => this.#key(event));
    this.area.addEventListener("pointermove", (event) => this.#point(event));
    this.area.addEventListener("pointerdown", (event) => this.#point(event));
    this.area.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") moveCursor(null); });
    this.details.addEventListener("toggle", () => this.#fillTable());
    this.width = 0;
    new ResizeObserver(() => { if (this.chart && this.area.clientWidth !== this.width) this.#draw(); }).observe(this.area);
  }

  update(chart) {
    this.chart = chart;
    this.times = [...new Set(chart.lines.flatMap((line) => line.points.map((point) => point.t)))].sort((a, b) => a - b);
    const direction = BETTER[chart.better] ?? "";
    this.heading.replaceChildren(chart.title, " ", element("span", { class: "quiet" }, direction));
    this.summary.textContent = `Table of ${chart.title}`;
    this.details.lastChild.setAttribute("aria-label", `Table of ${chart.title}`);
    this.details.hidden = !this.times.length;
    this.#draw();
    this.#fillTable();
  }

  #draw() {
    this.width = this.area.clientWidth;
    if (!this.width) return;
    const { chart } = this;
    const label = `${chart.title} over time, ${plural(chart.lines.length, "line", "lines")}, ` +
      `${plural(this.times.length, "window", "windows")}; the table below has the values`;
    this.drawn = drawChart(chart, this.width, label);
    this.area.replaceChildren(this.drawn ? this.drawn.drawing : element("p", { class: "quiet" }, chart.nothing));
    this.area.tabIndex = this.drawn ? 0 : -1;
    this.area.setAttribute("aria-label", `Time cursor of ${chart.title}`);
    this.showCursor();
  }

  showCursor() {
    const { times } = this;
    if (!times?.length) { this.readout.replaceChildren(); this.area.removeAttribute("aria-valuenow"); return; }
    const at = times.includes(cursorTime) ? times.indexOf(cursorTime) : times.length - 1;
    this.at = at;
    this.drawn?.moveTo(times[at]);
    const { when, rows } = this.#read(times[at]);
    this.readout.replaceChildren(element("li", { class: "when" }, when), ...rows.map(({ line, text }) =>
      element("li", {}, swatch(line.index), `${line.name} `, element("strong", {}, text.value),
        text.interval ? ` (${text.interval})` : "")));
    this.area.setAttribute("aria-valuemin", 0);
    this.area.setAttribute("aria-valuemax", times.length - 1);
    this.area.setAttribute("aria-valuenow", at);
    this.area.setAttribute("aria-valuetext", `${when}: ` + rows.map(({ line, text }) =>
      `${line.name} ${text.value}${text.interval ? ` (${text.interval})` : ""}`).join(", "));
  }

  #read(t) {
    const { chart } = this;
    const there = chart.lines.map((line) => ({ line, point: line.points.find((point) => point.t === t) }));
    const point = there.find((entry) => entry.point)?.point;
    const from = chart.view === "window" ? `${timeText(point.start)} to ` : "until ";
    return {
      when: `${from}${timeText(t)}, ${point.final ? "final" : "provisional"}`,
      rows: there.map((entry) => ({ line: entry.line, text: boundedTexts(entry.point, chart.unit, chart.difference) })),
    };
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10,
      Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined || !this.times?.length || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(this.times.length - 1, this.at + step));
    moveCursor(to === this.times.length - 1 ? null : this.times[to]);
  }

  #point(event) {
    if (!this.drawn) return;
    const t = this.drawn.timeAt(event.clientX - this.area.getBoundingClientRect().left);
    moveCursor(this.times.reduce((best, time) => (Math.abs(time - t) < Math.abs(best - t) ? time : best)));
  }

  #fillTable() {
    if (!this.details.open) { this.table.replaceChildren(); return; }
    const { chart, times } = this;
    const bounds = chart.view !== "window";
    const head = element("tr", {}, element("th", { scope: "col" }, "Until"));
    for (const { name } of chart.lines) {
      for (const part of bounds ? ["", ", low", ", high"] : [""]) head.append(element("th", { scope: "col" }, name + part));
    }
    head.append(element("th", { scope: "col" }, "Labels"));
    const body = element("tbody");
    for (const t of times) body.append(this.#tableRow(t, bounds));
    this.table.replaceChildren(
      element("caption", {}, `${chart.title}: ${VIEWS[chart.view]}`), element("thead", {}, head), body);
  }

  #tableRow(t, bounds) {
    const { chart } = this;
    const row = element("tr", {}, element("th", { scope: "row" },
      element("time", { datetime: new Date(t).toISOString() }, timeText(t))));
    let final = true;
    for (const line of chart.lines) {
      const point = line.points.find((candidate) => candidate.t === t);
      if (point) final = point.final;
      const width = widthOf(point) * scaleOf(chart.unit);
      const decimals = decimalsFor(known(width) ? width : Math.abs((point?.estimate ?? 0) * scaleOf(chart.unit)) / 10);
      for (const key of bounds ? ["estimate", "low", "high"] : ["estimate"]) {
        const value = point?.[key];
        const text = known(value)
          ? numberText(value * scaleOf(chart.unit), decimals, chart.difference) + suffixOf(chart.unit, chart.difference)
          : NONE;
        row.append(element("td", {}, known(value) ? element("data", { value }, text) : text));
      }
    }
    row.append(element("td", {}, final ? "final" : "provisional"));
    return row;
  }
}

const chartViews = new Map();

function moveCursor(t) {
  if (t === cursorTime) return;
  cursorTime = t;
  for (const view of chartViews.values()) view.showCursor();
}

function showCharts(report, view, every) {
  const host = document.getElementById("charts");
  const main = report.definitions.filter((definition) => MAIN_FIGURES.includes(definition.name));
  const wanted = every || !main.length ? report.definitions : main;
  const shown = wanted.map((definition) => seriesOf(report, definition, view))
    .filter((chart) => chart.lines.length || MAIN_FIGURES.includes(chart.name));
  document.getElementById("view-note").textContent = VIEWS[view];
  for (const name of [...chartViews.keys()]) {
    if (!shown.some((chart) => chart.name === name)) { chartViews.get(name).root.remove(); chartViews.delete(name); }
  }
  shown.forEach((chart, n) => {
    if (!chartViews.has(chart.name)) chartViews.set(chart.name, new ChartView());
    const { root } = chartViews.get(chart.name);
    // Moving the focused element would remove the focus, so only elements out of order are moved.
    if (host.children[n] !== root) host.insertBefore(root, host.children[n] ?? null);
    chartViews.get(chart.name).update(chart);
  });
}
