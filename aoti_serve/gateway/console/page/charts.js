/** Five small charts over the last two minutes, as plain SVG. */

import { el } from "./dom.js";
import { digits, rate } from "./words.js";

const SAMPLES = 120;
const [WIDTH, HEIGHT] = [240, 64];
const KINDS = [
  { key: "requests", name: "Requests", unit: "per second", text: rate, least: 10 },
  { key: "p99", second: "p50", name: "Latency, p99 and p50", unit: "ms", text: (value) => digits(value, 3), least: 2 },
  { key: "rows", name: "Rows in a batch", unit: "", text: (value) => digits(value, 2), least: 4 },
  { key: "waiting", name: "Rows that wait", unit: "", text: (value) => digits(value, 3), least: 4 },
  { key: "errors", name: "Requests refused or failed", unit: "per second", text: rate, least: 2 },
];

export class Charts {
  #samples = [];
  #marks = []; // how many samples ago another version began to answer
  #drawn;

  constructor(place) {
    this.#drawn = KINDS.map((kind) => new Chart(kind));
    place.replaceChildren(...this.#drawn.map((chart) => chart.figure));
    this.#draw();
  }

  /** Add a sample; null is a second in which nothing is known. */
  add(sample) {
    this.#samples = [...this.#samples, sample].slice(-SAMPLES);
    this.#marks = this.#marks.map((before) => before + 1).filter((before) => before < SAMPLES);
    this.#draw();
  }

  /** Mark the moment at which a version began to answer. */
  mark() {
    this.#marks.push(0);
  }

  #draw() {
    for (const chart of this.#drawn) chart.draw(this.#samples, this.#marks);
  }
}

class Chart {
  constructor(kind) {
    this.kind = kind;
    this.now = el("p.now");
    this.top = el("span.top");
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.area = svg("path", { class: "area" });
    this.second = svg("path", { class: "line second" });
    this.line = svg("path", { class: "line" });
    this.mark = svg("path", { class: "mark" });
    this.svg.append(this.area, this.mark, this.second, this.line);
    this.figure = el(`figure.${kind.key}`, {}, el("figcaption", {}, kind.name), this.now, this.top, this.svg);
  }

  draw(samples, marks) {
    const { key, second, unit, text, least, name } = this.kind;
    const values = samples.map((sample) => sample?.[key] ?? null);
    const most = Math.max(0, ...values);
    const high = Math.max(least, most);
    const last = values.at(-1) ?? null;
    const beside = second && last !== null ? `ms, p50 ${text(samples.at(-1)[second])}` : unit;
    this.now.replaceChildren(text(last), el("small", {}, beside));
    this.top.textContent = most > least ? text(most) : "";
    this.figure.classList.toggle("calm", !last);
    const points = placed(values, high);
    this.line.setAttribute("d", path(points));
    this.area.setAttribute("d", second ? "" : filled(points));
    this.second.setAttribute("d", second ? path(placed(samples.map((sample) => sample?.[second] ?? null), high)) : "");
    this.mark.setAttribute("d", marks.map((before) => `M${across(SAMPLES - 1 - before)} 0V${HEIGHT}`).join(""));
    this.svg.setAttribute("aria-label", `${name}: now ${text(last)} ${unit}, at most ${text(most)} in the last two minutes`);
  }
}

const across = (at) => ((at * WIDTH) / (SAMPLES - 1)).toFixed(1);
const placed = (values, high) => values.map((value, at) =>
  value === null ? null : [across(at + SAMPLES - values.length), (HEIGHT - (value / high) * (HEIGHT - 2) - 1).toFixed(1)]);

/** A line that has a gap where nothing is known. */
const path = (points) => points.map((point, at) => point && `${points[at - 1] ? "L" : "M"}${point.join(" ")}`).filter(Boolean).join("");

function filled(points) {
  const runs = [[]];
  for (const point of points) {
    if (point) runs.at(-1).push(point);
    else runs.push([]);
  }
  return runs.filter((run) => run.length > 1)
    .map((run) => `M${run[0][0]} ${HEIGHT}L${run.map((point) => point.join(" ")).join("L")}L${run.at(-1)[0]} ${HEIGHT}Z`).join("");
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
