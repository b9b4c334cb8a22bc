// What a page can do beyond being read: sort tables, tell of the marks near the pointer or under the arrow keys.
// Text that came from outside is only ever copied as text (textContent), never parsed.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function shape(parent, name, kind) {
  const made = document.createElementNS(SVG, name);
  made.setAttribute("class", kind);
  parent.append(made);
  return made;
}

function place(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

/** Pixels of the window to units of the drawing. */
function position(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

function sortable(table) {
  const body = table.tBodies[0];
  table.querySelectorAll("th button").forEach((button) => {
    const header = button.parentElement;
    button.addEventListener("click", () => {
      const isUp = header.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const key = (row) => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent;
      const isNumber = header.classList.contains("number");
      const isMissing = (row) => isNumber && Number.isNaN(Number(key(row))); // these stay last either way
      const compare = isNumber
        ? (a, b) => Number(key(a)) - Number(key(b))
        : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
      const order = (a, b) => isMissing(a) - isMissing(b) || (isMissing(a) ? 0 : isUp ? compare(a, b) : compare(b, a));
      body.append(...[...body.rows].sort(order));
    });
  });
}

function lines(svg) {
  const readout = svg.closest("figure").querySelector(".readout");
  const columns = new Map();
  svg.querySelectorAll(".point").forEach((point) => {
    const x = Number(point.getAttribute("cx"));
    columns.set(x, [...(columns.get(x) ?? []), point]);
  });
  const stops = [...columns.keys()].sort((a, b) => a - b);
  if (!stops.length) return;
  const cursor = shape(svg, "line", "cursor");
  place(cursor, { y1: 30, y2: 216, visibility: "hidden" });
  let at = -1;
  const show = (stop) => {
    columns.get(stops[at])?.forEach((point) => point.classList.remove("near"));
    at = stop;
    const near = columns.get(stops[at]) ?? [];
    near.forEach((point) => point.classList.add("near"));
    place(cursor, { x1: stops[at] ?? 0, x2: stops[at] ?? 0, visibility: near.length ? "visible" : "hidden" });
    const notes = near.map((point) => point.querySelector("title").textContent);
    readout.textContent = near.length ? [near[0].dataset.at, ...notes].join(" · ") : "";
  };
  svg.addEventListener("pointermove", (event) => {
    const x = position(svg, event).x;
    show(stops.reduce((best, stop, i) => (Math.abs(stop - x) < Math.abs(stops[best] - x) ? i : best), 0));
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: at + 1, ArrowLeft: at < 0 ? stops.length - 1 : at - 1, Home: 0, End: stops.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(Math.min(stops.length - 1, Math.max(0, moves[event.key])));
  });
}

function heat(svg) {
  const readout = svg.closest("figure").querySelector(".readout");
  const [size, left, top] = ["size", "left", "top"].map((name) => Number(svg.dataset[name]));
  const labels = JSON.parse(svg.dataset.labels);
  const count = labels.length;
  const cells = new Map();
  svg.querySelectorAll(".cell").forEach((cell) => cells.set(`${cell.dataset.row} ${cell.dataset.column}`, cell));
  const [across, down, target] = ["band", "band", "target"].map((kind) => shape(svg, "rect", kind));
  let [row, column] = [-1, -1];
  const show = (newRow, newColumn) => {
    [row, column] = [newRow, newColumn];
    const isInside = row >= 0 && column >= 0 && row < count && column < count;
    [across, down, target].forEach((band) => place(band, { visibility: isInside ? "visible" : "hidden" }));
    svg.querySelectorAll("text.near").forEach((text) => text.classList.remove("near"));
    readout.textContent = readout.dataset.hint;
    if (!isInside) return;
    place(across, { x: 0, y: top + row * size, width: left + count * size, height: size });
    place(down, { x: left + column * size, y: 0, width: size, height: top + count * size });
    place(target, { x: left + column * size, y: top + row * size, width: size, height: size });
    svg.querySelector(`.row[data-row="${row}"]`)?.classList.add("near");
    svg.querySelector(`.column[data-column="${column}"]`)?.classList.add("near");
    const cell = cells.get(`${row} ${column}`);
    readout.textContent = cell ? cell.querySelector("title").textContent : `\u2068${labels[row]}\u2069 taken for \u2068${labels[column]}\u2069: never`;
  };
  svg.addEventListener("pointermove", (event) => {
    const { x, y } = position(svg, event);
    show(Math.floor((y - top) / size), Math.floor((x - left) / size));
  });
  svg.addEventListener("pointerleave", () => show(-1, -1));
  svg.addEventListener("blur", () => show(-1, -1));
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [dy, dx] = row < 0 ? [1, 1] : moves[event.key];
    const clamp = (place) => Math.min(count - 1, Math.max(0, place));
    show(clamp(row + dy), clamp(column + dx));
  });
  show(-1, -1);
}

