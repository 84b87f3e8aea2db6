// The page: what is drawn, said and asked goes to the active memory, 12.5 steps a second, as fast as replies come.

import { Connection, Session, fromArray, random } from "./connection.js";
import { Ears, SAMPLES as SOUND } from "./ears.js";
import { Eyes, SIZE, digitOf, digitOfSample } from "./eyes.js";
import { Panel, percent } from "./panel.js";
import { QUESTIONS, wordsOf } from "./questions.js";
import { SAMPLES } from "./samples.js";

const STEP = 80; // ms
const LATE = 500; // ms after which lost time is not caught up with
const AFTERWARDS = 25; // steps that go on after all is quiet, where time does not go on by itself
const LIFTED = 800; // ms from lifting the pen until a drawing is shown
const ANSWERS = 6;
const KEPT = "tokenturing.recall"; // in localStorage
const LETTERS = "AB";

const byId = (id) => document.getElementById(id);
const eyes = new Eyes(), ears = new Ears();
const connection = new Connection(showStatus);
const panels = [];
let active = null, model = null, answers = [];

// What is kept in the browser

function save() {
  const kept = { token: connection.token, active: active?.id, panels: panels.map((panel) => panel.saved()), answers, model };
  try {
    localStorage.setItem(KEPT, JSON.stringify({ ...kept, time: byId("time").checked }));
  } catch (error) {
    console.warn("this browser keeps nothing, so that closing the page loses the way to the memory", error);
  }
}

function restore() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch (error) {
    console.warn("what was kept cannot be read: beginning anew", error);
  }
  connection.token = kept.token ?? "";
  byId("time").checked = kept.time ?? true;
  [answers, model] = [kept.answers ?? [], kept.model ?? null];
  for (const about of kept.panels ?? []) add(about);
  activate(panels.find((panel) => panel.id === kept.active) ?? panels[0] ?? null);
  showAnswers();
}

// Connection

function showStatus(state, detail) {
  const status = byId("status");
  status.dataset.state = state;
  byId("retry").hidden = state !== "lost";
  byId("token").hidden = state !== "token";
  if (state === "connecting" && status.textContent.startsWith("Connection lost")) return;
  const texts = { connecting: "Connecting", open: "Connected", token: "A token is needed" };
  status.textContent = texts[state] ?? "Connection lost, trying again";
  if (state === "token") {
    byId("token-note").textContent = detail;
    byId("token-text").focus();
  }
  if (state === "open" && !panels.length) begin();
}

// Memories

function add(about) {
  const panel = new Panel(about, { activate, fork, end });
  panel.session = new Session(connection, panel, {
    onbegin(opened) {
      panel.note("");
      panel.begin(opened);
      save();
    },
    onreply(message) {
      const events = panel.stepped(message);
      panel.root.dataset.steps = message.steps;
      if (events.length) save();
    },
    onmoved: (reason) => offer(panel, `This memory went elsewhere: ${reason}.`, "Take it back", () => connection.hold(panel.session)),
    onrefused: (error) => offer(panel, `${error.message}.`, "Begin with an empty memory", forget),
  });
  panels.push(panel);
  byId("panels").append(panel.root);
  connection.hold(panel.session);
  panel.active = false;
  showHowMany();
  return panel;
}

function offer(panel, text, action, act) {
  panel.note(`${text} `);
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
  button.onclick = () => {
    panel.note("");
    act();
  };
  panel.part("note").append(button);
}

function activate(panel) {
  active = panel;
  for (const one of panels) one.active = one === panel;
  save();
}

function showHowMany() {
  byId("panels").dataset.count = panels.length;
  for (const panel of panels) {
    panel.part("fork").hidden = panels.length > 1;
    panel.part("activate").hidden = panels.length < 2;
    panel.part("end").hidden = panels.length < 2;
  }
}

function remove(panel) {
  connection.release(panel.session);
  panels.splice(panels.indexOf(panel), 1);
  panel.root.remove();
  showHowMany();
}

// A memory that has nothing in it, of the first model that watches and can be asked.
async function begin() {
  const models = connection.welcome.models.filter(({ queries }) => Array.isArray(queries) && queries.includes("seen 1 last"));
  if (!models.length) return void (byId("status").textContent = "This server has no model that sees and hears digits");
  model = models[0].name;
  const about = { id: random(16), secret: random(24), name: "Memory A" };
  await open({ type: "open", model, kind: "media", session: about.id, secret: about.secret }, about);
}

// With an id and secret of our own a message whose reply is lost can be sent again.
async function open(message, about) {
  try {
    await connection.ask(message);
  } catch (error) {
    if (active) active.note(`${error.message}.`);
    else byId("status").textContent = `No memory could be begun: ${error.message}`;
    return;
  }
  const panel = add(about);
  if (!active) activate(panel);
  save();
}

