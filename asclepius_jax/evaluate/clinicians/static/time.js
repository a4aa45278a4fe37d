// Measure the time for which an item is visible, without the time in which the page is hidden or the rater is idle.
"use strict";

const IDLE_MILLISECONDS = 120_000;
let counted = performance.now();
let touched = counted;
let seconds = 0;

function tick() {
  const now = performance.now();
  if (document.visibilityState === "visible" && now - touched < IDLE_MILLISECONDS) seconds += (now - counted) / 1000;
  counted = now;
}

function countTime() {
  tick();
  if (seconds < 0.1) return;
  navigator.sendBeacon(main.dataset.time, new URLSearchParams({ seconds: seconds.toFixed(2) }));
  seconds = 0;
}

for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "touchstart"]) {
  addEventListener(kind, () => (touched = performance.now()), { passive: true, capture: true });
}
setInterval(tick, 1000);
setInterval(countTime, 10_000);
document.addEventListener("visibilitychange", () => {
  // The time since the last count was visible if the page has just been hidden, and hidden if it has just reappeared.
  const now = performance.now();
  if (document.visibilityState === "hidden") {
    if (now - touched < IDLE_MILLISECONDS) seconds += (now - counted) / 1000;
    counted = now;
    countTime();
  } else {
    counted = touched = now;
  }
});
addEventListener("pagehide", countTime);
