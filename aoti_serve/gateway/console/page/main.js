/** One page: it asks for figures every second, follows the weights' events, and says when it hears nothing. */

import { Refused, events, get, keepToken, model, token } from "./api.js";
import { $, el, fill, tell } from "./dom.js";
import { Charts } from "./charts.js";
import { Figures } from "./figures.js";
import { showChange, showHeadline } from "./change.js";
import { showReplicas, showVersions } from "./tables.js";
import { showSwapForm } from "./swap.js";
import { askToken, judged } from "./token.js";
import { Trial } from "./try.js";

const PERIOD_MS = 1000;
const PATIENCE_MS = 5000; // a server that is silent for so long counts as lost
const body = (id) => $(`#${id} .body`);
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** The view of one model, until it is left. */
class View {
  #left = new AbortController();
  #following = new AbortController();
  #tellForm = () => {};
  #version = null; // that answers, as far as this page has told
  #state = { status: null, versions: null, figures: null, sample: null, lost: false };

  constructor(name) {
    this.name = name;
    this.figures = new Figures();
    this.charts = new Charts($("#charts"));
    this.trial = new Trial(body("try"), name);
    this.opened = false;
  }

  run() {
    this.admit();
    this.#watchFigures();
  }

  /** Use the token that there is now, or none. What is drawn, typed and answered stays. */
  admit() {
    this.#following.abort();
    this.#following = new AbortController();
    this.#show(Boolean(token()));
    if (token()) this.#followWeights(this.#following.signal);
  }

  leave() {
    this.#left.abort();
    this.#following.abort();
    this.trial.close();
  }

  #show(admin) {
    Object.assign(this.#state, { status: null, versions: null });
    this.#tellForm = showSwapForm(body("swap"), this.name, admin, enterToken);
    this.#draw();
  }

  get #on() {
    return !this.#left.signal.aborted;
  }

  async #watchFigures() {
    for (; this.#on; await pause(PERIOD_MS)) {
      if (document.hidden) continue;
      try {
        const signal = AbortSignal.any([this.#left.signal, AbortSignal.timeout(PATIENCE_MS)]);
        this.#state.figures = await get(model(this.name, "/figures"), signal);
        if (!this.opened) {
          await this.trial.open(signal);
          this.opened = true;
        }
        if (!this.#state.status) this.#answeredBy(this.#state.figures.version);
        this.#state.sample = this.figures.take(this.#state.figures, performance.now() / 1000);
        this.#heard();
      } catch (error) {
        if (!this.#on) return;
        this.#unheard(error);
      }
      this.charts.add(this.#state.lost ? null : this.#state.sample);
      this.#draw();
    }
  }

  async #followWeights(signal) {
    for (; !signal.aborted; await pause(PERIOD_MS)) {
      try {
        for await (const status of events(this.name, signal)) await this.#take(status, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && [401, 403].includes(error.status)) return this.#closed(error);
      }
    }
  }

  async #take(status, signal) {
    const before = this.#state.status;
    this.#state.status = status;
    this.#answeredBy(status.current.number);
    this.#draw();
    if (before?.current.number !== status.current.number || before.last?.id !== status.last?.id || before.candidate?.version.number !== status.candidate?.version.number) {
      this.#state.versions = await get(model(this.name, "/weights/versions"), signal);
      this.#draw();
    }
  }

  #answeredBy(version) {
    if (this.#version !== null && version !== this.#version) {
      this.charts.mark();
      tell(`Version ${version} answers.`);
    }
    this.#version = version;
  }

  /** The token changes nothing here. One that lets nobody look either is forgotten. */
  async #closed(error) {
    this.#show(false);
    if (error.status === 403) tell(error.message);
    else if ((await judged(token()).catch(() => "unknown")) === null) {
      forget();
      tell("The server does not take the token any more. Enter another one.");
    }
  }

  #heard() {
    if (this.#state.lost) tell("The server answers again.");
    this.#state.lost = false;
    showLink("connected", false);
  }

  #unheard(error) {
    const refused = error instanceof Refused && error.status === 401;
    if (refused) forget(); // to send a wrong one again and again would bar this address
    if (!this.#state.lost && !refused) tell("The server does not answer. This page tries again every second.");
    this.#state.lost = true;
    showLink(refused ? "the server asks for a token" : "the server does not answer; trying again", true);
  }

  #draw() {
    const { status, versions, figures } = this.#state;
    showHeadline($("#headline"), this.name, this.#state);
    showChange($("#change"), this.name, status);
    showReplicas(body("replicas"), status, figures);
    showVersions(body("versions"), this.name, status, versions);
    this.#tellForm(status);
  }
}

let view = null;

function open(name) {
  view?.leave();
  location.hash = encodeURIComponent(name);
  document.title = `${name} – aoti-serve`;
  view = new View(name);
  view.run();
}

function showModels(names) {
  const chosen = names.find((name) => encodeURIComponent(name) === location.hash.slice(1)) ?? names[0];
  const draw = (now) => fill($("#models"), [names, now], () => names.length < 2 ? [] : names.map((name) =>
    el("button.quiet", { type: "button", "data-key": name, "aria-current": name === now ? "page" : null,
      onclick: () => { draw(name); open(name); } }, name)));
  draw(chosen);
  open(chosen);
}

function forget() {
  keepToken(null);
  showKey();
}

async function enterToken() {
  if (token()) {
    forget();
    tell("The token is forgotten.");
  } else if (!(await askToken())) return;
  showKey();
  view?.admit();
}

const showKey = () => { $("#key").textContent = token() ? "Forget the token" : "Enter a token"; };

function showLink(text, lost) {
  $("#link").classList.toggle("lost", lost);
  fill($("#link"), text, () => document.createTextNode(text));
}

const THEMES = ["auto", "light", "dark"];
function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("#theme").textContent = `Colours: ${theme === "auto" ? "the system’s" : theme}`;
}

function nextTheme() {
  const now = localStorage.getItem("aoti-serve.theme") ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  localStorage.setItem("aoti-serve.theme", next);
  showTheme(next);
}

async function start() {
  for (; ; await pause(PERIOD_MS)) {
    try {
      const { models } = await get("/models");
      showModels(models);
      return;
    } catch (error) {
      const refused = error instanceof Refused;
      if (refused) forget();
      showLink(refused ? error.message : "the server does not answer; trying again", true);
    }
  }
}

$("#key").addEventListener("click", enterToken);
$("#theme").addEventListener("click", nextTheme);
showTheme(localStorage.getItem("aoti-serve.theme") ?? "auto");
showKey();
start();