async function fork(panel) {
  const about = { ...structuredClone(panel.saved()), id: random(16), secret: random(24) };
  about.name = `Memory ${[...LETTERS].find((letter) => panels.every(({ name }) => !name.endsWith(letter)))}`;
  panel.part("fork").disabled = true;
  await open({ type: "fork", session: panel.id, fork: about.id, secret: about.secret }, about);
  panel.part("fork").disabled = false;
}

async function end(panel) {
  remove(panel);
  if (active === panel) activate(panels[0] ?? null);
  save();
  await connection.ask({ type: "close", session: panel.id }).catch(() => {}); // it may be gone already
}

async function forget() {
  for (const panel of [...panels]) end(panel);
  answers = [];
  showAnswers();
  save();
  if (connection.open) await begin();
}

// Time

let due = 0, quiet = 0;

function step() {
  const frame = eyes.frame(), sound = ears.sound();
  const inputs = { frame: fromArray(frame, [SIZE, SIZE]), sound: fromArray(sound, [SOUND]) };
  active.session.step(inputs);
  byId("level").value = ears.level;
  const pen = active.part("frame").getContext("2d"), picture = pen.createImageData(SIZE, SIZE);
  frame.forEach((value, at) => picture.data.set([255 * value, 255 * value, 255 * value, 255], 4 * at));
  pen.putImageData(picture, 0, 0);
  if (eyes.camera) brush.drawImage(pen.canvas, 0, 0, canvas.width, canvas.height);
}

function tick() {
  const now = performance.now();
  if (eyes.busy || ears.busy) quiet = 0;
  const wanted = active && (byId("time").checked || quiet < AFTERWARDS) && !document.hidden;
  if (now - due > LATE) due = now;
  if (wanted && active.session.ready && now >= due) {
    step();
    quiet++;
    due += STEP;
  }
  const state = byId("status");
  if (state.dataset.state === "open" && active) {
    const text = wanted ? "Connected" : "Connected; time stands still until something happens";
    if (state.textContent !== text) state.textContent = text;
  }
  setTimeout(tick, wanted && active.session.ready ? Math.max(2, due - performance.now()) : 15);
}

// Showing

const canvas = byId("drawing"), brush = canvas.getContext("2d");
let lines = [], shown = 0;

