// Measure the time for which an item is visible, by the answer that is the current one, without the time in which the page
// is hidden or the rater is idle.
"use strict";

const IDLE_MILLISECONDS = 120_000;
let counted = performance.now();
let touched = counted;
let seconds = {}; // by the label of the answer that is current

function tick(visible = document.visibilityState === "visible") {
  const now = performance.now();
  if (visible && now - touched < IDLE_MILLISECONDS) {
    seconds[active.id] = (seconds[active.id] ?? 0) + (now - counted) / 1000;
  }
  counted = now;
}

function countTime() {
  tick();
  if (Object.values(seconds).reduce((sum, each) => sum + each, 0) < 0.1) return;
  navigator.sendBeacon(main.dataset.time, new URLSearchParams(seconds));
  seconds = {};
}

for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "touchstart"]) {
  addEventListener(kind, () => (touched = performance.now()), { passive: true, capture: true });
}
setInterval(() => tick(), 1000);
setInterval(countTime, 10_000);
document.addEventListener("visibilitychange", () => {
  // The time since the last count was visible if the page has just been hidden, and hidden if it has just reappeared.
  if (document.visibilityState === "hidden") {
    tick(true);
    countTime();
  } else {
    counted = touched = performance.now();
  }
});
addEventListener("pagehide", countTime);
