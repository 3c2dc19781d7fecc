// Human-readable numbers and times, in English as the rest of the page, whatever the browser's language.
const NONE = "–";
const MINUS = "−";
const MOST_DECIMALS = 7;
const count = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const shortClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const date = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

const DAY_MS = 86_400_000;
const known = (value) => typeof value === "number" && Number.isFinite(value);

function timeText(ms) {
  if (!known(ms)) return NONE;
  return Math.abs(Date.now() - ms) < DAY_MS ? clock.format(ms) : date.format(ms);
}

function spanText(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 0) return `${MINUS}${spanText(-seconds)}`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

const percent = (share, digits = 1) => (known(share) ? `${(share * 100).toFixed(digits)} %` : NONE);
const countText = (value) => (known(value) ? count.format(value) : NONE);
const plural = (value, one, many) => `${count.format(value)} ${value === 1 ? one : many}`;

// Shares and relative changes are displayed in percent, a difference of shares in percentage points (pp).
const scaleOf = (unit) => (unit === "share" || unit === "relative" ? 100 : 1);

function suffixOf(unit, difference) {
  if (unit === "relative") return " %";
  if (unit === "share") return difference ? " pp" : " %";
  return "";
}

// Decimals that give the interval's width two significant digits, or three if it starts with 1 or 2: more would be noise.
function decimalsFor(width) {
  if (!known(width) || width <= 0) return 4;
  return Math.min(MOST_DECIMALS, Math.max(0, 1 - Math.floor(Math.log10(width / 3))));
}

const widthOf = (bounded) =>
  bounded && known(bounded.low) && known(bounded.high) ? bounded.high - bounded.low : NaN;

function numberText(value, decimals, signed) {
  if (!known(value)) return NONE;
  const text = Math.abs(value).toFixed(decimals);
  const sign = Number(text) === 0 ? "" : value < 0 ? MINUS : signed ? "+" : "";
  return sign + text;
}

// {value, interval}: an estimate and its interval as text; the interval is empty if there is none.
function boundedTexts(bounded, unit, difference = false) {
  if (!bounded || !known(bounded.estimate)) return { value: NONE, interval: "" };
  const scale = scaleOf(unit);
  const width = widthOf(bounded) * scale;
  const decimals = decimalsFor(known(width) ? width : Math.abs(bounded.estimate * scale) / 10);
  const signed = difference || unit === "relative";
  const text = (value) => numberText(value * scale, decimals, signed);
  return {
    value: text(bounded.estimate) + suffixOf(unit, difference),
    interval: known(width) ? `${text(bounded.low)} to ${text(bounded.high)}` : "",
  };
}

function boundedText(bounded, unit, difference = false) {
  const { value, interval } = boundedTexts(bounded, unit, difference);
  return interval ? `${value} (${interval})` : value;
}

const VERDICTS = {
  better: { sign: "▲", text: "better" },
  worse: { sign: "▼", text: "worse" },
  unknown: { sign: "◆", text: "not significant yet" },
  early: { sign: "◇", text: "no verdict yet" },
  missing: { sign: "○", text: "no verdict" },
  withheld: { sign: "✕", text: "withheld" },
  sound: { sign: "✓", text: "sound" },
  unsound: { sign: "✕", text: "not sound" },
};

const verdictWord = (figure) =>
  (VERDICTS[figure.verdict]?.text ?? figure.verdict) + (figure.final ? "" : " (provisional)");

// The verdict on a figure with its reason; empty if there is no figure.
const verdictText = (figure) =>
  !figure ? "" : figure.why ? `${verdictWord(figure)}: ${figure.why}` : verdictWord(figure);
