/** A form made from the model's signature. An image of one channel is drawn; other tensors are typed. */

import { get, model, post } from "./api.js";
import { bar, el, fill, tell } from "./dom.js";
import { digits } from "./words.js";
import { Pad } from "./pad.js";

const [LARGEST_PAD, MOST_VOTES, MOST_SHOWN] = [32, 24, 400];
const AGAIN_MS = 1000;

export class Trial {
  #timer = null;
  #asking = false;
  #version = null;

  constructor(place, name) {
    this.place = place;
    this.name = name;
    this.answer = el("div.answer", {}, el("p.note", {}, "The answer will stand here, with the version that computed it."));
    this.again = el("input", { type: "checkbox", checked: true });
  }

  async open(signal) {
    const { inputs } = await get(model(this.name), signal);
    this.inputs = inputs.map((spec) => (isImage(spec) ? new Drawn(spec, () => this.#touched()) : new Typed(spec)));
    const foot = el("div.row", {}, el("button.main", { type: "submit" }, "Ask"),
      el("label", {}, this.again, "and again every second"));
    const form = el("form", { onsubmit: (event) => { event.preventDefault(); this.ask(); } },
      ...this.inputs.map((input) => input.element), foot);
    this.place.replaceChildren(el("div.pad", {}, form, this.answer));
  }

  close() {
    clearTimeout(this.#timer);
    this.closed = true;
  }

  async ask() {
    clearTimeout(this.#timer);
    if (this.#asking || this.closed) return;
    this.#asking = true;
    try {
      const inputs = this.inputs.map((input) => input.tensor());
      this.#show(await post(model(this.name, "/infer"), { inputs }));
      if (this.again.checked) this.#timer = setTimeout(() => this.ask(), AGAIN_MS);
    } catch (error) {
      this.answer.replaceChildren(el("p.wrong", { role: "alert" }, error instanceof TypeError ? "The server does not answer." : error.message));
      if (this.again.checked && error instanceof TypeError) this.#timer = setTimeout(() => this.ask(), AGAIN_MS);
    } finally {
      this.#asking = false;
    }
  }

  #touched() {
    if (this.inputs.every((input) => input.ready)) this.ask();
  }

  #show(answer) {
    const version = answer.model_version;
    const fresh = this.#version !== null && this.#version !== version;
    if (fresh) tell(`Version ${version} has answered this.`); // perhaps only this: it may be a candidate
    this.#version = version;
    fill(this.answer, answer.outputs.map((output) => [version, output.data]), () => [
      ...answer.outputs.map(shown),
      el("p.note.by", {}, "answered by ", el(`span.chip.on${fresh ? ".fresh" : ""}`, {}, `version ${version}`)),
    ]);
  }
}

/** Whether it holds images of one channel, small enough to be drawn: […, 1, side, side]. */
function isImage({ shape, datatype }) {
  const [channels, height, width] = shape.slice(-3);
  return datatype.startsWith("FP") && channels === 1 && height === width && height > 1 && height <= LARGEST_PAD;
}

class Drawn {
  constructor({ name, shape, datatype }, changed) {
    Object.assign(this, { name, datatype, shape: shape.map((size) => (size < 0 ? 1 : size)) });
    this.pad = new Pad(shape.at(-1), changed);
    this.ink = el("input", { type: "number", value: 1, step: "any", size: 5, "aria-label": `the value of full ink in ${name}` });
    this.element = el("div", {}, this.pad.canvas, this.pad.said, el("div.row", {},
      el("button.quiet", { type: "button", onclick: () => this.pad.clear() }, "Clear"),
      el("label.wide", {}, "ink is", this.ink)));
  }

  get ready() {
    return !this.pad.empty;
  }

  tensor() {
    const { name, datatype, shape } = this;
    return { name, datatype, shape, data: this.pad.pixels().map((pixel) => pixel * Number(this.ink.value)) };
  }
}

class Typed {
  ready = true;

  constructor({ name, shape, datatype }) {
    Object.assign(this, { name, datatype });
    const first = shape.map((size) => (size < 0 ? 1 : size));
    this.shape = el("input", { value: first.join(", "), "aria-label": `shape of ${name}` });
    this.data = el("textarea", { rows: 4, spellcheck: "false", "aria-label": `values of ${name}` });
    this.#zeros();
    this.element = el("fieldset.typed", {}, el("legend", {}, el("code", {}, name), el("span.soft", {}, ` ${datatype} [${shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]`)),
      el("div.row", {}, el("label", {}, "shape", this.shape),
        el("button.quiet", { type: "button", onclick: () => this.#zeros() }, "Zeros"),
        this.datatype.startsWith("FP") && el("button.quiet", { type: "button", onclick: () => this.#noise() }, "Noise")),
      this.data);
  }

  tensor() {
    try {
      return { name: this.name, datatype: this.datatype, shape: this.#sizes(), data: JSON.parse(`[${this.data.value}]`) };
    } catch {
      throw new Error(`${this.name}: write its values as JSON, with commas between them`);
    }
  }

  #sizes() {
    return this.shape.value.split(",").map((size) => Number(size)).filter((_, at) => this.shape.value.trim() || at);
  }

  #set(value) {
    const count = Math.min(65536, this.#sizes().reduce((product, size) => product * size, 1));
    this.data.value = Array.from({ length: count }, value).join(", ");
  }

  #zeros() {
    const zero = { BYTES: '""', BOOL: "false" }[this.datatype] ?? "0";
    this.#set(() => zero);
  }

  #noise() {
    this.#set(() => (2 * Math.random() - 1).toFixed(3));
  }
}

/** One row of a few numbers as bars, with the largest before them; anything else as text. */
function shown({ name, shape, data }) {
  const numbers = data.every((value) => typeof value === "number");
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  if (!numbers || rows !== 1 || data.length < 2 || data.length > MOST_VOTES) return plain(name, shape, data);
  const most = data.indexOf(Math.max(...data));
  const [low, high] = [Math.min(...data), data[most]];
  const votes = data.flatMap((value, at) => [
    el(`span${at === most ? ".most" : ""}`, {}, at),
    bar(high > low ? (value - low) / (high - low) : 0, `${at}: ${digits(value)}`),
    el("span.soft", {}, digits(value)),
  ]);
  return el("div", {}, el("p.winner", { "aria-label": `largest of ${name}: ${most}` }, most),
    el("p.note", {}, "is the largest of ", el("code", {}, name)), el("div.votes", {}, ...votes));
}

function plain(name, shape, data) {
  const text = data.slice(0, MOST_SHOWN).map((value) => (typeof value === "number" ? digits(value, 4) : JSON.stringify(value))).join(", ");
  return el("div", {}, el("p", {}, el("code", {}, name), el("span.soft", {}, ` [${shape.join(", ")}]`)),
    el("pre", {}, text + (data.length > MOST_SHOWN ? ` … and ${data.length - MOST_SHOWN} more` : "")));
}
