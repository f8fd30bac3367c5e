/* After pages/base.js. */
const sides = [byId("left"), byId("right")];
let state = null, since = 0, busy = false;

/* An answer that is on its way, or a picture that is, makes the page busy: nothing can be judged then, and it shows. */
function setBusy(now) {
  busy = now;
  document.body.setAttribute("aria-busy", now);
}

/* The pair is shown when both pictures are there; only then do keys count, and the time. */
async function show(next) {
  state = next;
  byId("progress").textContent = `${state.done} of ${state.total}`;
  byId("undo").disabled = !state.undo;
  byId("pair").hidden = byId("keys").hidden = state.place === null;
  if (state.place === null) {
    byId("prompt").textContent = "All judged. Thank you.";
    byId("said").textContent = "You can close this page.";
    return;
  }
  byId("said").textContent = "";
  byId("prompt").textContent = state.prompt;
  const loads = sides.map(image => new Promise(done => { image.onload = () => done(true); image.onerror = () => done(false); image.src = `/picture/${state.place}/${image.id}`; }));
  const there = await Promise.all(loads);
  if (there.includes(false)) byId("said").textContent = "A picture can no longer be read; judge it a tie, or go on later.";
  since = performance.now();
  if (state.ahead !== null) for (const image of sides) new Image().src = `/picture/${state.ahead}/${image.id}`;
}

async function send(path, body) {
  if (busy) return;
  setBusy(true);
  try {
    const answer = path === "/state" ? await fetch(path) : await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(await answer.text());
    await show(await answer.json());
  } catch (error) {
    byId("said").textContent = error instanceof TypeError ? "The server has ended; what you judged is kept." : error.message;
  } finally {
    setBusy(false);
  }
}
const judge = choice => { if (state !== null && state.place !== null) send("/judge", { place: state.place, choice, seconds: (performance.now() - since) / 1000 }); };
const undo = () => { if (state !== null && state.undo) send("/undo", {}); };

for (const button of document.querySelectorAll("[data-choice]")) button.addEventListener("click", () => { judge(button.dataset.choice); button.blur(); });
byId("undo").addEventListener("click", () => { undo(); byId("undo").blur(); });
addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = { 1: "left", 2: "right", t: "tie", b: "both_bad" }[event.key.toLowerCase()];
  if (choice) judge(choice);
  else if (event.key.toLowerCase() === "z") undo();
});
send("/state");