/** Where a mark is: the middle of a dot, the corners of a line. */
function anchors(mark) {
  if (mark.hasAttribute("cx")) return [[Number(mark.getAttribute("cx")), Number(mark.getAttribute("cy"))]];
  const commands = mark.getAttribute("d").match(/[MLC][^MLCm]+/g); // a shape begins in its middle and goes on with small letters
  const ends = commands.map((command) => command.match(/-?[\d.]+/g).map(Number).slice(-2));
  return mark.classList.contains("dot") ? ends.slice(0, 1) : ends;
}

/** How far a line is from a point: straight up or down, or to its nearer end. */
function distance(corners, isCurved, { x, y }) {
  const after = corners.findIndex((corner) => corner[0] >= x);
  if (after <= 0) {
    const [endX, endY] = corners.at(after);
    return Math.hypot(endX - x, endY - y);
  }
  const [[fromX, fromY], [toX, toY]] = [corners[after - 1], corners[after]];
  const share = (x - fromX) / (toX - fromX || 1);
  return Math.abs(fromY + (toY - fromY) * (isCurved ? share * share * (3 - 2 * share) : share) - y);
}

/** A chart with a mark for each trial; `tell` is called with the number of the one that is meant, or null. */
function trialChart(svg, tell) {
  const readout = svg.closest("figure").querySelector(".readout");
  const isCurved = svg.classList.contains("parallel");
  const isLines = svg.classList.contains("threads");
  const marks = [...svg.querySelectorAll(".mark")].map((mark) => ({ mark, trial: mark.dataset.trial, corners: anchors(mark) }));
  const byTrial = new Map(marks.map((found) => [found.trial, found]));
  // Dots from the left; lines from the best, which is drawn last, on.
  const order = isLines ? [...marks].reverse() : [...marks].sort((a, b) => a.corners[0][0] - b.corners[0][0] || a.corners[0][1] - b.corners[0][1]);
  const light = shape(svg, isLines ? "path" : "circle", isLines ? "trace" : "ring");
  let at = -1;
  const show = (trial, where) => {
    const found = byTrial.get(trial);
    svg.classList.toggle("pointing", Boolean(found));
    // The chart that was asked answers: nine answers at once would be read out, and move the page under the pointer.
    readout.textContent = found && where === svg ? found.mark.querySelector("title").textContent : readout.dataset.hint;
    place(light, { visibility: found ? "visible" : "hidden" });
    if (found) place(light, isLines ? { d: found.mark.getAttribute("d") } : { cx: found.corners[0][0], cy: found.corners[0][1], r: 8 });
  };
  const go = (to) => {
    at = to;
    tell(order[at]?.trial ?? null, svg);
  };
  const point = (event) => {
    const where = position(svg, event);
    const far = order.map((found) => distance(found.corners, isCurved, where));
    go(far.indexOf(Math.min(...far)));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", () => go(-1));
  svg.addEventListener("blur", () => go(-1));
  svg.addEventListener("keydown", (event) => {
    const [next, last] = [at + 1, order.length - 1];
    const before = at < 0 ? last : at - 1;
    const moves = { ArrowRight: next, ArrowDown: next, ArrowLeft: before, ArrowUp: before, Home: 0, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(Math.min(last, Math.max(0, moves[event.key])));
  });
  return show;
}

/** Whichever trial is meant in one chart, or in the table, is shown in all of them. */
function trials() {
  const rows = new Map([...document.querySelectorAll("tr[data-trial]")].map((row) => [row.dataset.trial, row]));
  let shown = null;
  const tell = (trial, where) => {
    rows.get(shown)?.classList.remove("near");
    rows.get(trial)?.classList.add("near");
    shown = trial;
    charts.forEach((show) => show(trial, where));
  };
  const charts = [...document.querySelectorAll("svg.trials")].map((svg) => trialChart(svg, tell));
  rows.forEach((row, trial) => {
    row.addEventListener("pointerenter", () => tell(trial));
    row.addEventListener("pointerleave", () => tell(null));
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("svg.lines").forEach(lines);
document.querySelectorAll("svg.heat").forEach(heat);
trials();
