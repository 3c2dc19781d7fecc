// Polls the report, renders it, and displays its age.
const POLL_MS = 2000;
const TIMEOUT_MS = 8000;
const SLOWEST_MS = 30_000;
const STALE_SECONDS = 30;
const REPORT_VERSION = 2;

const state = { report: null, readAt: 0, ageThen: 0, failedSince: null, problem: "", wait: POLL_MS };

const reportAge = () => state.ageThen + (performance.now() - state.readAt) / 1000;
const chosenView = () => document.querySelector("input[name=view]:checked").value;

function showReport() {
  const { report } = state;
  if (!report) return;
  byId("name").textContent = report.experiment;
  document.title = `${report.experiment} · Stream CTR`;
  byId("about").textContent = `Salt ${report.salt}, ${percent(report.coverage, 0)} of all users enrolled. ` +
    `Time zone: ${Intl.DateTimeFormat().resolvedOptions().timeZone}.`;
  byId("main").hidden = false;
  showVerdict(report);
  showWarnings(report);
  showStatus(report);
  showComparisons(report);
  showArms(report, reportAge());
  showCharts(report, chosenView(), byId("every").checked);
  showQuality(report, reportAge());
}

function showFreshness() {
  const line = byId("connection");
  const set = (kind, text) => {
    line.dataset.state = kind;
    line.textContent = text;
  };
  const old = state.report && reportAge() > STALE_SECONDS;
  byId("main").classList.toggle("stale", Boolean(state.failedSince !== null || old));
  const age = state.report ? `Report from ${timeText(state.report.generated_ms)}, ${spanText(reportAge())} old.` : "";
  if (state.failedSince !== null) {
    const since = (performance.now() - state.failedSince) / 1000;
    set("bad", `${state.problem} (for ${spanText(since)}). ${age} Retrying.`);
  } else if (!state.report) {
    set("wait", state.problem || "Loading the report …");
  } else if (old) {
    set("bad", `Stale: the watcher has not written a new report. ${age}`);
  } else {
    set("good", `Live. ${age}`);
  }
}

function failed(problem) {
  state.failedSince ??= performance.now();
  state.problem = problem;
  state.wait = Math.min(SLOWEST_MS, state.wait * 1.5);
}

async function accept(response) {
  const report = await response.json();
  if (report.v > REPORT_VERSION) {
    failed(`The report has version ${report.v}, but this page reads up to ${REPORT_VERSION}; reload the page`);
    return;
  }
  // The age is computed from the server's clock, because this device's clock may be wrong.
  const serverNow = Date.parse(response.headers.get("date") ?? "") || Date.now();
  Object.assign(state, { readAt: performance.now(), ageThen: Math.max(0, (serverNow - report.generated_ms) / 1000),
    failedSince: null, problem: "", wait: POLL_MS });
  if (state.report?.generated_ms === report.generated_ms) return;
  state.report = report;
  showReport();
}

let timer = null;

async function poll() {
  timer = null;
  try {
    const response = await fetch("report.json", { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (response.ok) await accept(response);
    else if (!state.report && (response.status === 503 || response.status === 404)) {
      Object.assign(state, { failedSince: null, problem: "No report yet: the watcher has not written one.", wait: POLL_MS });
    } else failed(`The watcher responded with HTTP status ${response.status}`);
  } catch (error) {
    failed(error instanceof SyntaxError ? "The report is not valid JSON" : "Connection lost");
  }
  showFreshness();
  timer = setTimeout(poll, document.hidden ? SLOWEST_MS : state.wait);
}

function pollNow() {
  if (document.hidden || timer === null) return;
  clearTimeout(timer);
  poll();
}

byId("view").addEventListener("change", showReport);
byId("every").addEventListener("change", showReport);
document.addEventListener("visibilitychange", pollNow);
setInterval(showFreshness, 1000);
poll();
