/** Tokens: what one is good for, and the dialog that takes one. */

import { get, keepToken, model } from "./api.js";
import { ask, tell } from "./dom.js";

const TEXT = "An admin token changes weights; aoti-serve token says where yours is. Where inference asks for a token, one of those lets you look. It stays in this tab.";

/** What the server takes a token for: "admin"; "inference", with which one may look; null, if it is not the server's.
 * Throws what get() throws for anything else. */
export async function judged(key) {
  const found = await unless401("/models", key);
  if (!found) return null;
  let closed = null;
  try {
    if (await unless401(model(found.models[0], "/weights/labels"), key)) return "admin";
  } catch (error) {
    closed = error;
  }
  if (!(await unless401("/models", ""))) return "inference"; // who has no token may not look
  if (closed) throw closed;
  return null;
}

const unless401 = (path, key) => get(path, null, key).catch((error) => {
  if (error.status === 401) return null;
  throw error;
});

/** Take a token in a dialog, which stays until the server takes it, or the person gives up. Returns whether there is one. */
export async function askToken() {
  let kind = null;
  const check = async (key) => {
    try {
      kind = await judged(key);
      return kind ? null : "This token is not the server’s.";
    } catch (error) {
      return error instanceof TypeError ? "The server does not answer. Try again." : error.message;
    }
  };
  const typed = await ask({ title: "Token", text: TEXT, button: "Use it", fields: [{ type: "password", "aria-label": "token" }], check });
  if (typed === null) return false;
  keepToken(typed[0]);
  if (kind === "inference") tell("With this token you may look. An admin token changes weights.");
  return true;
}
