/** The form for new weights: a safetensors file, and whether all replicas take it at once or it is tried first. */

import { bar, el, tell } from "./dom.js";
import { model, upload } from "./api.js";
import { digits } from "./words.js";

const WAYS = {
  now: ["everywhere, at once", () => ({})],
  candidate: ["as a candidate, on a share of the requests", (share) => ({ candidate: true, share })],
  rollout: ["by a rollout: rules decide", (share, seconds) => ({ rollout: JSON.stringify({ canary: [share, "50%"], each: `${seconds}s` }) })],
};

/** Make the form in `place`; `asked` is called if somebody without a token wants to use it. */
export function showSwapForm(place, name, admin, asked) {
  if (!admin) {
    place.replaceChildren(el("p.note", {}, "To swap, roll back, promote or withdraw, this page needs the admin token. It keeps the token in this tab only. "),
      el("div.row", {}, el("button", { type: "button", onclick: asked }, "Enter the admin token")));
    return;
  }
  const file = el("input", { type: "file", accept: ".safetensors", required: true, "aria-label": "weights, a safetensors file" });
  const label = el("input", { name: "label", size: 14, placeholder: "step 1200", autocomplete: "off" });
  const way = el("select", { onchange: () => choose() }, ...Object.entries(WAYS).map(([key, [text]]) => el("option", { value: key }, text)));
  const share = el("input", { value: "5%", size: 4 });
  const seconds = el("input", { type: "number", min: 1, value: 60 });
  const shareLabel = el("label", {}, "share", share);
  const secondsLabel = el("label", {}, "seconds for each step", seconds);
  const button = el("button.main", { type: "submit" }, "Swap");
  const news = el("div.news", { role: "status" });
  const choose = () => {
    shareLabel.hidden = way.value === "now";
    secondsLabel.hidden = way.value !== "rollout";
    button.textContent = way.value === "now" ? "Swap" : "Try";
  };
  const send = async (event) => {
    event.preventDefault();
    button.disabled = true;
    document.querySelector("#change").scrollIntoView({ block: "center" }); // where the swap will be seen
    const query = { ...WAYS[way.value][1](share.value, seconds.value), ...(label.value.trim() ? { label: label.value.trim() } : {}) };
    try {
      const status = await upload(model(name, "/weights"), file.files[0], query, (part) =>
        news.replaceChildren(el("p.note", {}, part < 1 ? `${digits(100 * part, 2)} % is sent` : "All of it is sent."), bar(part, "sent")));
      news.replaceChildren(el("p.good", {}, outcome(status)));
      tell(outcome(status));
      file.value = "";
    } catch (error) {
      news.replaceChildren(el("p.wrong", { role: "alert" }, error instanceof TypeError ? "The connection broke off. The section above shows what the server has done." : error.message));
    } finally {
      button.disabled = false;
    }
  };
  choose();
  place.replaceChildren(el("form", { onsubmit: send },
    el("div.row", {}, file, el("label", {}, "label", label)),
    el("div.row", {}, way, shareLabel, secondsLabel, button), news));
  way.setAttribute("aria-label", "how the weights come into use");
}

function outcome(status) {
  if (status.unchanged) return `Version ${status.current.number} has these bytes already. Nothing was staged.`;
  if (status.candidate) return `Version ${status.candidate.version.number} is a candidate on every replica.`;
  return `Version ${status.current.number} answers on every replica.`;
}
