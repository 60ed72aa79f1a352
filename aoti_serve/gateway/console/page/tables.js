/** The replicas, and the stored versions. */

import { bar, el, fill, records, tell } from "./dom.js";
import { confirm, hindered, hindrance } from "./decide.js";
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
    return [records(heads, rows), !admin && el("p.note", {}, POLITE)];
  });
}

function replicaRow(name, receipt, state, admin) {
  const known = admin ? [
    el("td", {}, el("code", { title: receipt?.node }, receipt ? receipt.node.slice(0, 8) : "–")),
    el("td", {}, receipt ? [receipt.device, ...receipt.gpu_ids.map((gpu) => `, ${gpu}`)].join("") : "–"),
    el("td", {}, receipt ? el("span.chip.on", { title: `sha256 ${receipt.digest || "of the package"}` }, receipt.version) : "–"),
  ] : [];
  return el("tr", {}, el("td", {}, el("code", { title: name }, named(name))), ...known, el("td", {}, health(state)), el("td", {}, load(state)));
}

function health(state) {
  if (!state) return dotted(".wait", "not seen by this gateway");
  if (state.fault) return dotted(".bad", state.fault);
  if (state.leaving) return dotted(".wait", "leaving");
  return state.usable ? dotted("", "well") : dotted(".wait", "has just come");
}

/** The dot stays with the first word. */
function dotted(kind, text) {
  const [first, ...rest] = text.split(" ");
  return [el("span.kept", {}, el(`span.dot${kind}`), first), rest.length ? ` ${rest.join(" ")}` : ""];
}

function load(state) {
  if (!state) return "–";
  const inner = bar(state.load, `${Math.round(100 * state.load)} % of ${many(state.runners, "runner")}`);
  inner.classList.replace("bar", "load");
  return inner;
}

const WHY = "why-no-rollback";

export function showVersions(place, name, status, versions) {
  if (!status) return fill(place, null, () => el("p.note", {}, "The stored versions are shown to who has the admin token. Nobody can change weights without it."));
  const now = Date.now() / 1000;
  const builtIn = [status.current, status.previous].filter((version) => version?.number === 0);
  const out = versions && status.candidate ? [status.candidate.version] : []; // the server lists neither
  const stored = [...out, ...(versions ?? []).filter((version) => version.number !== out[0]?.number).reverse(), ...builtIn];
  const ages = stored.map((version) => (version.number ? age(now - version.created) : "–"));
  const reason = hindrance(status);
  const marks = [status.current.number, status.previous?.number, status.candidate?.version.number, status.labels];
  return fill(place, [stored.map((version) => version.number), ages, marks, reason], () => {
    if (!stored.length) return el("p.note", {}, "They are being read.");
    const rows = stored.map((version, at) => versionRow(name, version, ages[at], status, reason));
    return [el("p.note", { id: WHY, hidden: !status.candidate }, reason ?? ""), // a change is over soon: what is below would jump
      records(["version", "", "label", "digest", ">size", ">age", ""], rows)];
  });
}

const notes = (version) => [version.adapter && `adapter on ${version.adapter.base}`, version.skips_acceptance && "acceptance skipped"].filter(Boolean);

function versionRow(name, version, old, status, reason) {
  const { number } = version;
  const chips = [
    number === status.current.number && el("span.chip.on", {}, "answers"),
    number === status.candidate?.version.number && el("span.chip.try", {}, "candidate"),
    number === status.previous?.number && el("span.chip", {}, "before"),
    ...Object.entries(status.labels).filter(([, named]) => named === number).map(([label]) => labelChip(name, label, number)),
  ];
  const back = number !== status.current.number && number !== status.candidate?.version.number &&
    el("button", { type: "button", "data-key": `back-${number}`, "aria-label": `Roll back to version ${number}`,
      ...hindered(reason, WHY), onclick: () => (reason ? tell(reason) : confirm(name, "rollback", number)) }, "Roll back");
  const mark = number !== status.candidate?.version.number && el("button", { type: "button", "data-key": `label-${number}`, "aria-label": `Set a label of version ${number}`, onclick: () => setLabel(name, number, status.labels) }, "Label");
  return el("tr", { "data-version": number }, el("td", {}, number), el("td", {}, ...chips.filter(Boolean)), el("td.label", {}, version.label || el("span.soft", {}, number ? "–" : "built into the package"), ...notes(version).map((note) => el("span.note", {}, note))),
    el("td", {}, el("code", { title: version.digest }, short(version.digest))), el("td.number", {}, size(version.nbytes)), el("td.number", {}, old), el("td.acts", {}, back, mark));
}
