/** The sizes of a model's inputs. Dimensions of one name have one size in a request, so they change together. */

import { el } from "./dom.js";

const EXPRESSION = /^(?:(\d+)\*)?(.*?)([+-]\d+)?$/; // batch, 2*half, length-1

export class Sizes {
  #of = new Map(); // by name: what it stands for
  #followers = [];

  /** The dimensions of an input: numbers, and what the metadata tells of those that vary, each with a size that is allowed. */
  dims({ name, shape, parameters = {} }) {
    return shape.map((size, axis) => (size < 0 ? this.#varying(parameters, axis, `${name}, ${axis}`) : size));
  }

  #varying(told, axis, alone) {
    const key = `dim_${axis}`;
    const expression = told[key] ?? "any";
    const [, times, symbol, offset] = EXPRESSION.exec(expression);
    const dim = { expression, symbol: key in told ? symbol : alone, factor: Number(times ?? 1), offset: Number(offset ?? 0),
      min: told[`${key}_min`] ?? 0, max: told[`${key}_max`], step: told[`${key}_step`] ?? 1 };
    const least = Math.ceil((Math.max(dim.min, 1) - dim.offset) / dim.factor);
    this.#of.set(dim.symbol, Math.max(this.#of.get(dim.symbol) ?? least, least));
    return dim;
  }

  size(dim) {
    return typeof dim === "number" ? dim : dim.factor * this.#of.get(dim.symbol) + dim.offset;
  }

  /** A field for the size of a dimension of the input `name`; `changed` hears when it, or one of its name, changes. */
  field(name, dim, changed) {
    const field = el("input", { type: "number", min: dim.min, max: dim.max, step: dim.step, required: true, value: this.size(dim),
      "aria-label": `${dim.expression} of ${name}`, oninput: () => field.checkValidity() && this.#set(dim, Number(field.value)) });
    this.#followers.push((from) => {
      if (from.symbol !== dim.symbol) return;
      if (from !== dim) field.value = this.size(dim);
      changed();
    });
    return el("label", {}, dim.expression, field, el("span", {}, range(dim)));
  }

  #set(dim, size) {
    this.#of.set(dim.symbol, (size - dim.offset) / dim.factor);
    for (const follow of this.#followers) follow(dim);
  }
}

function range({ min, max, step }) {
  const ends = max === undefined ? `${min} or more` : `${min} to ${max}`;
  return step > 1 ? `${ends}, in steps of ${step}` : ends;
}
