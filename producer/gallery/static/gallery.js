// The page works without this script. The script reports the progress of a search, explains missing images, and turns
// pages with the arrow keys. Texts are only ever set as text, never as HTML.
"use strict";

const progress = document.getElementById("progress");

/** Ask for the progress until the search and the counts are complete. Load the page again when it has all its images. */
async function follow() {
  const response = await fetch(progress.dataset.progress);
  if (!response.ok) return;
  const state = await response.json();
  if (state.ready && "waits" in progress.dataset) {
    location.reload();
    return;
  }
  progress.textContent = state.text;
  if (state.options) showOptions(state.options, state.hosts);
  if (!state.complete) setTimeout(follow, 100);
}

/** Replace the options of the filters by those that the run has, with their numbers of images. */
function showOptions(options, hosts) {
  for (const [name, values] of Object.entries(options)) {
    const select = document.querySelector(`select[name="${name}"]`);
    const selected = select.value;
    const known = values.map(([value, text]) => new Option(text, value, false, value === selected));
    select.replaceChildren(select.options[0], ...known);
  }
  document.getElementById("hosts").replaceChildren(...hosts.map((host) => new Option("", host)));
}

/** Show why an image is missing, in place of the image. */
async function explain(image) {
  const why = document.createElement("span");
  why.className = "why";
  image.replaceWith(why);
  const response = await fetch(image.src);
  why.textContent = response.ok ? "This browser can't show the image." : await response.text();
}

if (progress?.dataset.progress) follow();

for (const image of document.querySelectorAll(".tile img")) {
  if (image.complete && image.src && !image.naturalWidth && image.currentSrc) explain(image);
  else image.addEventListener("error", () => explain(image), { once: true });
}

document.addEventListener("keydown", (event) => {
  const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const typing = event.target.closest?.("input, select, textarea");
  if (!rel || typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  document.querySelector(`a[rel="${rel}"]`)?.click();
});
