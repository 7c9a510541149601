// Live updates, the state of the connection, and keyboard shortcuts. Every page works without them.
"use strict";

// Regions marked data-live are fetched again and replaced, unless the user is working in them.
const REFRESH_MS = 5000;
const ASK_MS = 2000;
const PATIENCE_MS = 4000; // a daemon that takes longer counts as lost

const connection = document.getElementById("connection");
const regions = [...document.querySelectorAll("[data-live]")];
const clock = () => `${new Date().toISOString().slice(11, 19)} UTC`;
let fresh = clock(); // when the page was last known to be right
let stale = false;

const inUse = (region) =>
  region.contains(document.activeElement) ||
  region.querySelector("[type=checkbox]:checked") !== null ||
  [region, ...region.querySelectorAll(".scroll")].some((part) => part.scrollLeft !== 0);

const get = (address) =>
  fetch(address, { redirect: "manual", cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });

// Fetches the page if it has live regions, else asks whether the daemon is there. Throws why the page is stale.
async function refresh() {
  const answer = await get(regions.length ? location.href : "/livez").catch(() => {
    throw new Error("the daemon does not answer");
  });
  if (answer.type === "opaqueredirect") throw new Error("the session has ended; reload the page to sign in");
  if (!regions.length) return; // any answer tells that it is there
  if (!answer.ok) throw new Error(`the daemon answers with error ${answer.status}`);
  const update = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of regions) {
    const found = update.getElementById(region.id);
    if (found && !inUse(region)) region.replaceChildren(...found.childNodes);
  }
}

// The status line is written only when something changes: assistive technology reads each change aloud.
function tell(text) {
  if (connection.textContent !== text) connection.textContent = text;
}

async function look() {
  if (document.hidden) return;
  try {
    await refresh();
    fresh = clock();
    if (stale) tell(`Up to date again since ${fresh}.`);
    else tell("");
    stale = false;
  } catch (error) {
    stale = true;
    tell(`Stale since ${fresh}: ${error.message}.`);
  }
  connection.classList.toggle("lost", stale);
}

if (connection) {
  const again = () => look().finally(() => setTimeout(again, stale || !regions.length ? ASK_MS : REFRESH_MS));
  setTimeout(again, ASK_MS);
  for (const event of ["online", "offline", "visibilitychange"]) addEventListener(event, look);
}

// Selects all rows of a table, or none. It works with scripts only, so it is hidden without.
const selectAll = document.getElementById("select-all");
if (selectAll) {
  document.addEventListener("change", (event) => {
    if (event.target.id !== "select-all") return;
    for (const box of document.querySelectorAll("[name=report_ids]")) box.checked = event.target.checked;
  });
}

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
