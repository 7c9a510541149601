// Live updates, the state of the connection, and keyboard shortcuts. Every page works without them.
"use strict";

// Regions marked data-live are fetched again and replaced, unless the user is working in them.
const REFRESH_MS = 5000;
const ASK_MS = 2000;
const PATIENCE_MS = 4000; // a daemon that takes longer counts as lost

// On a phone the menu is wider than the screen.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

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

// Selects all rows of a table, or none.
document.documentElement.classList.add("scripts");
document.addEventListener("change", (event) => {
  if (event.target.id !== "select-all") return;
  for (const box of document.querySelectorAll("[name=report_ids]")) box.checked = event.target.checked;
});

// Keys of the review page: j and k go through the list; the letters in data-key press buttons.
const waiting = [...document.querySelectorAll("#queue a")];
const isShown = (link) => link.hasAttribute("aria-current");
waiting.find(isShown)?.scrollIntoView({ block: "nearest" });

function show(place) {
  const link = waiting[Math.min(Math.max(place, 0), waiting.length - 1)];
  // marked at once: a second key before the next page is there goes on from here
  for (const other of waiting) other.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  link.click();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (waiting.length && (event.key === "j" || event.key === "k")) {
    show(waiting.findIndex(isShown) + (event.key === "j" ? 1 : -1));
  } else {
    document.querySelector(`button[data-key="${CSS.escape(event.key)}"]`)?.click();
  }
});
