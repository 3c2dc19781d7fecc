// The sections with text and numbers. The content of a report is always inserted as text, never as markup.
const byId = (id) => document.getElementById(id);

function sign(verdict) {
  return element("span", { class: "sign", "data-verdict": verdict, "aria-hidden": "true" }, VERDICTS[verdict]?.sign ?? "•");
}

function definitionList(rows) {
  return element("dl", {}, ...rows.filter(Boolean).map(([term, ...text]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, ...text))));
}

const card = (title, ...content) => element("article", { class: "card" }, element("h3", {}, title), ...content);

const comparisonSign = (report, sentence) =>
  report.comparisons.find((candidate) => candidate.verdict === sentence)?.leading ?? null;

let verdictShown = "";

// Rewritten only when the text changes: otherwise a screen reader would read it aloud at every poll.
function showVerdict(report) {
  const sentences = report.verdict.length ? report.verdict : ["No verdict yet."];
  const signs = sentences.map((sentence, n) => comparisonSign(report, sentence) ??
    (n === 0 ? (report.sample_ratio.sound ? "sound" : "unsound") : null));
  const now = JSON.stringify([sentences, signs]);
  if (now === verdictShown) return;
  byId("verdict").replaceChildren(...sentences.map((sentence, n) =>
    element("li", { class: verdictShown ? "fresh" : null }, sign(signs[n]), element("span", {}, sentence))));
  verdictShown = now;
}

function paceOf(report) {
  const closed = report.series.filter((window) => window.final).slice(-10);
  if (!closed.length) return 0;
  const seconds = (closed.at(-1).end_ms - closed[0].start_ms) / 1000;
  const shown = closed.reduce((sum, window) => sum +
    Object.values(window.arms).reduce((inner, arm) => inner + arm.impressions, 0), 0);
  return seconds > 0 ? shown / seconds : 0;
}

function progressTo(label, done, goal, pace) {
  const share = Math.min(1, done / goal);
  const rest = done >= goal ? "" : pace > 0 ? `; about ${spanText((goal - done) / pace)} to go at the current rate` : "";
  const text = `${percent(share, 0)} of ${label} (${countText(done)} of ${countText(goal)} impressions)${rest}.`;
  return [element("p", {}, text), element("progress", { max: 1, value: share, "aria-label": text })];
}

function showWarnings(report) {
  byId("warnings").replaceChildren(...(report.warnings ?? []).map(warning));
}

// Progress of the experiment, and the problems that affect it now.
function showStatus(report) {
  const parts = [];
  const done = report.arms.reduce((sum, arm) => sum + arm.impressions, 0);
  const pace = paceOf(report);
  const { settings } = report;
  if (!report.sample_ratio.sound) {
    parts.push(element("p", {}, "Effects are withheld because the traffic split is not sound. Find the cause that loses, moves or excludes users, then start a new experiment with a new salt."));
  } else {
    parts.push(element("p", {}, "Intervals are always valid: a difference is significant as soon as its interval excludes zero, whenever and however often you look."));
    parts.push(...progressTo("the planned sample", done, settings.planned_impressions, pace));
    if (settings.horizon_impressions > 0) {
      const reached = report.comparisons.map((comparison) => comparison.horizon?.reached_ms).find(known);
      if (reached === undefined) parts.push(...progressTo("the sample for the pre-registered look", done, settings.horizon_impressions, pace));
      else parts.push(element("p", {}, `The pre-registered look at ${countText(settings.horizon_impressions)} impressions was taken at ${timeText(reached)}; see below.`));
    }
  }
  for (const arm of report.arms.filter((candidate) => candidate.killed)) {
    parts.push(warning(`${arm.name} is switched off: the control answers its users, who still count for ${arm.name}.`));
  }
  for (const gap of report.gaps.filter((candidate) => !known(candidate.end_ms))) {
    parts.push(warning(`A server has been unable to log impressions since ${timeText(gap.start_ms)}: they are missing from all metrics.`));
  }
  if (!report.progress.log_up) parts.push(warning("The event log is unavailable: metrics are not being updated."));
  byId("status").replaceChildren(...parts);
}

const warning = (text) => element("p", { "data-verdict": "worse" }, element("strong", {}, `▲ ${text}`));

