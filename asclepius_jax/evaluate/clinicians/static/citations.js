// Citations in answers: a button with a number marks that sentence of the note and brings it into view.
"use strict";

let cited = null; // the marked sentence, the citation and the answer that it belongs to, and the button that leads back

// The focus stays on the citation, so that Tab leads to the next one; a screen reader hears the sentence as a status.
function showCited(button) {
  const sentence = document.querySelector(`.sentence[data-number="${button.dataset.cites}"]`);
  const card = button.closest(".answer");
  clearCited();
  const back = document.createElement("button");
  back.type = "button";
  back.className = "small back";
  back.textContent = `Back to ${card.id}`;
  back.setAttribute("aria-label", `Back to answer ${card.id}`);
  back.addEventListener("click", goBack);
  sentence.setAttribute("aria-current", "true");
  sentence.after(back);
  cited = { sentence, button, card, back };
  document.getElementById("cited").textContent = `Sentence ${button.dataset.cites} of the note: ${sentence.textContent}`;
  const fits = sentence.getBoundingClientRect().height < document.getElementById("note").clientHeight;
  sentence.scrollIntoView({ block: fits ? "center" : "start" });
  button.focus({ preventScroll: true });
}

function clearCited() {
  cited?.sentence.removeAttribute("aria-current");
  cited?.back.remove();
  document.getElementById("cited").textContent = "";
  cited = null;
}

// Clears the mark and returns to the citation, or to its answer if its text has been replaced. False without a mark.
function goBack() {
  if (!cited) return false;
  const { button, card } = cited;
  clearCited();
  if (button.isConnected) {
    button.focus({ preventScroll: true });
    button.scrollIntoView({ block: "nearest" });
  } else goTo(card);
  return true;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest(".cite");
  if (button) showCited(button);
});
