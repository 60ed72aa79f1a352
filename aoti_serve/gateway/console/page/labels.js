/** Labels that can be moved, such as `stable`. They change only if they still name what this page shows. */

import { ask, el, tell } from "./dom.js";
import { model, put, remove } from "./api.js";
import { wrongWith } from "./decide.js";

const at = (name, label) => model(name, `/weights/labels/${encodeURIComponent(label)}`);

/** A label of a version, with a button that deletes it. */
export const labelChip = (name, label, number) => el("span.chip", {}, label,
  el("button.drop", { type: "button", "data-key": `drop-${label}`, "aria-label": `Delete the label ${label}`, onclick: () => drop(name, label, number) }, "×"));

/** Ask for a label, and let it name version `number`; `labels` are those that there are. */
export async function setLabel(name, number, labels) {
  const text = `Requests can ask for a label instead of a version: /v2/models/${name}/versions/LABEL/infer. One that names another version is moved.`;
  const check = (label) => wrongWith(() => put(at(name, label), { version: number, expected: labels[label] ?? null }));
  const typed = await ask({ title: `A label for version ${number}`, text, button: "Set it", fields: [{ "aria-label": "label of the version", placeholder: "stable" }], check });
  if (typed !== null) tell(`${typed[0]} names version ${number}.`);
}

async function drop(name, label, number) {
  const text = `It names version ${number}. Requests that ask for it will be refused. The version stays.`;
  const check = () => wrongWith(() => remove(at(name, label), number));
  if ((await ask({ title: `Delete the label ${label}?`, text, button: "Delete it", check })) !== null) tell(`${label} is deleted.`);
}
