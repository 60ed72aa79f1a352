/** What answers, and the change under way: a swap replica by replica, a candidate, a rollout step by step. */

import { ask, bar, el, fill, table, tell } from "./dom.js";
import { model, post } from "./api.js";
import { ago, digits, many, named, rate, share, size } from "./words.js";

const DONE = { staging: "staged", candidate: "staged", committing: "answers", aborting: "freed" };
const WORDS = { checking: "the file is being checked", staging: "being staged", candidate: "staged", committing: "committing", aborting: "being freed" };

export function showHeadline(place, name, state) {
  const { status, figures, sample, lost } = state;
  const version = status?.current.number ?? figures?.version ?? "–";
  const count = status ? status.replicas.length : figures?.replicas.length;
  const facts = [name, version, status?.current.label, count, sample && rate(sample.requests), sample && digits(sample.p99), status?.settled, lost];
  fill(place, facts, () => [
    el("h1", {}, name),
    el("p.lead", {}, el("b.answering", {}, `Version ${version}`), status?.current.label ? ` (${status.current.label})` : "",
      lost ? " answered when the server was last heard" : " answers", count === undefined ? "." : ` on ${many(count, "replica")}.`,
      sample && sample.requests > 0 ? ` ${rate(sample.requests)} requests a second${sample.p99 === null ? "" : `, 99 of 100 within ${digits(sample.p99)} ms`}.` : "",
      status && !status.settled ? " A lost process may still answer with the version before." : ""),
  ]);
}

export function showChange(place, name, status) {
  if (!status) return fill(place, null, () => []);
  const { swap, candidate, rollout, trial, last } = status;
  return fill(place, { swap, candidate, rollout, trial, last, at: last && ago(last.ended) }, () => [
    swap && swapPanel(swap),
    (candidate || isOn(rollout)) && trialPanel(name, status),
    last && !swap && ending(last),
  ]);
}

const isOn = (rollout) => Boolean(rollout) && rollout.phase !== "ended";

function swapPanel(swap) {
  const done = swap.replicas.filter((replica) => replica.done).length;
  const counted = swap.replicas.length ? `, ${done} of ${many(swap.replicas.length, "replica")} done` : "";
  return el("div.panel.swap", { role: "status" },
    el("h2", {}, `${title(swap)}`), el("p.note", {}, `${WORDS[swap.phase] ?? swap.phase}${counted}`),
    el("div.bars", {}, ...swap.replicas.flatMap((replica) => replicaBar(replica, swap))));
}

function replicaBar(replica, swap) {
  const whole = replica.done || swap.phase === "committing";
  const part = whole ? 1 : swap.nbytes ? replica.nbytes / swap.nbytes : 0;
  const words = replica.done ? (DONE[swap.phase] ?? swap.phase) : `${size(replica.nbytes)} of ${size(swap.nbytes)}`;
  const kind = swap.phase === "aborting" ? "failing" : replica.done ? "done" : "";
  return [el("code", { title: replica.replica }, named(replica.replica)), bar(part, `${replica.replica}: ${words}`, kind), el("span.soft", {}, words)];
}

const title = ({ action, version }) => `${action[0].toUpperCase()}${action.slice(1)}${version === null ? "" : ` to version ${version}`}`;

const ENDS = { candidate: "became a candidate", exposed: "was given other shares", withdrawn: "was withdrawn" };

function ending(last) {
  const phases = Object.entries(last.phases).map(([phase, seconds]) => `${phase} ${digits(seconds, 2)} s`).join(", ");
  const what = last.outcome in ENDS ? `Version ${last.version} ${ENDS[last.outcome]}` : `${title(last)} ${last.outcome}`;
  const text = `${what} ${ago(last.ended)}, in ${digits(last.seconds, 2)} s`;
  return el("p.last.note", {}, text, phases && !last.error ? ` (${phases})` : "", last.error ? el("span.wrong", {}, `: ${last.error}`) : ".");
}