function point(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function redraw() {
  brush.imageSmoothingEnabled = false;
  brush.clearRect(0, 0, canvas.width, canvas.height);
  Object.assign(brush, { lineWidth: 26, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
  for (const line of lines) {
    brush.beginPath();
    for (const [x, y] of [line[0], ...line]) brush.lineTo(x * canvas.width, y * canvas.height);
    brush.stroke();
  }
  byId("show-now").disabled = byId("wipe").disabled = !lines.length;
}

function wipe(note = "Draw one digit here") {
  clearTimeout(shown);
  lines = [];
  canvas.dataset.state = "empty";
  byId("drawing-note").textContent = note;
  redraw();
}

function showDrawing() {
  clearTimeout(shown);
  if (!lines.length || canvas.dataset.state === "showing") return;
  canvas.dataset.state = "showing";
  byId("drawing-note").textContent = "It looks at this";
  const began = active?.steps;
  eyes.show(digitOf(lines), () => {
    if (canvas.dataset.state === "showing") wipe("Wiped. Draw the next one, or ask");
    setTimeout(() => active && tellSight(active, began), 4 * STEP);
  });
}

function tellSight(panel, began) {
  const seen = panel.noticed.find(({ sense, step }) => sense === "sees" && step > began);
  if (canvas.dataset.state !== "empty") return;
  byId("drawing-note").textContent = seen ? `Seen: ${seen.what}. Draw the next one, or ask` : "It was not quite sure. Ask, or draw it once more";
}

canvas.onpointerdown = (event) => {
  if (!event.isPrimary || event.button || eyes.camera) return;
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  if (canvas.dataset.state === "showing") wipe();
  clearTimeout(shown);
  canvas.dataset.state = "drawing";
  byId("drawing-note").textContent = "";
  lines.push([point(event)]);
  redraw();
};
canvas.onpointermove = (event) => {
  if (canvas.dataset.state !== "drawing" || !canvas.hasPointerCapture(event.pointerId)) return;
  for (const one of event.getCoalescedEvents?.() ?? []) lines.at(-1).push(point(one));
  lines.at(-1).push(point(event));
  redraw();
};
canvas.onlostpointercapture = () => {
  if (canvas.dataset.state !== "drawing") return;
  byId("drawing-note").textContent = "Shown as soon as you are done";
  clearTimeout(shown);
  shown = setTimeout(showDrawing, LIFTED);
};
canvas.onkeydown = (event) => {
  if (event.key === "Enter") showDrawing();
  else if (event.key === "Escape") wipe();
};
byId("show-now").onclick = showDrawing;
byId("wipe").onclick = () => wipe();

for (let digit = 0; digit < 10; digit++) {
  const sample = document.createElement("button"), word = document.createElement("button");
  sample.type = word.type = "button";
  sample.append(pictureOf(SAMPLES[digit][0]));
  sample.setAttribute("aria-label", `show a ${digit}`);
  word.textContent = digit;
  word.setAttribute("aria-label", `say ${digit}`);
  let turn = 0;
  sample.onclick = () => eyes.show(digitOfSample(SAMPLES[digit][turn++ % SAMPLES[digit].length]));
  word.onclick = () => ears.say(digit).catch((error) => problem("microphone", `This word cannot be loaded: ${error.message}.`));
  byId("samples").append(sample);
  byId("words").append(word);
}

function pictureOf(letters) {
  const picture = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
  const pen = picture.getContext("2d"), pixels = pen.createImageData(8, 8);
  [...letters].forEach((letter, at) => pixels.data.set([255, 255, 255, (255 * (letter.charCodeAt(0) - 97)) / 16], 4 * at));
  pen.putImageData(pixels, 0, 0);
  return picture;
}

// Camera and microphone

const WHY = {
  NotAllowedError: (what) => `The ${what} is not allowed here: allow it in the browser's settings of this page.`,
  NotFoundError: (what) => `There is no ${what}.`,
  NotReadableError: (what) => `The ${what} is in use by another program.`,
  NotSupportedError: (what) => `The browser gives no ${what} to this address: open the page by https or at localhost.`,
};

function problem(what, text) {
  byId(`${what}-problem`).textContent = text;
  byId(`${what}-problem`).hidden = !text;
}

function source(what, sense, opened) {
  const button = byId(what);
  const show = (on) => {
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? `Stop the ${what}` : `Use the ${what}`;
    opened(on);
  };
  button.onclick = async () => {
    problem(what, "");
    if (button.getAttribute("aria-pressed") === "true") {
      sense.close();
      return show(false);
    }
    button.disabled = true;
    try {
      const stream = await sense.open();
      stream.getTracks()[0].onended = () => {
        sense.close();
        show(false);
        problem(what, `The ${what} went away.`);
      };
      show(true);
    } catch (error) {
      problem(what, WHY[error.name]?.(what) ?? `The ${what} cannot be used: ${error.message}.`);
    }
    button.disabled = false;
  };
}

source("camera", eyes, (on) => {
  byId("dark-row").hidden = !on;
  wipe(on ? "It looks through the camera" : undefined);
});
source("microphone", ears, () => {});
byId("dark").onchange = () => (eyes.dark = byId("dark").checked);

// Asking

function showAnswers() {
  const items = answers.map(({ query, said }) => {
    const item = document.createElement("li");
    item.dataset.query = query;
    item.innerHTML = "<p></p><div></div>";
    item.firstChild.textContent = wordsOf(query);
    for (const { name, answer, confidence } of said) {
      const one = document.createElement("div");
      one.innerHTML = "<span></span><b></b><meter min='0' max='1'></meter><small></small>";
      const [whose, what, meter, sure] = one.children;
      whose.textContent = name;
      whose.hidden = said.length < 2 && panels.length < 2;
      what.textContent = answer;
      meter.value = confidence ?? 0;
      meter.hidden = confidence === null;
      sure.textContent = confidence === null ? "" : `${percent(confidence)} sure`;
      item.lastChild.append(one);
    }
    return item;
  });
  byId("answers").replaceChildren(...items);
}

async function ask(query) {
  const asked = panels.map(async ({ id, name }) => {
    try {
      const { answers: found } = await connection.ask({ type: "ask", session: id, queries: [query] });
      return { name, answer: found[0].answer, confidence: found[0].confidence };
    } catch (error) {
      return { name, answer: error.message, confidence: null };
    }
  });
  const said = await Promise.all(asked);
  answers = [{ query, said }, ...answers].slice(0, ANSWERS);
  showAnswers();
  save();
}

function addQuestions() {
  for (const { words, choices, digits } of QUESTIONS) {
    const row = document.createElement("div"), label = document.createElement("span");
    Object.assign(label, { textContent: words, id: `question-${byId("questions").children.length}` });
    row.className = "row";
    row.setAttribute("role", "group");
    row.setAttribute("aria-labelledby", label.id);
    row.append(label);
    const choice = document.createElement("select");
    if (digits) {
      choice.id = "before";
      choice.setAttribute("aria-label", "the digit that was shown");
      choice.append(...Array.from({ length: 10 }, (_, one) => new Option(one, one, one === 7, one === 7)));
      row.append(choice);
    }
    for (const [query, text] of choices) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.dataset.query = query;
      button.setAttribute("aria-label", digits ? `ask: ${words} this digit?` : wordsOf(query));
      button.onclick = () => ask(query.replace("#", choice.value));
      row.append(button);
    }
    byId("questions").append(row);
  }
}

byId("retry").onclick = () => connection.retry();
byId("token").onsubmit = (event) => {
  event.preventDefault();
  connection.token = byId("token-text").value.trim();
  byId("token").hidden = true;
  save();
  connection.retry();
};
byId("forget").onclick = () => confirm("Delete this memory for good?") && forget();
byId("time").onchange = save;
addEventListener("pagehide", save);

addQuestions();
wipe();
restore();
connection.connect();
tick();
setInterval(save, 2000);
