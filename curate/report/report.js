/* After pages/base.js. */
const specs = block("specs"), palettes = block("palettes"), missing = block("missing");
const live = document.body.hasAttribute("data-live");

/* Charts: a spec names its colours by role; each is drawn when it comes near, and again in other colours. */
async function draw(plot) {
  plot.dataset.drawn = "";
  const palette = palettes[mode()];
  const spec = JSON.parse(JSON.stringify(specs[plot.dataset.figure]).replace(/"@(\w+)"/g, (_, role) => JSON.stringify(palette[role])));
  const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true, theme: "custom" } };
  plot.view?.finalize();
  plot.view = (await vegaEmbed(plot, spec, options)).view;
  plot.style.minHeight = "";
}
function whenNear(items, act, margin) {
  const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); act(entry.target); }
  }, { rootMargin: margin });
  for (const item of items) watcher.observe(item);
}
addEventListener("modechange", () => document.querySelectorAll(".plot[data-drawn]").forEach(draw));
whenNear(document.querySelectorAll(".plot"), draw, "400px");
addEventListener("beforeprint", () => { for (const plot of document.querySelectorAll(".plot:not([data-drawn])")) draw(plot); });

/* Pictures: inside the page, or from the server of the live one. A lost one leaves its reason in its place. */
let store = null;
function lost(image, reason) {
  const box = document.createElement("div");
  box.className = "lost"; box.setAttribute("role", "img"); box.setAttribute("aria-label", `${image.alt}: ${reason}`); box.textContent = reason;
  image.replaceWith(box);
}
function load(image) {
  const uid = image.dataset.uid;
  if (live) {
    image.addEventListener("error", () => fetch(image.src).then(answer => answer.text()).then(text => lost(image, text), () => lost(image, "the server has ended")), { once: true });
    image.src = `/image/${encodeURIComponent(uid)}`;
  } else if (Object.hasOwn(missing, uid)) {
    lost(image, missing[uid]);
  } else {
    store ??= block("pictures");
    image.src = store[uid];
  }
}
const loadNear = cards => whenNear(cards, card => card.querySelectorAll("img").forEach(load), "600px");

/* The gallery: every pair from the server, or those of this page. */
if (live) browse(); else sift();

function sift() {
  const groups = [...document.querySelectorAll(".group")].map(group => [group, [...group.querySelectorAll(".card")].map(card => [card, card.querySelector("h4").textContent.toLowerCase()])]);
  const total = groups.reduce((sum, [, cards]) => sum + cards.length, 0);
  function show() {
    const words = filter.value.toLowerCase();
    let shown = 0;
    for (const [group, cards] of groups) {
      let here = 0;
      for (const [card, prompt] of cards) { const fits = prompt.includes(words); card.hidden = !fits; here += fits; }
      group.hidden = !here; shown += here;
    }
    count.textContent = words ? `${many(shown)} of ${many(total)} pairs` : `${many(total)} pairs`;
  }
  filter.addEventListener("input", show);
  show();
  loadNear(document.querySelectorAll(".card"));
}

function browse() {
  const page = byId("page"), order = byId("order"), previous = byId("previous"), next = byId("next"), place = byId("place");
  const limit = Number(page.dataset.pagePairs);
  let offset = 0, asked = 0, timer = 0;
  async function show(from) {
    const mine = ++asked, query = new URLSearchParams({ offset: from, limit, filter: filter.value, order: order.value });
    try {
      const answer = await fetch(`/pairs?${query}`);
      if (!answer.ok) throw new Error(await answer.text());
      const found = await answer.json();
      if (mine !== asked) return;
      offset = from;
      page.innerHTML = found.cards.join("");
      loadNear(page.children);
      const last = Math.min(offset + limit, found.pairs);
      count.textContent = `${many(found.pairs)} pairs`;
      place.textContent = found.pairs ? `${many(offset + 1)} to ${many(last)} of ${many(found.pairs)}` : "no pair";
      previous.disabled = offset === 0;
      next.disabled = last >= found.pairs;
    } catch (error) {
      if (mine === asked) count.textContent = error instanceof TypeError ? "the server has ended" : error.message;
    }
  }
  const turn = to => show(to).then(() => byId("gallery").scrollIntoView());
  previous.addEventListener("click", () => turn(Math.max(0, offset - limit)));
  next.addEventListener("click", () => turn(offset + limit));
  order.addEventListener("change", () => show(0));
  filter.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(show, 200, 0); });
  show(0);
}
