/** Labels that can be moved, such as `stable`. They change only if they still name what this page shows. */

import { ask, el, tell } from "./dom.js";
import { model, put, remove } from "./api.js";

const at = (name, label) => model(name, `/weights/labels/${encodeURIComponent(label)}`);

/** A label of a version, with a button that deletes it. */
export const labelChip = (name, label, number) => el("span.chip", {}, label,
  el("button.drop", { type: "button", "data-key": `drop-${label}`, "aria-label": `Delete the label ${label}`, onclick: () => drop(name, label, number) }, "×"));

/** Ask for a label, and let it name version `number`; `labels` are those that there are. */
export async function setLabel(name, number, labels) {
  const text = `Requests can ask for a label instead of a version: /v2/models/${name}/versions/LABEL/infer. One that names another version is moved.`;
  const check = (label) => done(() => put(at(name, label), { version: number, expected: labels[label] ?? null }));
  const label = await ask({ title: `A label for version ${number}`, text, button: "Set it", field: { "aria-label": "label of the version", placeholder: "stable" }, check });
  if (label !== null) tell(`${label} names version ${number}.`);
}

async function drop(name, label, number) {
  const text = `It names version ${number}. Requests that ask for it will be refused. The version stays.`;
  const check = () => done(() => remove(at(name, label), number));
  if ((await ask({ title: `Delete the label ${label}?`, text, button: "Delete it", check })) !== null) tell(`${label} is deleted.`);
}

/** What is wrong, if something is. */
async function done(act) {
  try {
    await act();
    return null;
  } catch (error) {
    return error instanceof TypeError ? "The server does not answer. Try again." : error.message;
  }
}
