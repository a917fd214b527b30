// Throughput, one point per second: from servers above the axis, to servers below it.

import { rate } from "./format.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const SECONDS = 120;
const RIGHT = 74;

function shape(kind, attributes, text) {
  const element = document.createElementNS(NAMESPACE, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The smallest of 1, 2, 5 times a power of ten that is not below `value`. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** Draws `samples`, each {down, up} in bytes per second, the latest one last. */
export function draw(svg, samples) {
  const width = svg.clientWidth;
  const height = svg.clientHeight;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const most = (of) => Math.max(0, ...samples.map(of));
  const top = ceiling(Math.max(10_000, most((sample) => sample.down)));
  const bottom = ceiling(Math.max(10_000, most((sample) => sample.up)));
  // Each direction gets at least a quarter of the height.
  const share = Math.min(0.75, Math.max(0.25, top / (top + bottom)));
  const [first, last] = [8, height - 8];
  const zero = first + (last - first) * share;
  const plot = width - RIGHT;
  const x = (index) => plot - ((samples.length - 1 - index) * plot) / (SECONDS - 1);
  const y = { down: (value) => zero - (value / top) * (zero - first), up: (value) => zero + (value / bottom) * (last - zero) };

  const parts = [
    shape("line", { class: "grid", x1: 0, x2: plot, y1: first, y2: first }),
    shape("line", { class: "grid", x1: 0, x2: plot, y1: last, y2: last }),
    shape("text", { x: plot + 8, y: first + 4 }, rate(top)),
    shape("text", { x: plot + 8, y: last + 4 }, rate(bottom)),
  ];
  for (const direction of ["down", "up"]) {
    const points = samples.map((sample, index) => `${x(index).toFixed(1)},${y[direction](sample[direction]).toFixed(1)}`);
    if (points.length < 2) continue;
    const outline = `M${points.join("L")}`;
    parts.push(shape("path", { class: `${direction}-area`, d: `${outline}L${plot},${zero}L${x(0).toFixed(1)},${zero}Z` }));
    parts.push(shape("path", { class: `${direction}-line`, d: outline }));
  }
  parts.push(shape("line", { class: "axis", x1: 0, x2: plot, y1: zero, y2: zero }));
  svg.replaceChildren(...parts);
}
