// Search in the note. Matches are highlighted without changing the text.
"use strict";

{
  const note = document.getElementById("note");
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  let matches = [];
  let current = 0;

  const nodes = [];
  const walker = document.createTreeWalker(note, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(), start = 0; node; node = walker.nextNode()) {
    nodes.push({ node, start });
    start += node.length;
  }
  const text = note.textContent;

  function place(offset) {
    let index = nodes.length - 1;
    while (nodes[index].start > offset) index--;
    return [nodes[index].node, offset - nodes[index].start];
  }

  function find() {
    matches = [];
    current = 0;
    const wanted = search.value.trim().replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\s+/g, "\\s+");
    for (const match of wanted ? text.matchAll(new RegExp(wanted, "gi")) : []) {
      const range = document.createRange();
      range.setStart(...place(match.index));
      range.setEnd(...place(match.index + match[0].length));
      matches.push(range);
    }
    show();
  }

  function show() {
    found.textContent = !search.value.trim() ? "" : matches.length ? `${current + 1} of ${matches.length}` : "none";
    // Older browsers have no highlights and only scroll to the match.
    if (window.Highlight) {
      CSS.highlights.set("match", new Highlight(...matches));
      CSS.highlights.set("current", new Highlight(...matches.slice(current, current + 1)));
    }
    const match = matches[current];
    if (!match) return;
    const [box, place] = [note.getBoundingClientRect(), match.getBoundingClientRect()];
    if (place.top < box.top || place.bottom > box.bottom) note.scrollTop += place.top - box.top - box.height / 3;
  }

  function step(by) {
    if (matches.length) current = (current + by + matches.length) % matches.length;
    show();
  }

  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") {
      search.value = "";
      find();
      document.querySelector(".answer[data-active]")?.focus({ preventScroll: true });
    } else return;
    event.preventDefault();
  });
  document.getElementById("find-next").addEventListener("click", () => step(1));
  document.getElementById("find-previous").addEventListener("click", () => step(-1));
}
