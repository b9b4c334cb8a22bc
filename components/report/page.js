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
      const compare = header.classList.contains("number")
        ? (a, b) => Number(key(a)) - Number(key(b))
        : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
      body.append(...[...body.rows].sort((a, b) => (isUp ? compare(a, b) : compare(b, a))));
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

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("svg.lines").forEach(lines);
document.querySelectorAll("svg.heat").forEach(heat);
