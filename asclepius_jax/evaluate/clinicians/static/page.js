// Page of one item: sends every change at once and in order, and handles keys and the marking of words.
"use strict";

const main = document.querySelector("main.item");
const cards = [...document.querySelectorAll(".answer")];
const saved = document.getElementById("saved");
const keys = document.getElementById("keys");
const shortcuts = document.getElementById("shortcuts");
let active = null;

document.documentElement.classList.add("script");

// ---------------------------------------------------------------- saving

// One request at a time, so that two clicks on one question arrive in order.
let queue = Promise.resolve();
let waiting = 0;

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function showStatus(text, wrong = false) {
  saved.textContent = text;
  saved.classList.toggle("wrong", wrong);
}

// Returns the reply, or null if the server refuses. Retries until a server that is unreachable or busy replies.
async function send(action, fields) {
  for (let attempt = 0; ; attempt++) {
    try {
      const body = new URLSearchParams(fields);
      const response = await fetch(action, { method: "POST", body, headers: { Accept: "application/json" } });
      if (response.status < 500) {
        const reply = await response.json();
        if (response.ok) return reply;
        showStatus(reply.error, true);
        return null;
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // fetch's own name for "no connection"
    }
    showStatus("Not saved: the server does not reply, retrying …", true);
    await pause(Math.min(5000, 500 * 2 ** attempt));
  }
}

function change(card, fields) {
  const action = card.querySelector(".verdict").getAttribute("action");
  waiting++;
  showStatus("Saving …");
  const reply = queue.then(() => send(action, fields)).then((reply) => {
    waiting--;
    if (reply) {
      show(card, reply);
      if (!waiting) showStatus(`Saved ${new Date().toLocaleTimeString([], { hour12: false })}`);
    }
    return reply;
  });
  queue = reply.catch(() => {});
  return reply;
}

function show(card, reply) {
  card.querySelector(".score").textContent = reply.score_text;
  card.dataset.score = reply.score ?? "";
  // While later clicks are still being sent, the page knows more than the reply to an earlier one.
  card.dataset.complete = (waiting ? filledIn(card) : reply.complete) ? "yes" : "no";
  const text = card.querySelector(".answer-text");
  const fresh = document.createElement("div");
  fresh.innerHTML = reply.text;
  // Unchanged text is not replaced, which would drop a selection.
  if (fresh.innerHTML !== text.innerHTML) {
    text.replaceChildren(...fresh.childNodes);
    showMarking(card);
  }
  card.querySelector(".marks").innerHTML = reply.marks;
  if (document.querySelector(".badge")) card.querySelector(".feedback").innerHTML = reply.feedback;
  document.getElementById("done").textContent = reply.done;
  document.getElementById("progress").value = reply.done;
  showState();
}

function openCards() {
  return cards.filter((card) => card.dataset.complete === "no");
}

function showState() {
  const left = openCards();
  const next = document.getElementById("next");
  document.getElementById("state").textContent = `${cards.length - left.length} of ${cards.length} answers scored`;
  next.replaceChildren(left.length ? `Continue with answer ${upcoming().id} ` : `${next.dataset.label} `, key("Enter"));
  for (const row of document.querySelectorAll(".rubric li")) {
    row.toggleAttribute("data-current", Boolean(active) && row.dataset.score === active.dataset.score);
  }
}

function key(name) {
  const element = document.createElement("kbd");
  element.textContent = name;
  return element;
}

// Sends all changes before leaving the page. Keys pressed in the meantime are ignored: they are meant for the next page.
async function leave(address) {
  if (main.inert) return;
  main.inert = true;
  cards.forEach(sendComment);
  await queue;
  countTime();
  location.assign(address);
}

addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

addEventListener("beforeunload", (event) => {
  if (waiting) event.preventDefault();
});

// ---------------------------------------------------------------- answers

// Computed on the page as well, so that Enter continues before the server has replied.
function filledIn(card) {
  const chosen = [...card.querySelectorAll(".verdict :checked")];
  const settled = new Set(chosen.flatMap((input) => [input.name, input.dataset.settles]));
  return settled.has("cannot_judge") || ["incorrect", "omitted", "treatment"].every((name) => settled.has(name));
}

function activate(card) {
  if (active) tick(); // until here, the time is that of the answer before
  active = card;
  for (const other of cards) other.toggleAttribute("data-active", other === card);
  showState();
}

function goTo(card, options) {
  card.focus(options);
  activate(card);
  if (!options) card.scrollIntoView({ block: "start" });
}

// The first open answer after the current one, otherwise the first open one.
function upcoming() {
  const left = openCards();
  return left.find((card) => cards.indexOf(card) > cards.indexOf(active)) ?? left[0];
}

function goOn() {
  const card = upcoming();
  if (card) goTo(card);
  else leave(main.dataset.next);
}

for (const card of cards) {
  card.addEventListener("focusin", () => activate(card));
  card.addEventListener("click", () => activate(card));
  const form = card.querySelector(".verdict");
  form.addEventListener("change", (event) => {
    const input = event.target;
    if (input.name === "comment") sendComment(card);
    else {
      card.dataset.complete = filledIn(card) ? "yes" : "no";
      change(card, { [input.name]: input.type === "checkbox" && !input.checked ? "no" : input.value });
      showState();
    }
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const comment = form.elements.comment;
  comment.addEventListener("input", () => {
    fit(comment);
    clearTimeout(comment.timer);
    comment.timer = setTimeout(() => sendComment(card), 400);
  });
  comment.sent = comment.value;
  fit(comment);
  card.querySelector(".unmark").addEventListener("submit", (event) => {
    event.preventDefault();
    change(card, { unmark: event.submitter.value });
    card.focus();
  });
  const marking = card.querySelector(".mark");
  marking.addEventListener("submit", (event) => {
    event.preventDefault();
    change(card, new FormData(marking)).then((reply) => {
      if (!reply) return;
      marking.reset();
      marking.elements.place.value = "";
      card.querySelector(".marking").open = false;
      goTo(card, { preventScroll: true });
    });
  });
  // Words typed by hand have no place, so the server searches for them.
  marking.elements.quote.addEventListener("input", () => (marking.elements.place.value = ""));
}

function fit(comment) {
  comment.style.height = "auto";
  comment.style.height = `${comment.scrollHeight + 2}px`;
}

function sendComment(card) {
  const comment = card.querySelector("textarea");
  clearTimeout(comment.timer);
  if (comment.value === comment.sent) return;
  comment.sent = comment.value;
  change(card, { comment: comment.value });
}

// ---------------------------------------------------------------- marking

// The server counts places in characters, the browser in UTF-16 units. They differ after an emoji.
function characters(text) {
  return [...text].length;
}

// The selection within an answer's text as [start, end) in UTF-16 units, or null.
function selected(text) {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  if (!text.contains(range.startContainer) || !text.contains(range.endContainer)) return null;
  const before = document.createRange();
  before.selectNodeContents(text);
  before.setEnd(range.startContainer, range.startOffset);
  const start = before.toString().length;
  const words = range.toString();
  const lead = words.length - words.trimStart().length;
  return words.trim() ? [start + lead, start + lead + words.trim().length] : null;
}

function select(text, start, end) {
  const range = document.createRange();
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  let done = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (start >= done && start <= done + node.length) range.setStart(node, start - done);
    if (end >= done && end <= done + node.length) {
      range.setEnd(node, end - done);
      break;
    }
    done += node.length;
  }
  getSelection().removeAllRanges();
  getSelection().addRange(range);
}

// Copies the selected words into the form that marks them.
function take(card) {
  const text = card.querySelector(".answer-text");
  const place = selected(text);
  if (!place) return;
  const [start, end] = place.map((offset) => characters(text.textContent.slice(0, offset)));
  const form = card.querySelector(".mark").elements;
  form.quote.value = text.textContent.slice(...place);
  form.place.value = `${start}-${end}`;
  card.querySelector(".marking").open = true;
}

document.addEventListener("selectionchange", () => cards.forEach(take));

// Marking by keyboard: keys move the selection word by word.
function beginMarking(card) {
  const text = card.querySelector(".answer-text");
  text.focus();
  const words = [...text.textContent.matchAll(/\S+/g)].map((word) => [word.index, word.index + word[0].length]);
  if (words.length) card.marking = { words, anchor: 0, cursor: 0 };
  showMarking(card);
}

function showMarking(card) {
  if (!card.marking) return;
  const { words, anchor, cursor } = card.marking;
  const text = card.querySelector(".answer-text");
  select(text, words[Math.min(anchor, cursor)][0], words[Math.max(anchor, cursor)][1]);
}

function markingKey(card, event) {
  const state = card.marking;
  const last = state.words.length - 1;
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8, Home: -last, End: last };
  if (event.key in moves) {
    state.cursor = Math.max(0, Math.min(last, state.cursor + moves[event.key]));
    if (!event.shiftKey) state.anchor = state.cursor;
    showMarking(card);
  } else if (event.key === "Enter") {
    card.marking = null;
    take(card); // not left to the selectionchange event, which may fire after the next key
    card.querySelector(".mark [name=type]").focus();
  } else if (event.key === "Escape") {
    endMarking(card);
  } else return;
  event.preventDefault();
}

function endMarking(card) {
  card.marking = null;
  getSelection().removeAllRanges();
  card.querySelector(".mark").reset();
  card.querySelector(".mark").elements.place.value = "";
  card.querySelector(".marking").open = false;
  goTo(card, { preventScroll: true });
}

// ---------------------------------------------------------------- keys

// A digit chooses an option of the current form: the mark's while one is being made, otherwise the verdict's.
function press(name, marking) {
  const inputs = [...(marking ?? active.querySelector(".verdict")).querySelectorAll("[type=radio], [type=checkbox]")];
  const input = inputs["1234567890".indexOf(name)];
  input?.click();
  if (marking) input?.focus();
}

function showKeys() {
  keys.showModal();
  document.getElementById("close").focus();
}

const actions = {
  Enter: goOn,
  n: () => leave(main.dataset.next),
  p: () => leave(main.dataset.previous),
  j: () => goTo(cards[Math.min(cards.length - 1, cards.indexOf(active) + 1)]),
  k: () => goTo(cards[Math.max(0, cards.indexOf(active) - 1)]),
  m: () => beginMarking(active),
  c: () => active.querySelector("textarea").focus(),
  "/": () => document.getElementById("search").focus(),
  "?": showKeys,
};

document.addEventListener("keydown", (event) => {
  const target = event.target;
  const typing = target.matches("textarea, select, input:not([type=radio]):not([type=checkbox])");
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || keys.open || main.inert) return;
  const card = target.closest(".answer");
  const marking = target.closest(".mark");
  if (event.key === "Escape" && !typing && !marking && !card?.marking && goBack()) return;
  if (event.key === "Escape" && card && !card.marking) {
    if (target.matches("textarea")) sendComment(card);
    if (marking) endMarking(card);
    else goTo(card, { preventScroll: true });
  }
  if (typing) return;
  // Leave these keys to the browser, which presses the button, follows the link or submits the mark.
  if ((marking || target.matches("button, summary, a")) && (event.key === "Enter" || event.key === " ")) return;
  if (card?.marking && target.matches(".answer-text")) {
    markingKey(card, event);
    return;
  }
  if (!shortcuts.checked || event.repeat) return;
  if (/^[0-9]$/.test(event.key)) press(event.key, marking);
  else if (Object.hasOwn(actions, event.key)) actions[event.key]();
  else return;
  event.preventDefault();
});

document.getElementById("help").addEventListener("click", showKeys);
shortcuts.checked = localStorage.getItem("shortcuts") !== "off";
shortcuts.addEventListener("change", () => localStorage.setItem("shortcuts", shortcuts.checked ? "on" : "off"));

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.id === "next") goOn();
  else leave(link.href);
});

goTo(document.getElementById(location.hash.slice(1)) ?? openCards()[0] ?? cards[0], { preventScroll: true });
