/** The server's HTTP routes. The token stays in this tab: sessionStorage ends with it, and no other tab reads it. */

const BASE = new URL(".", document.baseURI);
const TOKEN = "aoti-serve.token";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const token = () => sessionStorage.getItem(TOKEN);
export const keepToken = (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN));

const address = (path) => new URL(`v2${path}`, BASE);
const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});
export const model = (name, rest = "") => `/models/${encodeURIComponent(name)}${rest}`;

/** The JSON of an answer, with another token than this tab's if `key` is one, and with none if it is "".
 * Throws Refused with the server's own text, and TypeError if nothing answers. */
export async function get(path, signal, key = token()) {
  return value(await fetch(address(path), { headers: bearer(key), cache: "no-store", signal }));
}

export const post = (path, body = {}) => send("POST", path, body);
export const put = (path, body) => send("PUT", path, body);

async function send(method, path, body) {
  const headers = { ...bearer(token()), "Content-Type": "application/json" };
  return value(await fetch(address(path), { method, headers, body: JSON.stringify(body) }));
}

/** Delete it, if it is still what it is `expected` to be. */
export async function remove(path, expected) {
  const query = new URLSearchParams({ expected });
  return value(await fetch(address(`${path}?${query}`), { method: "DELETE", headers: bearer(token()) }));
}

async function value(answer) {
  const text = await answer.text();
  if (!answer.ok) throw refused(answer.status, text);
  return JSON.parse(text);
}

/** The server's own text, but for a token: it speaks of headers there, which nobody types here. */
function refused(status, text) {
  if (status === 401) return new Refused(status, token() ? "The server does not take this token." : "The server asks for a token.");
  try {
    return new Refused(status, JSON.parse(text).error);
  } catch {
    return new Refused(status, `The server answered ${status}.`);
  }
}

/** Send a file; `sent` hears the part that has left, from 0 to 1. fetch() would not tell. */
export function upload(path, file, query, sent) {
  const to = address(path);
  for (const [key, given] of Object.entries(query)) to.searchParams.set(key, typeof given === "object" ? JSON.stringify(given) : given);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", to);
    for (const [key, given] of Object.entries(bearer(token()))) request.setRequestHeader(key, given);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => sent(event.loaded / event.total);
    request.onerror = () => reject(new TypeError("the connection broke off"));
    request.onload = () => request.status < 300
      ? resolve(JSON.parse(request.responseText))
      : reject(refused(request.status, request.responseText));
    request.send(file);
  });
}

/** Every change of the weights' status, until the stream ends. EventSource could not send the token. */
export async function* events(name, signal) {
  const answer = await fetch(address(model(name, "/weights/events")), { headers: bearer(token()), cache: "no-store", signal });
  if (!answer.ok) throw refused(answer.status, await answer.text());
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value: piece, done } = await reader.read();
    if (done) return;
    const parts = (rest + piece).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (data) yield JSON.parse(data.slice(6));
    }
  }
}
