"use strict";
/* The first part of every page's script; the page's own part follows it. */
const byId = id => document.getElementById(id), block = id => JSON.parse(byId(id).textContent);
const root = document.documentElement, many = number => number.toLocaleString("en");

/* Light and dark: as the system says until the button says otherwise; the style sheet does the same. */
const system = matchMedia("(prefers-color-scheme: dark)"), modeButton = byId("mode");
const mode = () => root.dataset.mode ?? (system.matches ? "dark" : "light");
function showMode() {
  const other = mode() === "dark" ? "Light" : "Dark";
  modeButton.textContent = other;
  modeButton.setAttribute("aria-label", `Switch to ${other.toLowerCase()} colours`);
  dispatchEvent(new Event("modechange"));
}
if (modeButton) {
  modeButton.addEventListener("click", () => { root.dataset.mode = mode() === "dark" ? "light" : "dark"; showMode(); });
  system.addEventListener("change", showMode);
  showMode();
}

/* The filter of a gallery: "/" goes to it. */
const filter = byId("filter"), count = byId("count");
if (filter) {
  filter.form.addEventListener("submit", event => event.preventDefault());
  addEventListener("keydown", event => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); filter.focus(); filter.select(); }
  });
}
