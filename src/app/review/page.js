// The review page: shows one pair at a time and sends every change at once. All text is set as text, never as HTML.
"use strict";

const CRITERIA = [
  ["clarity", "Clarity", "Is the question clear by itself?"],
  ["accuracy", "Accuracy", "Does the answer agree with the source?"],
  ["relevance", "Relevance", "Does it answer a question that matters?"],
  ["overall", "Overall", "Would you want it in the dataset?"],
];
const EMPTY = { clarity: null, accuracy: null, relevance: null, overall: null, decision: null, note: "" };

const $ = (id) => document.getElementById(id);
let states = [];
let current = null;
let rating = { ...EMPTY };
let active = 0;
let history = [];
let saving = Promise.resolve(true);
let unsaved = null;
// While the next pair is on its way, keys wait for it: they are meant for that one, never for the pair just decided.
let moving = 0;
let waiting = [];

const decided = () => states.filter((state) => state === "accept" || state === "reject").length;
const say = (text) => { $("status").textContent = text; };

function fault(text) {
  $("fault-text").textContent = text;
  $("fault").hidden = !text;
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const text = await answer.text();
  if (!answer.ok) {
    let message = `the server answered ${answer.status}`;
    try { message = JSON.parse(text).error || message; } catch { /* no message came */ }
    throw new Error(message);
  }
  return JSON.parse(text);
}

// One save after the other, the newest state of each pair. Resolves to whether it is on disk.
function save() {
  const change = { index: current.index, id: current.id, rating: { ...rating } };
  unsaved = change;
  saving = saving.then(async () => {
    try {
      const shown = await ask("rate", change);
      if (unsaved === change) unsaved = null;
      states[change.index] = stateOf(change.rating);
      if (current && current.index === change.index) { current.judge = shown.judge; judge(); }
      progress();
      fault("");
      return true;
    } catch (error) {
      fault(error instanceof TypeError
        ? "Not saved: the server does not answer. What was saved before is kept; start qaflow review again and open its new link."
        : `Not saved: ${error.message}`);
      return false;
    }
  });
  return saving;
}

function stateOf(given) {
  if (given.decision) return given.decision;
  return CRITERIA.some(([name]) => given[name]) || given.note ? "begun" : "open";
}

function progress() {
  const done = decided();
  $("progress").max = Math.max(states.length, 1);
  $("progress").value = done;
  $("count").textContent = `${done} of ${states.length} reviewed`;
}

function buildMarks() {
  CRITERIA.forEach(([name, title, meaning], at) => {
    const field = document.createElement("fieldset");
    field.id = name;
    field.setAttribute("role", "group");
    field.setAttribute("aria-labelledby", `${name}-title`);
    const label = document.createElement("div");
    label.className = "criterion";
    const strong = document.createElement("b");
    strong.id = `${name}-title`;
    strong.textContent = title;
    const small = document.createElement("small");
    small.textContent = meaning;
    label.append(strong, small);
    const buttons = document.createElement("div");
    buttons.className = "buttons";
    for (let value = 1; value <= 5; value += 1) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = value;
      button.setAttribute("aria-label", `${title}: ${value} of 5`);
      button.addEventListener("click", () => { active = at; mark(value); });
      buttons.append(button);
    }
    field.append(label, buttons);
    $("marks").append(field);
  });
}

function paint() {
  CRITERIA.forEach(([name], at) => {
    const field = $(name);
    field.classList.toggle("active", at === active);
    field.querySelectorAll("button").forEach((button, value) => {
      button.setAttribute("aria-pressed", String(rating[name] === value + 1));
    });
  });
  $("accept").setAttribute("aria-pressed", String(rating.decision === "accept"));
  $("reject").setAttribute("aria-pressed", String(rating.decision === "reject"));
  if (document.activeElement !== $("note")) $("note").value = rating.note;
  $("hint").hidden = true;
  $("back").disabled = current.index === 0;
  $("undo").disabled = history.length === 0;
  judge();
}

function judge() {
  const marks = current.judge;
  $("judge").hidden = !marks;
  if (marks) $("judge").textContent = `The model's judge gave: ${CRITERIA.map(([, title], at) => `${title.toLowerCase()} ${marks[at]}`).join(", ")}.`;
}

function showSource(source) {
  const text = $("text");
  text.replaceChildren(...source.pieces.map((piece) => {
    const element = document.createElement(piece.kind === "quote" ? "mark" : "span");
    element.className = piece.kind;
    element.textContent = piece.text;
    return element;
  }));
  $("warning").hidden = !source.warning;
  $("warning").textContent = source.warning || "";
  const quote = text.querySelector("mark");
  if (quote) {
    const place = quote.getBoundingClientRect().top - text.getBoundingClientRect().top + text.scrollTop;
    text.scrollTop = Math.max(0, place - text.clientHeight / 3);
  } else {
    text.scrollTop = 0;
  }
}

async function show(index) {
  moving += 1;
  try {
    await load(index);
  } finally {
    moving -= 1;
    flush();
  }
}

function flush() {
  while (!moving && waiting.length) press(waiting.shift());
}

