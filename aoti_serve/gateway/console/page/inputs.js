/** The fields of the form that tries a model, one for each of its inputs. An image of one channel is drawn, others are typed. */

import { el } from "./dom.js";
import { Pad } from "./pad.js";
import { Sizes } from "./sizes.js";

const [LARGEST_PAD, MOST_VALUES] = [32, 65536];

/** A field for each input; `drawn` is called after every stroke. */
export function formInputs(specs, drawn) {
  const sizes = new Sizes();
  return specs.map((spec) => [spec, sizes.dims(spec)]) // all of them first: they may share dimensions
    .map(([spec, dims]) => (isImage(spec) ? new Drawn(spec, dims, sizes, drawn) : new Typed(spec, dims, sizes)));
}

/** Whether it holds images of one channel, small enough to be drawn: […, 1, side, side]. */
function isImage({ shape, datatype }) {
  const [channels, height, width] = shape.slice(-3);
  return datatype.startsWith("FP") && channels === 1 && height === width && height > 1 && height <= LARGEST_PAD;
}

class Drawn {
  constructor({ name, shape, datatype }, dims, sizes, changed) {
    Object.assign(this, { name, datatype, shape: () => dims.map((dim) => sizes.size(dim)) });
    this.pad = new Pad(shape.at(-1), changed);
    this.ink = el("input", { type: "number", value: 1, step: "any", size: 5, "aria-label": `the value of full ink in ${name}` });
    this.element = el("div", {}, this.pad.canvas, this.pad.said, el("div.row", {},
      el("button.small", { type: "button", onclick: () => this.pad.clear() }, "Clear"),
      el("label.wide", {}, "ink is", this.ink)));
  }

  get ready() {
    return !this.pad.empty;
  }

  /** The same image in every row, if others of its inputs have several. */
  tensor() {
    const shape = this.shape();
    const pixels = this.pad.pixels().map((pixel) => pixel * Number(this.ink.value));
    const rows = shape.slice(0, -3).reduce((product, size) => product * size, 1);
    return { name: this.name, datatype: this.datatype, shape, data: Array.from({ length: rows }, () => pixels).flat() };
  }
}

class Typed {
  ready = true;

  constructor({ name, datatype }, dims, sizes) {
    Object.assign(this, { name, datatype, shape: () => dims.map((dim) => sizes.size(dim)) });
    this.zero = { BYTES: '""', BOOL: "false" }[datatype] ?? "0";
    this.data = el("textarea", { rows: 4, spellcheck: "false", "aria-label": `values of ${name}`, oninput: () => { this.made = null; } });
    const fields = dims.filter((dim) => typeof dim !== "number").map((dim) => sizes.field(name, dim, () => this.#refill()));
    const named = dims.map((dim) => dim.expression ?? dim).join(", ");
    this.element = el("fieldset.typed", {}, el("legend", {}, el("code", {}, name), el("span.soft", {}, ` ${datatype} [${named}]`)),
      el("div.row", {}, ...fields, el("span.tools", {}, this.#filler("Zeros", () => this.zero),
        datatype.startsWith("FP") && this.#filler("Noise", () => (2 * Math.random() - 1).toFixed(3)))), this.data);
    this.#fill(() => this.zero);
  }

  tensor() {
    try {
      return { name: this.name, datatype: this.datatype, shape: this.shape(), data: JSON.parse(`[${this.data.value}]`) };
    } catch {
      throw new Error(`${this.name}: write its values as JSON, with commas between them`);
    }
  }

  #filler(text, value) {
    return el("button.small", { type: "button", "aria-label": `${text} into ${this.name}`, onclick: () => this.#fill(value) }, text);
  }

  #fill(value) {
    this.made = value;
    const count = Math.min(MOST_VALUES, this.shape().reduce((product, size) => product * size, 1));
    this.data.value = Array.from({ length: count }, value).join(", ");
  }

  /** For another shape; what a person has typed stays. */
  #refill() {
    if (this.made) this.#fill(this.made);
  }
}
