/** A form made from the model's signature. An image of one channel is drawn; other tensors are typed. */

import { get, model, post } from "./api.js";
import { bar, el, fill } from "./dom.js";
import { formInputs } from "./inputs.js";
import { digits } from "./words.js";

const [MOST_VOTES, MOST_SHOWN] = [24, 400];
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
    this.inputs = formInputs(inputs, () => this.#touched());
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
    this.#version = version;
    fill(this.answer, answer.outputs.map((output) => [version, output.data]), () => [
      ...answer.outputs.map(shown),
      el("p.note.by", {}, "answered by ", el(`span.chip.on${fresh ? ".fresh" : ""}`, {}, `version ${version}`)),
    ]);
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
