// Live updates and keyboard shortcuts. Every page works without them.
"use strict";

// Regions marked data-live are fetched again and replaced, unless the user is working in them.
const EVERY_MS = 5000;

const inUse = (region) =>
  region.contains(document.activeElement) ||
  [region, ...region.querySelectorAll(".scroll")].some((part) => part.scrollLeft !== 0);

async function refresh() {
  const regions = [...document.querySelectorAll("[data-live]")];
  if (document.hidden || regions.length === 0) return;
  const answer = await fetch(location.href, { redirect: "error" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of regions) {
    const update = fresh.getElementById(region.id);
    if (update && !inUse(region)) region.replaceChildren(...update.childNodes);
  }
}

setInterval(() => refresh().catch(() => {}), EVERY_MS); // a failed request is repeated at the next interval

// Keys of the review page: j and k move between items; the letters in data-key press buttons of the focused item.
const items = [...document.querySelectorAll(".item")];

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (items.length === 0 || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const at = items.findIndex((item) => item.contains(document.activeElement));
  if (event.key === "j" || event.key === "k") {
    const next = items[Math.min(Math.max(at + (event.key === "j" ? 1 : -1), 0), items.length - 1)];
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  } else if (at >= 0) {
    items[at].querySelector(`button[data-key="${CSS.escape(event.key)}"]`)?.click();
  }
});

if (new URLSearchParams(location.search).has("did")) items[0]?.focus();
