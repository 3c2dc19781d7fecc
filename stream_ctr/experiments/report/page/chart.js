// Lines over time with their intervals, as SVG. Structure of a chart:
//   {unit, difference, lines: [{name, index, points: [{t, estimate, low, high, final}]}], spans, provisionalFrom}
// Lines differ in dashes and in the shape of their markers as well as in colour.
const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "9 5", "2 4", "12 4 2 4", "5 3", "1 6"];
const MARKS = ["circle", "square", "triangle", "diamond", "cross", "ring"];
const HEIGHT = 230;
const MARGIN = { top: 18, bottom: 26, left: 66 };
const SETTLED_SHARE = 2 / 3;

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function shape(kind, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const colour = (index) => `var(--arm-${index % 6})`;

function mark(kind, x, y, size, index, hollow) {
  const look = { fill: hollow ? "var(--card)" : colour(index), stroke: colour(index), "stroke-width": 1.6 };
  const at = (dx, dy) => `${x + dx * size},${y + dy * size}`;
  switch (kind) {
    case "square": return shape("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...look });
    case "triangle": return shape("polygon", { points: `${at(0, -1.3)} ${at(1.2, 1)} ${at(-1.2, 1)}`, ...look });
    case "diamond": return shape("polygon", { points: `${at(0, -1.4)} ${at(1.4, 0)} ${at(0, 1.4)} ${at(-1.4, 0)}`, ...look });
    case "cross": return shape("path", { d: `M${at(-1, -1)} L${at(1, 1)} M${at(-1, 1)} L${at(1, -1)}`, ...look, "stroke-width": 2.4 });
    default: return shape("circle", { cx: x, cy: y, r: size * 1.1, ...look });
  }
}

const markOf = (index) => MARKS[index % MARKS.length];

function swatch(index) {
  const drawn = shape("svg", { class: "swatch", width: 34, height: 12, "aria-hidden": "true" });
  drawn.append(
    shape("line", { x1: 1, x2: 33, y1: 6, y2: 6, stroke: colour(index), "stroke-width": 2.2,
      "stroke-dasharray": DASHES[index % DASHES.length] }),
    mark(markOf(index), 17, 6, 3.4, index, markOf(index) === "ring"),
  );
  return drawn;
}

// Round steps that divide the range into about `wanted` parts.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? rough;
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-12) || n * step <= high; n++) found.push(n * step);
  return found;
}

// Range of all estimates and of the later intervals: the first intervals are so wide that they would flatten the rest.
function valueRange(lines, difference) {
  let low = difference ? 0 : Infinity;
  let high = difference ? 0 : -Infinity;
  const take = (value) => { if (known(value)) { low = Math.min(low, value); high = Math.max(high, value); } };
  for (const { points } of lines) {
    const from = Math.floor(points.length * (1 - SETTLED_SHARE));
    points.forEach((point, n) => {
      take(point.estimate);
      if (n >= from) { take(point.low); take(point.high); }
    });
  }
  if (low > high) return null;
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  return [low - room, high + room];
}

function pathOf(points, x, y, pick) {
  let open = false;
  let path = "";
  for (const point of points) {
    const value = pick(point);
    if (!known(value)) { open = false; continue; }
    path += `${open ? "L" : "M"}${x(point.t).toFixed(1)} ${y(value).toFixed(1)}`;
    open = true;
  }
  return path;
}

function bandOf(points, x, y) {
  const inside = points.filter((point) => known(point.low) && known(point.high));
  if (inside.length < 2) return "";
  const there = inside.map((p) => `${x(p.t).toFixed(1)} ${y(p.high).toFixed(1)}`);
  const back = inside.map((p) => `${x(p.t).toFixed(1)} ${y(p.low).toFixed(1)}`).reverse();
  return `M${there.join("L")}L${back.join("L")}Z`;
}