function comparisonRow(report, comparison, definition) {
  const { name, unit, title } = definition;
  const figure = comparison.figures[name];
  const of = (arm) => report.arms.find((candidate) => candidate.name === arm)?.figures?.[name];
  const plain = (arm) => {
    if (!of(arm)) return element("td");
    const text = boundedTexts(of(arm), unit);
    return element("td", { "data-label": arm }, `${text.value} `,
      text.interval ? element("span", { class: "interval" }, `(${text.interval})`) : null);
  };
  if (!figure && !of(comparison.arm)) return null;
  const row = element("tr", { "data-figure": name }, element("th", { scope: "row" }, title));
  const verdict = figure?.verdict;
  const text = figure ? boundedTexts(figure, unit, true) : { value: "", interval: "" };
  const judgement = element("td", { class: "verdict-cell", "data-verdict": verdict });
  if (figure) judgement.append(`${VERDICTS[verdict]?.sign ?? ""} ${verdictWord(figure)}`, figure.why ? ": " : "",
    element("span", { class: "why" }, figure.why ?? ""));
  const difference = element("td", { class: "difference", "data-label": figure ? "difference" : null });
  if (figure && known(figure.estimate)) {
    difference.append(element("strong", {}, text.value), " ", element("span", { class: "interval" },
      text.interval ? `(${text.interval})` : ""), " ", element("span", { class: "interval" },
      known(figure.p) ? `p ${pText(figure.p)}` : ""));
  } else if (figure) difference.append(NONE);
  const plot = element("td", { class: "plot" });
  if (figure && known(figure.low) && known(figure.high) && known(figure.estimate)) {
    plot.append(whisker(figure, verdict, `${title}: interval ${text.interval}, ${verdictText(figure)}`));
  }
  row.append(judgement, plain(comparison.control), plain(comparison.arm), difference, plot);
  return row;
}

const pText = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(p < 0.1 ? 3 : 2));

function horizonOf(report, comparison) {
  const { horizon } = comparison;
  if (!horizon || !known(horizon.reached_ms)) return null;
  const items = report.definitions.filter(({ name }) => horizon.figures[name]).map(({ name, title, unit }) => {
    const figure = horizon.figures[name];
    return element("li", {}, `${title} ${boundedText(figure, unit, true)}, p ${known(figure.p) ? pText(figure.p) : NONE}: ${verdictText(figure)}`);
  });
  return element("div", {}, element("h4", {}, `Pre-registered look (${timeText(horizon.reached_ms)}, ordinary intervals)`),
    element("ul", { class: "notes" }, ...items));
}

// On a phone, rows are laid out as blocks, and a browser may then drop their table semantics.
const ROLES = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };

function withRoles(table) {
  for (const part of [table, ...table.querySelectorAll("*")]) {
    const role = part.tagName === "TH" ? (part.scope === "row" ? "rowheader" : "columnheader") : ROLES[part.tagName];
    if (role) part.setAttribute("role", role);
  }
  return table;
}

function showComparisons(report) {
  const cards = report.comparisons.map((comparison) => {
    const head = ["Metric", "Verdict", comparison.control, comparison.arm, "Difference (interval)", "Effect"].map((text) =>
      element("th", { scope: "col", class: text === "Verdict" ? "verdict-cell" : null }, text));
    const rows = report.definitions.map((definition) => comparisonRow(report, comparison, definition)).filter(Boolean);
    return element("article", { class: "card comparison" },
      withRoles(element("table", {}, element("caption", {}, `${comparison.arm} vs ${comparison.control}`),
        element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows))),
      element("p", { class: "quiet" }, `Probability that a metric's interval ever excludes the true value, over all looks: at most ${percent(comparison.level)}.`),
      horizonOf(report, comparison));
  });
  if (!cards.length) cards.push(element("p", { class: "card quiet" }, "There is only one arm, so there is nothing to compare."));
  byId("comparisons").replaceChildren(...cards);
}

const LEARNS = { all: "from all traffic", own: "from impressions it served" };

function showArms(report, ageSeconds) {
  byId("arms").replaceChildren(...report.arms.map((arm, index) => {
    const { model } = arm;
    const title = element("h3", {}, swatch(index), arm.name);
    if (arm.control) title.append(element("span", { class: "badge" }, "control"));
    if (arm.shadow) title.append(element("span", { class: "badge" }, "shadow: never answers"));
    if (arm.killed) title.append(element("span", { class: "badge killed" }, "switched off"));
    const reasons = Object.entries(arm.reasons).map(([reason, n]) => `${reason} ${countText(n)}`).join(", ");
    const age = known(model.age_seconds) ? model.age_seconds + ageSeconds : NaN;
    return element("article", { class: "card arm", "data-arm": arm.name }, title, definitionList([
      !arm.shadow && ["Share of users", percent(arm.share)],
      !arm.shadow && ["Expected share", percent(arm.weight)],
      !arm.shadow && ["Users", countText(arm.users)],
      !arm.shadow && ["Effective users", known(arm.effective_users) ? countText(Math.round(arm.effective_users)) : NONE],
      !arm.shadow && ["Most active user", percent(arm.heaviest_share)],
      !arm.shadow && ["Impressions", countText(arm.impressions)],
      arm.over_cap > 0 && ["Over the per-user cap (not counted)", countText(arm.over_cap)],
      !arm.shadow && ["Clicks", countText(arm.clicks)],
      reasons && ["Impressions by reason", reasons],
      ["Learns", LEARNS[arm.learn_from] ?? arm.learn_from],
      ["Model version", model.version || NONE],
      ["Model age", spanText(age)],
      ["Trained up to", timeText(model.event_time_ms)],
    ]));
  }));
}

