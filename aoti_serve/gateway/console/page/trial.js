/** The panel of a candidate, or of its rollout: its shares, its steps, both versions side by side, and how far they agree. */

import { el, records, table } from "./dom.js";
import { confirm, setShares } from "./decide.js";
import { digits, share } from "./words.js";

export const isOn = (rollout) => Boolean(rollout) && rollout.phase !== "ended";

export function trialPanel(name, status) {
  const { candidate, rollout, trial } = status;
  const on = isOn(rollout);
  const version = candidate ? candidate.version.number : rollout.version;
  const text = exposure(on ? rollout : candidate);
  return el("div.panel.trial", { role: "status" },
    el("h2", {}, on ? `Rollout of version ${version}` : `Version ${version} is a candidate`),
    el("p.note", {}, on ? standing(rollout, text) : text), on && rollout.waits_for && el("p.note", {}, `The step goes on: ${rollout.waits_for}.`),
    on && steps(rollout, candidate), trial && el("div.sides", {}, arms(trial, status), trial.shadow && agreement(trial.shadow)),
    candidate && el("div.row", {}, act("Promote", true, () => confirm(name, "promote", version)), act("Withdraw", false, () => confirm(name, "withdraw", version)),
      !candidate.plan && act("Change its shares", false, () => setShares(name, candidate)))); // else the plan sets them
}

const act = (name, first, onclick) => el(`button${first ? ".main" : ""}`, { type: "button", onclick, "data-key": name }, name);

const exposure = (found) =>
  `It answers ${share(found.share)} of the requests${found.shadow ? `, and runs beside ${share(found.shadow)} of the others` : ""}.`;

function standing(rollout, text) {
  if (rollout.phase === "trying") return `Step ${rollout.step} of ${rollout.steps}, another ${digits(Math.ceil(rollout.seconds_left))} s. ${text}`;
  if (rollout.phase === "watching") return `It is committed, and watched for another ${digits(Math.ceil(rollout.seconds_left))} s. A breach rolls it back.`;
  if (rollout.phase === "promoting") return "All steps have passed. It is being committed.";
  return rollout.reason ? `It has failed and is being ended: ${rollout.reason}` : "It has passed, and ends.";
}

function steps(rollout, candidate) {
  const shares = candidate?.plan?.canary ?? [];
  return el("ol.steps", { "aria-label": "Steps" }, ...Array.from({ length: rollout.steps }, (_, at) => {
    const now = rollout.phase === "trying" && at + 1 === rollout.step;
    const done = rollout.phase === "trying" ? at + 1 < rollout.step : rollout.phase !== "ending";
    return el(`li${done ? ".done" : ""}`, { "aria-current": now ? "step" : null }, shares[at] === undefined ? `step ${at + 1}` : share(shares[at]));
  }));
}

const part = (value) => (value == null ? "–" : share(value));
const ms = (seconds) => (seconds == null ? "–" : digits(1000 * seconds));

function arms({ active = {}, candidate = {} }, status) {
  const tried = status.candidate ? status.candidate.version.number : status.current.number;
  const other = status.candidate ? status.current.number : (status.previous?.number ?? "–");
  const row = (name, read) => el("tr", {}, el("th", { scope: "row" }, name), el("td.number", {}, read(active)), el("td.number", {}, read(candidate)));
  return el("div.arms", {}, table(["", `>version ${other}`, `>version ${tried}`], [
    row("requests", (arm) => digits(arm.requests, 6)), row("errors", (arm) => part(arm.error_rate)),
    row("not finite", (arm) => part(arm.non_finite_rate)),
    row("p50, ms", (arm) => ms(arm.p50_s)), row("p99, ms", (arm) => ms(arm.p99_s))]));
}

/** What a shadow is for: the answers of both versions to the same requests. */
function agreement(shadow) {
  const counts = [["pairs", "compared"], ["dropped", "dropped"], ["failed", "failed"], ["non_finite", "not finite"]];
  const told = counts.map(([key, words]) => `${digits(shadow[key] ?? 0, 6)} ${words}`).join(", ");
  const rows = Object.entries(shadow.outputs ?? {}).map(([name, output]) => el("tr", {}, el("td", {}, el("code", {}, name)),
    ...[part(output.top1_agreement), digits(output.cosine, 4), digits(output.largest_difference)].map((text) => el("td.number", {}, text))));
  return el("div.arms.shadow", {}, el("p.note", {}, `Shadow: ${told}.`),
    rows.length > 0 && records(["output", ">same top 1", ">cosine", ">largest difference"], rows));
}
