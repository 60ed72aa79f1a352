/** A pad to draw on with a pointer or with the keys: what the model sees is what is shown. */

import { el } from "./dom.js";

const FINE = 4; // strokes are drawn so many times finer than the image, and averaged, as a scan is
const KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

export class Pad {
  #cursor = null;
  #last = null;

  /** `changed` is called after every stroke. */
  constructor(side, changed) {
    this.side = side;
    this.changed = changed;
    this.fine = Object.assign(document.createElement("canvas"), { width: side * FINE, height: side * FINE });
    this.strokes = this.fine.getContext("2d", { willReadFrequently: true });
    this.canvas = el("canvas", {
      width: 416, height: 416, tabindex: 0, role: "application",
      "aria-label": `An image of ${side} by ${side} to draw: arrow keys move, space inks or clears a pixel, delete clears all`,
      onpointerdown: (event) => this.#begin(event), onpointermove: (event) => this.#stroke(event),
      onpointerup: () => { this.#last = null; }, onkeydown: (event) => this.#press(event),
      onfocus: () => this.draw(), onblur: () => this.draw(),
    });
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.said = el("span.unseen", { role: "status" });
    this.clear(false);
  }

  /** The pixels, row by row, from 0 to 1. */
  pixels() {
    const { data } = this.strokes.getImageData(0, 0, this.fine.width, this.fine.height);
    const found = new Array(this.side * this.side).fill(0);
    for (let at = 3; at < data.length; at += 4) {
      const [y, x] = [Math.floor((at >> 2) / this.fine.width), (at >> 2) % this.fine.width];
      found[Math.floor(y / FINE) * this.side + Math.floor(x / FINE)] += data[at] / 255;
    }
    return found.map((sum) => sum / FINE ** 2);
  }

  get empty() {
    return this.pixels().every((pixel) => pixel === 0);
  }

  clear(say = true) {
    this.strokes.clearRect(0, 0, this.fine.width, this.fine.height);
    this.draw();
    if (say) this.changed();
  }

  draw() {
    const ink = this.canvas.getContext("2d");
    const cell = this.canvas.width / this.side;
    ink.clearRect(0, 0, this.canvas.width, this.canvas.height);
    ink.fillStyle = getComputedStyle(document.body).color;
    for (const [at, pixel] of this.pixels().entries()) {
      ink.globalAlpha = pixel;
      ink.fillRect((at % this.side) * cell, Math.floor(at / this.side) * cell, cell + 0.5, cell + 0.5);
    }
    ink.globalAlpha = 1;
    if (this.#cursor && document.activeElement === this.canvas) {
      ink.strokeStyle = getComputedStyle(this.canvas).outlineColor;
      ink.lineWidth = 4;
      ink.strokeRect(this.#cursor[1] * cell + 2, this.#cursor[0] * cell + 2, cell - 4, cell - 4);
    }
  }

  #begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.#cursor = null;
    this.#last = this.#place(event);
    this.#stroke(event);
  }

  #stroke(event) {
    if (!this.#last) return;
    const [x, y] = this.#place(event);
    Object.assign(this.strokes, { lineWidth: 1.1 * FINE, lineCap: "round", lineJoin: "round" });
    this.strokes.beginPath();
    this.strokes.moveTo(...this.#last);
    this.strokes.lineTo(x, y + 0.01);
    this.strokes.stroke();
    this.#last = [x, y];
    this.draw();
    this.changed();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.fine.width, ((event.clientY - box.top) / box.height) * this.fine.height];
  }

  #press(event) {
    if (event.key in KEYS) this.#move(KEYS[event.key]);
    else if (event.key === " " || event.key === "Enter") this.#toggle();
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
  }

  #move([down, right]) {
    const [row, column] = this.#cursor ?? [0, 0];
    const within = (at) => Math.min(this.side - 1, Math.max(0, at));
    this.#cursor = this.#cursor ? [within(row + down), within(column + right)] : [0, 0];
    this.draw();
    this.said.textContent = `row ${this.#cursor[0] + 1}, column ${this.#cursor[1] + 1}`;
  }

  #toggle() {
    const [row, column] = (this.#cursor ??= [0, 0]);
    const full = this.pixels()[row * this.side + column] > 0.5;
    this.strokes[full ? "clearRect" : "fillRect"](column * FINE, row * FINE, FINE, FINE);
    this.draw();
    this.changed();
    this.said.textContent = full ? "cleared" : "inked";
  }
}