function splitCard(report) {
  const { users, expected, p, level, sound, why } = report.sample_ratio;
  const all = Object.values(users).reduce((sum, n) => sum + n, 0);
  const rows = Object.keys(expected).map((arm) => element("tr", {}, element("th", { scope: "row" }, arm),
    element("td", {}, countText(users[arm] ?? 0)), element("td", {}, all ? percent((users[arm] ?? 0) / all) : NONE),
    element("td", {}, percent(expected[arm]))));
  const verdict = sound ? "sound" : "unsound";
  return card("Traffic split",
    element("p", { "data-verdict": verdict }, element("strong", {}, `${VERDICTS[verdict].sign} ${VERDICTS[verdict].text}`),
      ` (sample-ratio mismatch: p ${pText(p)}, level ${level})${why ? `: ${why}` : ""}`),
    element("table", {}, element("thead", {}, element("tr", {}, ...["Arm", "Users", "Share", "Expected"].map((text) =>
      element("th", { scope: "col" }, text)))), element("tbody", {}, ...rows)));
}

function showQuality(report, ageSeconds) {
  const { progress, settings, gaps } = report;
  const excluded = (report.exclusions ?? []).map(({ reason, impressions, share, arms, arm_shares: shares }) => {
    const by = Object.entries(arms).map(([arm, n]) => `${arm} ${countText(n)}${known(shares[arm]) ? `, ${percent(shares[arm])}` : ""}`);
    return [reason.replaceAll("_", " "), `${countText(impressions)}, ${percent(share)}${by.length ? ` (${by.join("; ")})` : ""}`];
  });
  const spans = gaps.slice(-8).map((gap) => [`log gap, worker ${gap.worker || NONE}`,
    `${timeText(gap.start_ms)} to ${known(gap.end_ms) ? timeText(gap.end_ms) : "now"}, ${plural(gap.dropped, "impression", "impressions")} lost`]);
  byId("quality").replaceChildren(...[
    report.notes.length ? card("Notes", element("ul", { class: "notes" },
      ...report.notes.map((note) => element("li", {}, note)))) : null,
    splitCard(report),
    card("Watcher progress", definitionList([
      ["Event time reached", timeText(progress.watermark_ms)],
      ["Metrics cover impressions before", timeText(progress.final_until_ms)],
      ["Lag", spanText(known(progress.behind_seconds) ? progress.behind_seconds + ageSeconds : NaN)],
      ["Unread log entries", countText(progress.lag_entries)],
      ["Impressions awaiting a label", countText(progress.open_impressions)],
      ["Event log", progress.log_up ? "available" : "unavailable"],
    ])),
    card("Excluded impressions", excluded.length || spans.length ? definitionList([...excluded, ...spans])
      : element("p", { class: "quiet" }, "None.")),
    card("Pre-registration", definitionList([
      ["Significance level", `${percent(settings.level)} per metric`],
      ["Planned impressions", countText(settings.planned_impressions)],
      ["Counted impressions per user", settings.user_impressions > 0 ? `the first ${countText(settings.user_impressions)}` : "all"],
      ["Maximum excluded impressions", percent(report.sample_ratio.max_excluded)],
      ["Pre-registered look", settings.horizon_impressions > 0 ? `at ${countText(settings.horizon_impressions)}` : "none"],
      ["Label window", spanText(settings.label_window_seconds)],
      ["Reporting window", spanText(settings.window_seconds)],
      ["Click value clipped at", `quantile ${settings.clip_quantile}${known(settings.clip_value) ? `: ${settings.clip_value.toPrecision(3)}` : ""}`],
      report.earlier.length > 0 && ["Earlier salts", report.earlier.join(", ")],
    ])),
  ].filter(Boolean));
  byId("methods").querySelector("dl").replaceChildren(...report.definitions.flatMap((definition) =>
    [element("dt", {}, definition.title), element("dd", {}, `${definition.method} Direction: ${BETTER[definition.better] ?? "unknown"}.`)]));
}
