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
const bearer = () => (token() ? { Authorization: `Bearer ${token()}` } : {});
export const model = (name, rest = "") => `/models/${encodeURIComponent(name)}${rest}`;

/** The JSON of an answer. Throws Refused with the server's own text, and TypeError if nothing answers. */
export async function get(path, signal) {
  return value(await fetch(address(path), { headers: bearer(), cache: "no-store", signal }));
}

export async function post(path, body = {}) {
  const headers = { ...bearer(), "Content-Type": "application/json" };
  return value(await fetch(address(path), { method: "POST", headers, body: JSON.stringify(body) }));
}

async function value(answer) {
  const text = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, problem(text, answer.status));
  return JSON.parse(text);
}

function problem(text, status) {
  try {
    return JSON.parse(text).error;
  } catch {
    return `the server answered ${status}`;
  }
}

/** Send a file; `sent` hears the part that has left, from 0 to 1. fetch() would not tell. */
export function upload(path, file, query, sent) {
  const to = address(path);
  for (const [key, given] of Object.entries(query)) to.searchParams.set(key, given);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", to);
    for (const [key, given] of Object.entries(bearer())) request.setRequestHeader(key, given);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => sent(event.loaded / event.total);
    request.onerror = () => reject(new TypeError("the connection broke off"));
    request.onload = () => request.status < 300
      ? resolve(JSON.parse(request.responseText))
      : reject(new Refused(request.status, problem(request.responseText, request.status)));
    request.send(file);
  });
}

/** Every change of the weights' status, until the stream ends. EventSource could not send the token. */
export async function* events(name, signal) {
  const answer = await fetch(address(model(name, "/weights/events")), { headers: bearer(), cache: "no-store", signal });
  if (!answer.ok) throw new Refused(answer.status, problem(await answer.text(), answer.status));
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
