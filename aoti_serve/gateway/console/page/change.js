/** What answers, and the change under way: a swap replica by replica, a candidate or a rollout, and how the last one ended. */

import { bar, el, fill } from "./dom.js";
import { isOn, trialPanel } from "./trial.js";
import { ago, digits, many, named, rate, size } from "./words.js";

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

function swapPanel(swap) {
  const done = swap.replicas.filter((replica) => replica.done).length;
  const counted = swap.replicas.length ? `, ${done} of ${many(swap.replicas.length, "replica")} done` : "";
  return el("div.panel.swap", { role: "status" },
    el("h2", {}, title(swap)), el("p.note", {}, `${WORDS[swap.phase] ?? swap.phase}${counted}`),
    el("div.bars", {}, ...swap.replicas.map((replica) => replicaBar(replica, swap))));
}

function replicaBar(replica, swap) {
  const whole = replica.done || swap.phase === "committing";
  const part = whole ? 1 : swap.nbytes ? replica.nbytes / swap.nbytes : 0;
  const words = replica.done ? (DONE[swap.phase] ?? swap.phase) : `${size(replica.nbytes)} of ${size(swap.nbytes)}`;
  const kind = swap.phase === "aborting" ? "failing" : replica.done ? "done" : "";
  return el("div.one", {}, el("code", { title: replica.replica }, named(replica.replica)), bar(part, `${replica.replica}: ${words}`, kind), el("span.soft", {}, words));
}

const TITLES = { swap: "Swap to", rollback: "Rollback to", promote: "Promotion of", withdraw: "Withdrawal of", expose: "New shares of" };
const title = ({ action, version }) =>
  version === null ? `${action[0].toUpperCase()}${action.slice(1)}` : `${TITLES[action] ?? "Change to"} version ${version}`;

const ENDS = { candidate: "became a candidate", exposed: "was given other shares", withdrawn: "was withdrawn", unchanged: "had these bytes already" };
const COMMITTED = { swap: "took over", rollback: "was brought back", promote: "was promoted" };

function ending(last) {
  const phases = Object.entries(last.phases).map(([phase, seconds]) => `${phase} ${digits(seconds, 2)} s`).join(", ");
  const done = last.outcome === "committed" ? COMMITTED[last.action] : ENDS[last.outcome];
  const what = done ? `Version ${last.version} ${done}` : `${title(last)} ${last.outcome}`;
  const text = `${what} ${ago(last.ended)}, in ${digits(last.seconds, 2)} s`;
  return el("p.last.note", {}, text, phases && !last.error ? ` (${phases})` : "", last.error ? el("span.wrong", {}, `: ${last.error}`) : ".");
}
