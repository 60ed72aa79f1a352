/** The replicas, and the stored versions. */

import { bar, el, fill, table } from "./dom.js";
import { confirm } from "./change.js";
import { labelChip, setLabel } from "./labels.js";
import { age, many, named, short, size } from "./words.js";

const POLITE = "Nodes, devices and versions of the replicas are shown to who has the admin token.";

export function showReplicas(place, status, figures) {
  const receipts = new Map((status?.replicas ?? []).map((receipt) => [receipt.replica, receipt]));
  const seen = new Map((figures?.replicas ?? []).map((state) => [state.replica, state]));
  const names = [...new Set([...receipts.keys(), ...seen.keys()])].sort();
  const admin = Boolean(status);
  fill(place, [admin, [...receipts], [...seen]], () => {
    if (!names.length) return el("p.note", {}, "No replica is connected.");
    const heads = admin ? ["replica", "node", "device", "version", "health", "load"] : ["replica", "health", "load"];
    const rows = names.map((name) => replicaRow(name, receipts.get(name), seen.get(name), admin));
    return [table(heads, rows), !admin && el("p.note", {}, POLITE)];
  });
}

function replicaRow(name, receipt, state, admin) {
  const known = admin ? [
    el("td", {}, el("code", { title: receipt?.node }, receipt ? receipt.node.slice(0, 8) : "–")),
    el("td", {}, receipt ? [receipt.device, ...receipt.gpu_ids.map((gpu) => `, ${gpu}`)].join("") : "–"),
    el("td", {}, receipt ? el("span.chip.on", { title: `sha256 ${receipt.digest || "of the package"}` }, receipt.version) : "–"),
  ] : [];
  return el("tr", {}, el("td", {}, el("code", { title: name }, named(name))), ...known, el("td", {}, ...health(state)), el("td", {}, load(state)));
}

function health(state) {
  if (!state) return [el("span.dot.wait"), "not seen by this gateway"];
  if (state.fault) return [el("span.dot.bad"), state.fault];
  if (state.leaving) return [el("span.dot.wait"), "leaving"];
  return state.usable ? [el("span.dot"), "well"] : [el("span.dot.wait"), "has just come"];
}

function load(state) {
  if (!state) return "–";
  const inner = bar(state.load, `${Math.round(100 * state.load)} % of ${many(state.runners, "runner")}`);
  inner.classList.replace("bar", "load");
  return inner;
}

export function showVersions(place, name, status, versions) {
  if (!status) return fill(place, null, () => el("p.note", {}, "The stored versions are shown to who has the admin token. Nobody can change weights without it."));
  const now = Date.now() / 1000;
  const builtIn = [status.current, status.previous].filter((version) => version?.number === 0); // no list has it
  const stored = [...[...(versions ?? [])].reverse(), ...builtIn];
  const ages = stored.map((version) => (version.number ? age(now - version.created) : "–"));
  const marks = [status.current.number, status.previous?.number, status.candidate?.version.number, status.labels];
  return fill(place, [stored.map((version) => version.number), ages, marks, Boolean(status.swap)], () =>
    stored.length
      ? table(["version", "", "label", "digest", ">size", ">age", ""], stored.map((version, at) => versionRow(name, version, ages[at], status)))
      : el("p.note", {}, "They are being read."));
}

function versionRow(name, version, old, status) {
  const { number } = version;
  const chips = [
    number === status.current.number && el("span.chip.on", {}, "answers"),
    number === status.candidate?.version.number && el("span.chip.try", {}, "candidate"),
    number === status.previous?.number && el("span.chip", {}, "before"),
    ...Object.entries(status.labels).filter(([, named]) => named === number).map(([label]) => labelChip(name, label, number)),
  ];
  const back = number !== status.current.number && number !== status.candidate?.version.number &&
    el("button", { type: "button", "data-key": `back-${number}`, disabled: Boolean(status.swap || status.candidate),
      "aria-label": `Roll back to version ${number}`, onclick: () => confirm(name, "rollback", number) }, "Roll back");
  const mark = number !== status.candidate?.version.number && el("button", { type: "button", "data-key": `label-${number}`, "aria-label": `Set a label of version ${number}`, onclick: () => setLabel(name, number, status.labels) }, "Label");
  return el("tr", { "data-version": number }, el("td", {}, number), el("td", {}, ...chips.filter(Boolean)), el("td", {}, version.label || el("span.soft", {}, number ? "–" : "built into the package")),
    el("td", {}, el("code", { title: version.digest }, short(version.digest))), el("td.number", {}, size(version.nbytes)), el("td.number", {}, old), el("td.acts", {}, back, mark));
}
