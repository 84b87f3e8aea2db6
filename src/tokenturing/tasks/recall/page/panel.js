// One memory on the page: what it sees, hears, notices and holds.

import { toArray } from "./connection.js";
import { Slots } from "./slots.js";

const STEP_SECONDS = 0.08;
const NOTICED = 8; // events that are listed
const FADING = 0.82; // of a slot's light, from step to step

const SENSES = { sees: { was: "saw" }, hears: { was: "heard" } };

export function lasting(steps) {
  const seconds = steps * STEP_SECONDS;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

export const percent = (share) => (share > 0.9945 && share < 1 ? `${(100 * share).toFixed(1)} %` : `${Math.round(100 * share)} %`);

export class Panel {
  // about: {id, secret, name, slots, noticed, steps}, as it is saved; actions: activate, fork, end.
  constructor(about, actions) {
    Object.assign(this, { id: about.id, secret: about.secret, name: about.name, steps: about.steps ?? 0 });
    this.slots = new Slots(about.slots);
    this.noticed = about.noticed ?? [];
    this.root = document.querySelector("#panel").content.firstElementChild.cloneNode(true);
    this.root.dataset.session = this.id;
    this.part("name").textContent = this.name;
    this.root.setAttribute("aria-label", this.name);
    for (const action of ["activate", "fork", "end"]) this.part(action).onclick = () => actions[action](this);
    this.bars = Object.fromEntries(["seen", "heard"].map((name) => [name, barsIn(this.part(name))]));
    this.cells = [];
    this.light = [];
    this.show();
  }

  part(name) {
    return this.root.querySelector(`[data-part="${name}"]`);
  }

  saved() {
    const { id, secret, name, noticed, steps } = this;
    return { id, secret, name, noticed, steps, slots: this.slots.saved() };
  }

  begin({ steps }) {
    if (steps < this.steps) [this.noticed, this.slots] = [[], new Slots()];
    this.steps = steps;
    this.show();
  }

  stepped({ steps, events = [], outputs = {} }) {
    this.steps = steps;
    for (const { sense, what, confidence } of events) this.noticed.unshift({ sense, what, confidence, step: steps });
    this.noticed.length = Math.min(this.noticed.length, NOTICED);
    const shares = {};
    for (const [sense, name] of [["sees", "seen"], ["hears", "heard"]]) {
      if (!outputs[name]) continue;
      shares[sense] = toArray(outputs[name]);
      drawBars(this.bars[name], shares[sense]);
    }
    const memory = ["written", "read", "age"].filter((name) => outputs[name]).map((name) => [name, toArray(outputs[name])]);
    if (outputs.written && outputs.age) this.slots.step(steps, events, shares, Object.fromEntries(memory));
    this.show();
    return events;
  }

  set active(yes) {
    this.root.classList.toggle("active", yes);
    this.part("activate").setAttribute("aria-pressed", String(yes));
    this.part("activate").textContent = yes ? "Gets what you show and say" : "Show and say to this one";
  }

  note(text) {
    this.part("note").textContent = text;
  }

  show() {
    this.part("steps").textContent = `${this.steps} steps, ${lasting(this.steps)}`;
    const items = this.noticed.map(({ sense, what, confidence, step }) => {
      const item = document.createElement("li");
      item.className = sense;
      const ago = lasting(this.steps - step);
      item.innerHTML = "<b></b> <span></span>";
      item.firstChild.textContent = `${SENSES[sense].was} ${what}`;
      item.lastChild.textContent = `${percent(confidence)} sure, ${ago} ago`;
      return item;
    });
    this.part("noticed").replaceChildren(...items);
    this.part("nothing").hidden = items.length > 0;
    this._showSlots();
  }

  _showSlots() {
    const { held, written, read, age } = this.slots;
    const grid = this.part("slots");
    while (this.cells.length < held.length) {
      const cell = document.createElement("li");
      cell.innerHTML = "<b></b><small></small><i></i>";
      this.cells.push(grid.appendChild(cell));
    }
    this.cells.forEach((cell, slot) => {
      const event = held[slot], what = event ? event.what + (event.doubt ? "?" : "") : "·";
      const was = event ? `${event.doubt ? "perhaps " : ""}${SENSES[event.sense].was} ${event.what}` : "nothing that was noticed";
      this.light[slot] = Math.max(written[slot] ?? 0, (this.light[slot] ?? 0) * FADING);
      cell.style.setProperty("--light", this.light[slot] < 0.03 ? 0 : this.light[slot].toFixed(2));
      cell.style.setProperty("--read", (read[slot] ?? 0).toFixed(2));
      const old = age.length ? lasting(age[slot]) : "";
      const kind = event?.sense ?? "";
      if (cell.className !== kind) cell.className = kind;
      const [digit, small] = cell.children, texts = [what, old];
      if (digit.textContent !== texts[0]) digit.textContent = texts[0];
      if (small.textContent !== texts[1]) small.textContent = texts[1];
      cell.title = `slot ${slot + 1}: ${was}${old && `, written ${old} ago`}`;
      cell.setAttribute("aria-label", cell.title);
    });
  }
}

function barsIn(list) {
  return Array.from({ length: 11 }, (_, what) => {
    const bar = document.createElement("li");
    bar.innerHTML = "<span></span><i></i>";
    bar.firstChild.textContent = what < 10 ? what : "–";
    bar.title = what < 10 ? String(what) : "nothing";
    return list.appendChild(bar);
  });
}

function drawBars(bars, shares) {
  const most = shares.indexOf(Math.max(...shares));
  bars.forEach((bar, what) => {
    bar.style.setProperty("--share", shares[what].toFixed(3));
    bar.classList.toggle("most", what === most && what < 10);
    bar.title = `${what < 10 ? what : "nothing"}: ${percent(shares[what])}`;
  });
}
