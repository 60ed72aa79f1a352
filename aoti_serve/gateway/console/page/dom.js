/** Small means to make and replace elements. Text is always text: nothing of a server's becomes markup. */

export const $ = (selector) => document.querySelector(selector);

/** An element: `el("td.number", {title: "…"}, "3")`. Attributes that are null or false are left out. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const made = document.createElement(tag);
  made.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const shown = new WeakMap();

/** Fill `place` with what `make` makes, only if `facts` differ from last time. The focus stays where it was. */
export function fill(place, facts, make) {
  const key = JSON.stringify(facts);
  if (shown.get(place) === key) return;
  shown.set(place, key);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  place.replaceChildren(...[make()].flat().filter(Boolean));
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

export const table = (heads, rows) =>
  el("div.scroll", {}, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map(head))), el("tbody", {}, ...rows)));

/** A table whose rows become blocks where it is narrow. The roles stay then, and each cell says its column. */
export function records(heads, rows) {
  const made = table(heads, rows);
  const grid = made.firstChild;
  grid.classList.add("records");
  grid.setAttribute("role", "table");
  for (const [selector, role] of [["thead, tbody", "rowgroup"], ["tr", "row"], ["th", "columnheader"], ["td", "cell"]])
    for (const each of grid.querySelectorAll(selector)) each.setAttribute("role", role);
  for (const row of rows) for (const [at, cell] of [...row.children].entries()) cell.dataset.head = heads[at].replace(">", "");
  return made;
}

const head = (name) =>
  name.startsWith(">") ? el("th.number", { scope: "col" }, name.slice(1)) : el("th", { scope: "col" }, name || el("span.unseen", {}, "Actions"));

/** A bar of 0 to 1, which says in words what it shows. */
export function bar(part, label, kind = "") {
  const inner = el("i");
  inner.style.width = `${Math.round(100 * Math.min(1, Math.max(0, part)))}%`;
  return el(`span.bar${kind ? `.${kind}` : ""}`, { role: "img", "aria-label": label }, inner);
}

let silence;
/** Tell a person, and a screen reader, what has happened. */
export function tell(text) {
  $("#told").textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => { $("#told").textContent = ""; }, 8000);
}

/** Ask in a dialog. Resolves with the values of the fields, and with null if it was cancelled.
 * `check` takes the values and gives what is wrong with them, or nothing; until it gives nothing the dialog stays. */
export function ask({ title, text, button, fields = [], check = () => null }) {
  const dialog = $("#dialog");
  const inputs = fields.map((field) => el("input", { ...field, autocomplete: "off", required: true }));
  const wrong = el("p.wrong", { role: "alert" });
  const act = el("button.main", { type: "submit" }, button);
  return new Promise((resolve) => {
    let open = true;
    const end = (value) => { open = false; dialog.oncancel = null; dialog.close(); resolve(value); };
    const submit = async (event) => {
      event.preventDefault();
      const values = inputs.map((input) => input.value.trim());
      act.disabled = true;
      const found = await check(...values);
      act.disabled = false;
      if (!open) return;
      wrong.textContent = found ?? "";
      if (found) inputs[0]?.select();
      else end(values);
    };
    dialog.oncancel = () => { open = false; resolve(null); };
    dialog.replaceChildren(el("form", { onsubmit: submit },
      el("h2", { id: "dialog-title" }, title), el("p.note", {}, text),
      ...inputs.map((input) => el("label", {}, inputs.length > 1 && input.getAttribute("aria-label"), input)), wrong,
      el("div.row", {}, el("button", { type: "button", onclick: () => end(null) }, "Cancel"), act)));
    dialog.showModal();
    (inputs[0] ?? act).focus();
  });
}
