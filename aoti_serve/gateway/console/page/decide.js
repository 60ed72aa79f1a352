/** What a person decides: to promote, withdraw or roll back, and on a candidate's shares. And why they cannot, now. */

import { ask, tell } from "./dom.js";
import { model, post } from "./api.js";
import { share } from "./words.js";

const QUESTIONS = {
  promote: (version) => ["Promote", `Version ${version} will answer every request, on every replica.`],
  withdraw: (version) => ["Withdraw", `Version ${version} will be freed everywhere. The other version goes on answering.`],
  rollback: (version) => ["Roll back", `Version ${version} will answer every request again, on every replica.`],
};

/** Why the server would refuse a swap or a rollback now; null if it would not. */
export function hindrance({ swap, candidate }) {
  if (candidate) return `Version ${candidate.version.number} is a candidate: promote it or withdraw it first.`;
  return swap ? "A change is under way." : null;
}

/** The attributes of a button for what may be hindered; an element of this id says why. It keeps the focus, so that the
 * reason is heard: `disabled` would lose it. */
export const hindered = (reason, id) => ({ "aria-disabled": reason && "true", "aria-describedby": reason && id, title: reason });

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

/** Ask for other shares of the requests that meet the candidate. */
export async function setShares(name, candidate) {
  const { version: { number } } = candidate;
  const check = (answered, shadow) => wrongWith(() => post(model(name, "/weights/candidate"), { share: answered, shadow }));
  const fields = [["share", candidate.share], ["shadow", candidate.shadow]]
    .map(([label, part]) => ({ "aria-label": label, value: share(part) }));
  const text = "The share is answered by it. The shadow of the others runs on it, too, and is compared; the version that answers answers them.";
  if ((await ask({ title: `Shares of version ${number}`, text, button: "Set them", fields, check })) !== null) tell(`Version ${number} has other shares.`);
}

/** What is wrong with an act, in words; null once it is done. */
export async function wrongWith(act) {
  try {
    await act();
    return null;
  } catch (error) {
    return error instanceof TypeError ? "The server does not answer. Try again." : error.message;
  }
}
