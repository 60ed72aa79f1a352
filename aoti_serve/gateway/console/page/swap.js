/** The form for new weights: where they are, what is known of them, and how they come into use. */

import { bar, el, tell } from "./dom.js";
import { model, post, upload } from "./api.js";
import { hindered, hindrance } from "./decide.js";
import { digits } from "./words.js";

const WAYS = {
  now: ["everywhere, at once", () => ({})],
  candidate: ["as a candidate, on a share of the requests", (share) => ({ candidate: true, share })],
  rollout: ["by a rollout: rules decide", (share, seconds) => ({ rollout: { canary: [share, "50%"], each: `${seconds}s` } })],
};
const LONGEST = 256; // of a label
const OF_A_FOLDER = /^adapter_model\.safetensors$|\.index\.json$/;
const PLACES = { file: "a file of yours", uri: "a file that the server reads" };

/** Make the form in `place`; `asked` is called if somebody without a token wants to use it. Returns what takes each status
 * of the weights. */
export function showSwapForm(place, name, admin, asked) {
  const form = admin ? new SwapForm(name) : null;
  place.replaceChildren(...(form ? form.elements : closed(asked)));
  return (status) => form?.hear(status);
}

const closed = (asked) => [
  el("p.note", {}, "To swap, roll back, promote or withdraw, this page needs the admin token. It keeps the token in this tab only. "),
  el("div.row", {}, el("button", { type: "button", onclick: asked }, "Enter the admin token")),
];

class SwapForm {
  #status = null;

  constructor(name) {
    this.name = name;
    this.from = select("where the weights are", Object.entries(PLACES), () => this.#choose());
    this.file = el("input", { type: "file", accept: ".safetensors", "aria-label": "weights, a safetensors file", onchange: () => this.#suggest() });
    this.uri = el("input", { size: 30, placeholder: "s3://bucket/step-1200.safetensors", autocomplete: "off", spellcheck: "false", "aria-label": "path or URI of the weights", oninput: () => this.#suggest() });
    this.label = el("input", { name: "label", size: 14, maxlength: LONGEST, autocomplete: "off" });
    this.partial = el("input", { type: "checkbox" });
    this.way = select("how the weights come into use", Object.entries(WAYS).map(([key, [text]]) => [key, text]), () => this.#choose());
    this.share = el("input", { value: "5%", size: 4 });
    this.seconds = el("input", { type: "number", min: 1, value: 60 });
    this.shareLabel = el("label", {}, "share", this.share);
    this.secondsLabel = el("label", {}, "seconds for each step", this.seconds);
    this.button = el("button.main", { type: "submit" });
    this.why = el("span.note", { id: "why-no-swap" });
    this.news = el("div.news", { role: "status" });
    this.#choose();
  }

  get elements() {
    return [el("form", { onsubmit: (event) => { event.preventDefault(); this.#send(); } },
      el("div.row", {}, this.from, this.file, this.uri, el("label", {}, "label", this.label)),
      el("div.row", {}, el("label", {}, this.partial, "only some tensors: the others stay as they are")),
      el("div.row", {}, this.way, this.shareLabel, this.secondsLabel, this.button, this.why)), this.news];
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
    this.#suggest();
  }

  /** The label that the version will have if none is typed. */
  get #suggested() {
    return labelOf(this.from.value === "file" ? (this.file.files[0]?.name ?? "") : this.uri.value.trim());
  }

  #suggest() {
    this.label.placeholder = this.#suggested || "step 1200";
  }

  /** While the server would refuse it, the button says why. */
  hear(status) {
    this.#status = status;
    const reason = status && hindrance(status);
    this.why.textContent = reason ?? "";
    for (const [name, text] of Object.entries(hindered(reason, this.why.id))) {
      if (text) this.button.setAttribute(name, text);
      else this.button.removeAttribute(name);
    }
  }

  get #options() {
    const label = this.label.value.trim() || this.#suggested;
    return {
      ...WAYS[this.way.value][1](this.share.value, this.seconds.value), ...(label ? { label } : {}),
      ...(this.partial.checked ? { partial: true, base_version: this.#status?.current.number } : {}),
    };
  }

  async #send() {
    const reason = hindrance(this.#status ?? {});
    if (reason) return tell(reason);
    this.button.disabled = true;
    document.querySelector("#change").scrollIntoView({ block: "center" }); // where the swap will be seen
    try {
      const status = await this.#sent();
      this.news.replaceChildren(el("p.good", {}, outcome(status)));
      tell(outcome(status));
      this.file.value = this.label.value = "";
      this.#suggest();
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

/** The name of a file without its end, or of the folder that was saved, as `aoti-serve swap` has it. */
function labelOf(source) {
  const path = source.includes("://") ? source.replace(/^[^:]*:\/\/[^/?#]*/, "").replace(/[?#].*$/, "") : source;
  const parts = path.split("/").filter(Boolean);
  const file = parts.pop() ?? "";
  const named = OF_A_FOLDER.test(file) ? (parts.pop() ?? "") : file.replace(/(?<=.)\.[^.]*$/, "");
  return named.slice(0, LONGEST);
}
