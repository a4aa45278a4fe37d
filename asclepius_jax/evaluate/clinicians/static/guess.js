// Page of guesses: a digit chooses a system for the current answer and moves to the next one.
"use strict";

document.documentElement.classList.add("script");

const cards = [...document.querySelectorAll(".guess")];
const isOpen = (card) => !card.querySelector(":checked");
let current = cards.find(isOpen) ?? cards[0];

function goTo(card) {
  current = card;
  (card.querySelector(":checked") ?? card.querySelector("input")).focus({ preventScroll: true });
  card.scrollIntoView({ block: "nearest" });
}

for (const card of cards) card.addEventListener("focusin", () => (current = card));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !/^[1-9]$/.test(event.key)) return;
  const input = current?.querySelectorAll("input")[Number(event.key) - 1];
  if (!input) return;
  event.preventDefault();
  input.checked = true;
  const next = cards.slice(cards.indexOf(current)).find(isOpen) ?? cards.find(isOpen);
  if (next) goTo(next);
  else document.querySelector("button.primary").focus();
});
