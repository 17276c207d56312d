
"use strict";
const PERIOD = 2000, LIMIT = 5000;
const byId = (id) => document.getElementById(id);
const search = byId("q");

// Brings an element in line with a fresh one. What did not change is not touched, and what is open stays open.
function sync(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.dataset.keep !== undefined) return;
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  const keyOf = (node) => (node.dataset ? node.dataset.key : undefined);
  const kept = new Map();
  for (const child of old.children) if (keyOf(child)) kept.set(keyOf(child), child);
  let at = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const key = keyOf(want), have = key ? kept.get(key) : at;
    if (have && have.nodeName === want.nodeName && keyOf(have) === key) {
      if (have !== at) old.insertBefore(have, at);
      sync(have, want);
      at = have.nextSibling;
    } else {
      old.insertBefore(want, at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
// What was focused or selected stays so where it is still there.
function holding(change) {
  const selection = getSelection(), focus = document.activeElement;
  const ends = [selection.anchorNode, selection.anchorOffset, selection.focusNode, selection.focusOffset];
  const within = (node, offset) => Math.min(offset, node.nodeType === Node.TEXT_NODE ? node.length : node.childNodes.length);
  const wide = !selection.isCollapsed;
  change();
  const [from, start, to, end] = ends;
  const moved = from !== selection.anchorNode || start !== selection.anchorOffset || to !== selection.focusNode || end !== selection.focusOffset;
  if (wide && moved && from.isConnected && to.isConnected) selection.setBaseAndExtent(from, within(from, start), to, within(to, end));
  if (focus && focus.isConnected && focus !== document.activeElement) focus.focus({ preventScroll: true });
}
// The verdict is read out when it changes; that a time in it goes on is no news.
function announce(text) {
  const untimed = (words) => words.replace(/\b(\d+[dhm])?[\d.]+[dhms]\b/g, "");
  return untimed(byId("verdict").textContent) === untimed(text) ? "off" : "polite";
}
function show(page) {
  const verdict = page.getElementById("verdict");
  verdict.setAttribute("aria-live", announce(verdict.textContent));
  holding(() => sync(document.querySelector("main"), page.querySelector("main")));
  document.title = page.title;
  document.body.className = "";
}
function fail(why) {
  const verdict = byId("verdict"), text = "No answer from sidecast (" + why + "): this is how it was, " + byId("clock").textContent;
  document.title = "? no answer · sidecast";
  document.body.className = "stale";
  verdict.setAttribute("aria-live", announce(text));
  verdict.className = "quiet";
  if (verdict.textContent !== text) verdict.replaceChildren(text);
}
let asking = null, timer = setTimeout(refresh, PERIOD);
async function refresh() {
  clearTimeout(timer);
  if (asking) asking.abort();
  const mine = asking = new AbortController();
  const limit = setTimeout(() => mine.abort(), LIMIT);
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: mine.signal });
    if (!answer.ok) throw new Error("status " + answer.status);
    const text = await answer.text();
    if (mine !== asking) return;
    show(new DOMParser().parseFromString(text, "text/html"));
  } catch (error) {
    if (mine !== asking) return;
    fail(error.name === "AbortError" ? "none in time" : error.message);
  } finally {
    clearTimeout(limit);
  }
  timer = setTimeout(refresh, PERIOD);
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("nav a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.replaceState(null, "", link.href);
  refresh();
});
search.value = new URL(location.href).searchParams.get("q") || "";
search.addEventListener("input", () => {
  const url = new URL(location.href);
  if (search.value) url.searchParams.set("q", search.value);
  else url.searchParams.delete("q");
  history.replaceState(null, "", url);
  clearTimeout(timer);
  timer = setTimeout(refresh, 150);
});
search.parentNode.hidden = false;
