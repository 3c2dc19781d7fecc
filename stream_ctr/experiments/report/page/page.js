// Asks for the report, shows it, and says how fresh it is.
const POLL_MS = 2000;
const PATIENCE_MS = 8000;
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
    `Times are ${Intl.DateTimeFormat().resolvedOptions().timeZone}.`;
  byId("main").hidden = false;
  showVerdict(report);
  showWarnings(report);
  showMoment(report);
  showComparisons(report);
  showArms(report, reportAge());
  showCharts(report, chosenView(), byId("every").checked);
  showTrust(report, reportAge());
}

function showFreshness() {
  const line = byId("connection");
  const say = (kind, text) => {
    line.dataset.state = kind;
    line.textContent = text;
  };
  const old = state.report && reportAge() > STALE_SECONDS;
  byId("main").classList.toggle("stale", Boolean(state.failedSince !== null || old));
  const of = state.report ? `The report is of ${timeText(state.report.generated_ms)}, ${spanText(reportAge())} old.` : "";
  if (state.failedSince !== null) {
    const since = (performance.now() - state.failedSince) / 1000;
    say("bad", `${state.problem} (for ${spanText(since)}). ${of} Asking again.`);
  } else if (!state.report) {
    say("wait", state.problem || "Asking for the report …");
  } else if (old) {
    say("bad", `Stale: the watcher has written nothing new. ${of}`);
  } else {
    say("good", `Live. ${of}`);
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
    failed(`The report is of version ${report.v}, which this page does not read; reload the page`);
    return;
  }
  // The server's clock says how old the report is: this device's may be wrong.
  const serverNow = Date.parse(response.headers.get("date") ?? "") || Date.now();
  Object.assign(state, { readAt: performance.now(), ageThen: Math.max(0, (serverNow - report.generated_ms) / 1000),
    failedSince: null, problem: "", wait: POLL_MS });
  if (state.report?.generated_ms === report.generated_ms) return;
  state.report = report;
  showReport();
}

let timer = null;

async function ask() {
  timer = null;
  try {
    const response = await fetch("report.json", { cache: "no-cache", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (response.ok) await accept(response);
    else if (!state.report && (response.status === 503 || response.status === 404)) {
      Object.assign(state, { failedSince: null, problem: "No report yet: the watcher has met no impression.", wait: POLL_MS });
    } else failed(`The watcher answers with status ${response.status}`);
  } catch (error) {
    failed(error instanceof SyntaxError ? "The report cannot be read" : "Connection lost");
  }
  showFreshness();
  timer = setTimeout(ask, document.hidden ? SLOWEST_MS : state.wait);
}

function askNow() {
  if (document.hidden || timer === null) return;
  clearTimeout(timer);
  ask();
}

byId("view").addEventListener("change", showReport);
byId("every").addEventListener("change", showReport);
document.addEventListener("visibilitychange", askNow);
setInterval(showFreshness, 1000);
ask();