function drawAxes(chart, frame, x, y, range, times) {
  const { width, right, bottom } = frame;
  const scale = scaleOf(chart.unit);
  const marks = ticks(range[0] * scale, range[1] * scale, 4);
  const decimals = Math.max(0, Math.min(MOST_DECIMALS, Math.ceil(-Math.log10((marks[1] - marks[0]) || 1) - 1e-9)));
  const exact = marks.some((m) => Math.abs(m * 10 ** decimals - Math.round(m * 10 ** decimals)) > 1e-6);
  const drawn = [];
  for (const value of marks) {
    const at = y(value / scale);
    const zero = chart.difference && Math.abs(value) < 1e-12;
    drawn.push(shape("line", { x1: MARGIN.left, x2: width - right, y1: at, y2: at,
      stroke: zero ? "var(--ink)" : "var(--grid)", "stroke-width": zero ? 1.5 : 1 }));
    const text = numberText(value, decimals + (exact ? 1 : 0), chart.difference) + suffixOf(chart.unit, chart.difference);
    drawn.push(shape("text", { x: MARGIN.left - 6, y: at + 4, "text-anchor": "end", class: zero ? "strong" : "" }, text));
  }
  const [first, last] = times;
  const wanted = Math.max(2, Math.min(6, Math.floor((width - MARGIN.left - right) / 95)));
  const format = last - first > DAY_MS ? date : last - first > 1_200_000 ? shortClock : clock;
  for (let n = 0; n < wanted; n++) {
    const t = first + ((last - first) * n) / (wanted - 1);
    const anchor = n === 0 ? "start" : n === wanted - 1 ? "end" : "middle";
    drawn.push(shape("text", { x: x(t), y: bottom + 18, "text-anchor": anchor }, format.format(t)));
  }
  return drawn;
}

function drawSpans(chart, frame, x, times) {
  const drawn = [];
  const { bottom } = frame;
  const inside = (t) => Math.min(Math.max(t, times[0]), times[1]);
  const shaded = (from, to, label, pattern) => {
    const [left, right] = [x(inside(from)), x(inside(to))];
    if (to < times[0] || from > times[1]) return;
    drawn.push(shape("rect", { x: left, y: MARGIN.top, width: Math.max(2, right - left), height: bottom - MARGIN.top,
      fill: pattern, "data-span": label }));
    const anchor = left > frame.width / 2 ? "end" : "start";
    drawn.push(shape("text", { x: anchor === "end" ? right : left, y: MARGIN.top - 5, "text-anchor": anchor }, label));
  };
  for (const gap of chart.spans) shaded(gap.from, gap.to, "log gap", `url(#hatch-${chart.name})`);
  if (known(chart.provisionalFrom)) shaded(chart.provisionalFrom, times[1], "provisional", "var(--shade)");
  return drawn;
}

// Names at the ends of the lines, moved apart where they would overlap.
function drawNames(lines, frame, x, y) {
  const ends = lines.map((line) => {
    const last = line.points.findLast((point) => known(point.estimate));
    return last && { line, x: x(last.t), y: y(last.estimate) };
  }).filter(Boolean).sort((a, b) => a.y - b.y);
  let least = MARGIN.top;
  for (const end of ends) { end.at = Math.max(end.y, least); least = end.at + 14; }
  let most = frame.bottom;
  for (const end of ends.toReversed()) { end.at = Math.min(end.at, most); most = end.at - 14; }
  return ends.map((end) => shape("text", { x: frame.width - frame.right + 8, y: end.at + 4, class: "strong" },
    end.line.name.length > 14 ? `${end.line.name.slice(0, 13)}…` : end.line.name));
}

const hatch = (id) => shape("defs", {}, shape("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse",
  patternTransform: "rotate(45)" }, shape("rect", { width: 2.5, height: 6, fill: "var(--bad)", "fill-opacity": 0.55 })));