async function load(index) {
  if (!(await saving) && unsaved) return;
  try {
    current = await ask(`pair/${index}`);
  } catch (error) {
    fault(error instanceof TypeError
      ? "The server does not answer. What you gave is kept; start qaflow review again and open its new link."
      : `This pair cannot be shown: ${error.message}`);
    return;
  }
  rating = { ...EMPTY, ...(current.rating || {}) };
  active = Math.max(0, CRITERIA.findIndex(([name]) => !rating[name]));
  $("done").hidden = true;
  $("main").hidden = false;
  $("place").textContent = `Pair ${index + 1}`;
  $("type").textContent = current.question_type;
  $("question").textContent = current.question;
  $("answer").textContent = current.answer;
  $("document").textContent = current.document;
  $("document").title = current.document;
  $("page").textContent = current.pages > 1 ? `page ${current.page} of ${current.pages}` : `page ${current.page}`;
  if (document.activeElement === $("note")) $("note").blur();
  paint();
  showSource(current.source);
  document.title = `${index + 1} of ${states.length} · Review · qaflow`;
  $("question").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function finish() {
  waiting = [];
  $("main").hidden = true;
  $("done").hidden = false;
  const accepted = states.filter((state) => state === "accept").length;
  $("done-title").textContent = states.length ? "All reviewed. Thank you." : "There is nothing to review.";
  $("done-text").textContent = states.length
    ? `${states.length} pairs: ${accepted} accepted, ${states.length - accepted} rejected.`
    : "The dataset holds no pairs.";
  document.title = "Done · Review · qaflow";
  $("done-title").focus();
  say($("done-title").textContent);
}

function change(edit) {
  history.push({ index: current.index, rating: { ...rating } });
  edit();
  paint();
  return save();
}

function mark(value) {
  if (moving) return;
  const [name, title] = CRITERIA[active];
  change(() => { rating[name] = value; active = Math.min(active + 1, CRITERIA.length - 1); });
  say(`${title} ${value}`);
}

async function decide(decision) {
  if (moving) return;
  const missing = CRITERIA.findIndex(([name]) => !rating[name]);
  if (decision === "accept" && missing >= 0) {
    active = missing;
    paint();
    const hint = `First give a mark for ${CRITERIA[missing][1].toLowerCase()}.`;
    $("hint").textContent = hint;
    $("hint").hidden = false;
    say(hint);
    return;
  }
  const index = current.index;
  moving += 1;
  const kept = await change(() => { rating.decision = decision; });
  moving -= 1;
  if (!kept) { waiting = []; return; }
  say(decision === "accept" ? "Accepted" : "Rejected");
  const open = (state) => state !== "accept" && state !== "reject";
  let next = states.findIndex((state, at) => at > index && open(state));
  if (next < 0) next = states.findIndex(open);
  if (next < 0) finish();
  else await show(next);
}

async function undo() {
  const last = history.pop();
  if (!last) { say("Nothing to undo"); return; }
  moving += 1;
  if (!current || current.index !== last.index || $("main").hidden) await show(last.index);
  moving -= 1;
  if (current.index !== last.index) { history.push(last); return; }
  rating = { ...last.rating };
  active = Math.max(0, CRITERIA.findIndex(([name]) => !rating[name]));
  paint();
  const kept = save();
  flush();
  await kept;
  say("Undone");
}

const step = (by) => {
  const index = (current ? current.index : 0) + by;
  if (index >= 0 && index < states.length) show(index);
  else if (index >= states.length && decided() === states.length) finish();
};

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || (event.ctrlKey && event.key !== "z")) return;
  const note = event.target === $("note");
  if (note) {
    if (event.key === "Escape") { $("note").blur(); event.preventDefault(); }
    return;
  }
  if (!current) return;
  const scrolling = event.target === $("text");
  const key = event.ctrlKey ? "u" : event.key.toLowerCase();
  if (scrolling && (key === "arrowup" || key === "arrowdown")) return;
  if (moving) waiting.push(key);
  else if (!press(key)) return;
  event.preventDefault();
});

// Does what a key means; whether it means anything.
function press(key) {
  const rated = !$("main").hidden;
  if (rated && key >= "1" && key <= "5" && key.length === 1) mark(Number(key));
  else if (rated && key === "a") decide("accept");
  else if (rated && key === "r") decide("reject");
  else if (rated && key === "n") $("note").focus();
  else if (key === "u") undo();
  else if (key === "arrowleft") step($("main").hidden ? 0 : -1);
  else if (key === "arrowright" && rated) step(1);
  else if (key === "arrowup" && rated) { active = Math.max(0, active - 1); paint(); }
  else if (key === "arrowdown" && rated) { active = Math.min(CRITERIA.length - 1, active + 1); paint(); }
  else return false;
  return true;
}

let typing = 0;
function keepNote() {
  clearTimeout(typing);
  if (current && $("note").value !== rating.note) change(() => { rating.note = $("note").value; });
}
$("note").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(keepNote, 600); });
$("note").addEventListener("blur", keepNote);
$("accept").addEventListener("click", () => decide("accept"));
$("reject").addEventListener("click", () => decide("reject"));
$("back").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("undo").addEventListener("click", undo);
$("again").addEventListener("click", () => { if (states.length) show(0); });
$("retry").addEventListener("click", async () => {
  if (unsaved && current && unsaved.index === current.index) await save();
  else { fault(""); await begin(); }
});
window.addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });

async function begin() {
  try {
    const session = await ask("session");
    states = session.states;
    $("reviewer").textContent = session.reviewer;
    progress();
    const open = states.findIndex((state) => state !== "accept" && state !== "reject");
    if (open < 0) finish();
    else await show(open);
  } catch (error) {
    fault(`The review cannot be loaded: ${error.message}`);
  }
}

buildMarks();
begin();