function trialPanel(name, status) {
  const { candidate, rollout, trial } = status;
  const on = isOn(rollout);
  const version = candidate ? candidate.version.number : rollout.version;
  const exposed = on ? rollout : candidate;
  const text = `It answers ${share(exposed.share)} of the requests` + (exposed.shadow ? `, and runs beside ${share(exposed.shadow)} of the others` : "") + ".";
  return el("div.panel.trial", { role: "status" },
    el("h2", {}, on ? `Rollout of version ${version}` : `Version ${version} is a candidate`),
    el("p.note", {}, on ? standing(rollout, text) : text), on && rollout.waits_for && el("p.note", {}, `The step goes on: ${rollout.waits_for}.`),
    on && steps(rollout, candidate), trial && arms(trial, status),
    candidate && el("div.row", {}, act("Promote", true, () => confirm(name, "promote", version)), act("Withdraw", false, () => confirm(name, "withdraw", version))));
}

function standing(rollout, text) {
  if (rollout.phase === "trying") return `Step ${rollout.step} of ${rollout.steps}, another ${digits(Math.ceil(rollout.seconds_left))} s. ${text}`;
  if (rollout.phase === "watching") return `It is committed, and watched for another ${digits(Math.ceil(rollout.seconds_left))} s. A breach rolls it back.`;
  return rollout.phase === "promoting" ? "All steps have passed. It is being committed." : `It is being ended: ${rollout.reason}`;
}

function steps(rollout, candidate) {
  const shares = candidate?.plan?.canary ?? [];
  return el("ol.steps", { "aria-label": "Steps" }, ...Array.from({ length: rollout.steps }, (_, at) => {
    const now = rollout.phase === "trying" && at + 1 === rollout.step;
    const done = rollout.phase === "trying" ? at + 1 < rollout.step : rollout.phase !== "ending";
    return el(`li${done ? ".done" : ""}`, { "aria-current": now ? "step" : null }, shares[at] === undefined ? `step ${at + 1}` : share(shares[at]));
  }));
}

function arms({ active = {}, candidate = {} }, status) {
  const tried = status.candidate ? status.candidate.version.number : status.current.number;
  const other = status.candidate ? status.current.number : (status.previous?.number ?? "–");
  const row = (name, read) => el("tr", {}, el("th", { scope: "row" }, name), el("td.number", {}, read(active)), el("td.number", {}, read(candidate)));
  const ms = (seconds) => (seconds === null || seconds === undefined ? "–" : digits(1000 * seconds));
  return el("div.arms", {}, table(["", `>version ${other}`, `>version ${tried}`], [
    row("requests", (arm) => digits(arm.requests, 6)), row("errors", (arm) => (arm.error_rate == null ? "–" : share(arm.error_rate))),
    row("p50, ms", (arm) => ms(arm.p50_s)), row("p99, ms", (arm) => ms(arm.p99_s))]));
}

const act = (name, first, onclick) => el(`button${first ? ".main" : ""}`, { type: "button", onclick, "data-key": name }, name);

const QUESTIONS = {
  promote: (version) => ["Promote", `Version ${version} will answer every request, on every replica.`],
  withdraw: (version) => ["Withdraw", `Version ${version} will be freed everywhere. The other version goes on answering.`],
  rollback: (version) => ["Roll back", `Version ${version} will answer every request again, on every replica.`],
};

/** Ask whether it is meant, and do it. */
export async function confirm(name, action, version) {
  const [button, text] = QUESTIONS[action](version);
  if ((await ask({ title: `${button}?`, text, button })) === null) return;
  try {
    const found = await post(model(name, `/weights/${action}`), action === "rollback" ? { version } : {});
    tell(`Version ${found.current.number} answers.`);
  } catch (error) {
    tell(error instanceof TypeError ? "The server does not answer. Whether it has done that is not known." : error.message);
  }
}
