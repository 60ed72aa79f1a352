/** The form for new weights: where they are, what is known of them, and how they come into use. */

import { bar, el, tell } from "./dom.js";
import { model, post, upload } from "./api.js";
import { digits } from "./words.js";

const WAYS = {
  now: ["everywhere, at once", () => ({})],
  candidate: ["as a candidate, on a share of the requests", (share) => ({ candidate: true, share })],
  rollout: ["by a rollout: rules decide", (share, seconds) => ({ rollout: { canary: [share, "50%"], each: `${seconds}s` } })],
};
const PLACES = { file: "a file of yours", uri: "a file that the server reads" };

/** Make the form in `place`; `asked` is called if somebody without a token wants to use it. `answering` gives the number
 * of the version that answers. */
export function showSwapForm(place, name, admin, asked, answering) {
  place.replaceChildren(...(admin ? new SwapForm(name, answering).elements : closed(asked)));
}

const closed = (asked) => [
  el("p.note", {}, "To swap, roll back, promote or withdraw, this page needs the admin token. It keeps the token in this tab only. "),
  el("div.row", {}, el("button", { type: "button", onclick: asked }, "Enter the admin token")),
];

class SwapForm {
  constructor(name, answering) {
    Object.assign(this, { name, answering });
    this.from = select("where the weights are", Object.entries(PLACES), () => this.#choose());
    this.file = el("input", { type: "file", accept: ".safetensors", "aria-label": "weights, a safetensors file" });
    this.uri = el("input", { size: 30, placeholder: "s3://bucket/step-1200.safetensors", autocomplete: "off", spellcheck: "false", "aria-label": "path or URI of the weights" });
    this.label = el("input", { name: "label", size: 14, placeholder: "step 1200", autocomplete: "off" });
    this.partial = el("input", { type: "checkbox" });
    this.way = select("how the weights come into use", Object.entries(WAYS).map(([key, [text]]) => [key, text]), () => this.#choose());
    this.share = el("input", { value: "5%", size: 4 });
    this.seconds = el("input", { type: "number", min: 1, value: 60 });
    this.shareLabel = el("label", {}, "share", this.share);
    this.secondsLabel = el("label", {}, "seconds for each step", this.seconds);
    this.button = el("button.main", { type: "submit" });
    this.news = el("div.news", { role: "status" });
    this.#choose();
  }

  get elements() {
    return [el("form", { onsubmit: (event) => { event.preventDefault(); this.#send(); } },
      el("div.row", {}, this.from, this.file, this.uri, el("label", {}, "label", this.label)),
      el("div.row", {}, el("label", {}, this.partial, "only some tensors: the others stay as they are")),
      el("div.row", {}, this.way, this.shareLabel, this.secondsLabel, this.button)), this.news];
  }

  #choose() {
    const way = this.way.value;
    for (const [place, field] of [["file", this.file], ["uri", this.uri]]) {
      field.hidden = place !== this.from.value;
      field.required = !field.hidden;
    }
    this.shareLabel.hidden = way === "now";
    this.secondsLabel.hidden = way !== "rollout";
    this.button.textContent = way === "now" ? "Swap" : "Try";
  }

  get #options() {
    const label = this.label.value.trim();
    return {
      ...WAYS[this.way.value][1](this.share.value, this.seconds.value), ...(label ? { label } : {}),
      ...(this.partial.checked ? { partial: true, base_version: this.answering() } : {}),
    };
  }

  async #send() {
    this.button.disabled = true;
    document.querySelector("#change").scrollIntoView({ block: "center" }); // where the swap will be seen
    try {
      const status = await this.#sent();
      this.news.replaceChildren(el("p.good", {}, outcome(status)));
      tell(outcome(status));
      this.file.value = this.label.value = "";
    } catch (error) {
      this.news.replaceChildren(el("p.wrong", { role: "alert" }, error instanceof TypeError ? "The connection broke off. The section above shows what the server has done." : error.message));
    } finally {
      this.button.disabled = false;
    }
  }

  #sent() {
    const path = model(this.name, "/weights");
    if (this.from.value === "uri") {
      this.news.replaceChildren(el("p.note", {}, "The server reads it."));
      return post(path, { uri: this.uri.value.trim(), ...this.#options });
    }
    return upload(path, this.file.files[0], this.#options, (part) =>
      this.news.replaceChildren(el("p.note", {}, part < 1 ? `${digits(100 * part, 2)} % is sent` : "All of it is sent."), bar(part, "sent")));
  }
}

const select = (label, options, onchange) =>
  el("select", { "aria-label": label, onchange }, ...options.map(([value, text]) => el("option", { value }, text)));

function outcome(status) {
  if (status.unchanged) return `Version ${status.current.number} has these bytes already. Nothing was staged.`;
  if (status.candidate) return `Version ${status.candidate.version.number} is a candidate on every replica.`;
  return `Version ${status.current.number} answers on every replica.`;
}