// The drawing, a function that moves the cursor to a time, and one from pixels to time; null if there is nothing to draw.
function drawChart(chart, width, label) {
  const range = valueRange(chart.lines, chart.difference);
  const all = chart.lines.flatMap((line) => line.points.map((point) => point.t));
  if (!range || !all.length) return null;
  const longest = Math.max(...chart.lines.map((line) => Math.min(14, line.name.length)));
  const frame = { width, right: width > 420 ? 16 + longest * 7.5 : 10, bottom: HEIGHT - MARGIN.bottom };
  let times = [Math.min(...all), Math.max(...all)];
  if (times[0] === times[1]) times = [times[0] - 1000, times[1]];
  const x = (t) => MARGIN.left + ((t - times[0]) / (times[1] - times[0])) * (width - MARGIN.left - frame.right);
  const y = (v) => frame.bottom - ((v - range[0]) / (range[1] - range[0])) * (frame.bottom - MARGIN.top);
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": label });
  const clip = `clip-${chart.name}`;
  drawing.append(hatch(`hatch-${chart.name}`), shape("clipPath", { id: clip }, shape("rect", { x: MARGIN.left, y: MARGIN.top - 4,
    width: width - MARGIN.left - frame.right + 5, height: frame.bottom - MARGIN.top + 8 })));
  drawing.append(...drawSpans(chart, frame, x, times), ...drawAxes(chart, frame, x, y, range, times));
  const inner = shape("g", { "clip-path": `url(#${clip})` });
  for (const line of chart.lines) {
    const look = { fill: "none", stroke: colour(line.index) };
    const dash = { "stroke-dasharray": DASHES[line.index % DASHES.length] };
    inner.append(shape("path", { d: bandOf(line.points, x, y), fill: colour(line.index), "fill-opacity": 0.13 }));
    for (const pick of [(p) => p.low, (p) => p.high]) {
      inner.append(shape("path", { d: pathOf(line.points, x, y, pick), ...look, ...dash, "stroke-width": 0.9 }));
    }
    inner.append(shape("path", { d: pathOf(line.points, x, y, (p) => p.estimate), ...look, ...dash, "stroke-width": 2.3,
      "data-line": line.name }));
  }
  const cursor = shape("g", { "data-cursor": "" });
  drawing.append(inner, cursor);
  if (width > 420) drawing.append(...drawNames(chart.lines, frame, x, y));
  const moveTo = (t) => {
    cursor.replaceChildren(shape("line", { x1: x(t), x2: x(t), y1: MARGIN.top, y2: frame.bottom,
      stroke: "var(--quiet)", "stroke-width": 1 }));
    for (const line of chart.lines) {
      const point = line.points.find((candidate) => candidate.t === t);
      if (!point || !known(point.estimate)) continue;
      const at = Math.min(Math.max(y(point.estimate), MARGIN.top), frame.bottom);
      cursor.append(mark(markOf(line.index), x(t), at, 4.2, line.index, !point.final || markOf(line.index) === "ring"));
    }
  };
  const timeAt = (px) => times[0] + ((px - MARGIN.left) / (width - MARGIN.left - frame.right)) * (times[1] - times[0]);
  return { drawing, moveTo, timeAt };
}

// A small plot of an interval relative to zero, for a row of a table.
function whisker(figure, verdict, label) {
  const size = 140;
  const reach = Math.max(...[figure.low, figure.high, figure.estimate].filter(known).map(Math.abs)) * 1.1 || 1;
  const x = (value) => size / 2 + (value / reach) * (size / 2 - 4);
  const drawn = shape("svg", { class: "whisker", viewBox: `0 0 ${size} 18`, role: "img", "aria-label": label,
    "data-verdict": verdict, preserveAspectRatio: "none" });
  drawn.append(
    shape("line", { x1: x(0), x2: x(0), y1: 0, y2: 18, stroke: "var(--ink)", "stroke-width": 1 }),
    shape("line", { x1: x(figure.low), x2: x(figure.high), y1: 9, y2: 9, stroke: "currentColor", "stroke-width": 3 }),
    shape("line", { x1: x(figure.low), x2: x(figure.low), y1: 4, y2: 14, stroke: "currentColor", "stroke-width": 2 }),
    shape("line", { x1: x(figure.high), x2: x(figure.high), y1: 4, y2: 14, stroke: "currentColor", "stroke-width": 2 }),
    shape("line", { x1: x(figure.estimate), x2: x(figure.estimate), y1: 1, y2: 17, stroke: "currentColor", "stroke-width": 4 }),
  );
  return drawn;
}
