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

/* The gallery, by pages: every pair from the server, or those of this page. */
const pages = byId("pages"), limit = Number(pages.dataset.pagePairs), previous = byId("previous"), next = byId("next"), place = byId("place");
let offset = 0;
function turned(found) {
  const last = Math.min(offset + limit, found);
  place.textContent = found ? `${many(offset + 1)} to ${many(last)} of ${many(found)}` : "no pair";
  previous.disabled = offset === 0;
  next.disabled = last >= found;
}
const show = live ? browse() : sift();
const turn = to => show(to)?.then?.(toTop) ?? toTop();
const toTop = () => byId("gallery").scrollIntoView();
previous.addEventListener("click", () => turn(Math.max(0, offset - limit)));
next.addEventListener("click", () => turn(offset + limit));

function sift() {
  const section = byId("section");
  const cards = [...document.querySelectorAll(".card")].map(card => [card, card.querySelector("h4").textContent.toLowerCase()]);
  function show(from) {
    offset = from;
    const words = filter.value.toLowerCase();
    const fitting = cards.filter(([card, prompt]) => (prompt.includes(words) || card.dataset.pair.startsWith(words)) && (!section.value || card.dataset.section === section.value)).map(([card]) => card);
    const shown = new Set(fitting.slice(offset, offset + limit));
    for (const [card] of cards) card.hidden = !shown.has(card);
    count.textContent = fitting.length < cards.length ? `${many(fitting.length)} of ${many(cards.length)} pairs` : `${many(cards.length)} pairs`;
    turned(fitting.length);
  }
  filter.addEventListener("input", () => show(0));
  section.addEventListener("change", () => show(0));
  show(0);
  loadNear(cards.map(([card]) => card));
  return show;
}

/* What is asked for stands in the address, so that it can be kept, sent, and gone back to. */
function browse() {
  const fields = ["filter", "where", "order", "beside", "tag"].map(byId).filter(Boolean), first = pages.firstElementChild;
  const start = Object.fromEntries(fields.map(field => [field.id, field.value]));
  let asked = 0, timer = 0;
  function read() {
    const state = new URLSearchParams(location.search);
    for (const field of fields) field.value = state.get(field.id) ?? start[field.id];
    return Number(state.get("offset")) || 0;
  }
  function write(from) {
    const state = new URLSearchParams(fields.filter(field => field.value !== start[field.id]).map(field => [field.id, field.value]));
    if (from) state.set("offset", from);
    history.replaceState(null, "", state.size ? `?${state}` : location.pathname);
  }
  async function ask(from, name, beside) {
    const query = new URLSearchParams({ offset: from, limit, filter: filter.value, where: byId("where").value, order: byId("order").value });
    if (name) query.set("name", name);
    if (beside) query.set("beside", beside);
    const answer = await fetch(`/pairs?${query}`);
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }
  function put(box, name, found) {
    box.firstElementChild.textContent = `${name}: ${many(found.pairs)} pairs`;
    box.lastElementChild.innerHTML = found.cards.join("");
    box.querySelectorAll(".tag").forEach(label);
    loadNear(box.lastElementChild.children);
  }
  async function show(from) {
    const mine = ++asked, other = byId("beside")?.value ?? "";
    count.textContent = "asking …";
    try {
      const name = first.firstElementChild.dataset.name ??= first.firstElementChild.textContent;
      const found = await Promise.all([ask(from, "", other), ...(other ? [ask(from, other, name)] : [])]);
      if (mine !== asked) return;
      offset = from;
      write(from);
      first.firstElementChild.hidden = !other;
      pages.classList.toggle("two", !!other);
      while (pages.children.length > found.length) pages.lastElementChild.remove();
      if (pages.children.length < found.length) pages.append(first.cloneNode(true));
      found.forEach((one, index) => put(pages.children[index], [name, other][index], one));
      count.textContent = `${many(found[0].pairs)} pairs`;
      turned(Math.max(...found.map(one => one.pairs)));
    } catch (error) {
      if (mine === asked) count.textContent = error instanceof TypeError ? "the server has ended" : error.message;
    }
  }
  /* The tag of the field above: each card's button gives it, or takes it away. */
  const tag = byId("tag");
  function label(button) {
    const has = button.dataset.tags.split(" ").includes(tag.value);
    button.textContent = has ? `no longer “${tag.value}”` : `tag “${tag.value}”`;
    button.setAttribute("aria-pressed", has);
  }
  async function toggle(button) {
    const body = JSON.stringify({ pair_id: button.closest(".card").dataset.pair, tag: tag.value, on: button.getAttribute("aria-pressed") !== "true" });
    const answer = await fetch("/tag", { method: "POST", headers: { "Content-Type": "application/json" }, body }).catch(() => null);
    if (!answer?.ok) { count.textContent = answer ? await answer.text() : "the server has ended"; return; }
    const { tags } = await answer.json();
    button.dataset.tags = tags.join(" ");
    button.previousElementSibling.textContent = tags.join(", ");
    label(button);
  }
  pages.addEventListener("click", event => { if (event.target.matches(".tag")) toggle(event.target); });
  for (const field of fields) field.addEventListener(field.tagName === "SELECT" ? "change" : "input", () => {
    if (field === tag) { document.querySelectorAll(".tag").forEach(label); write(offset); return; }
    clearTimeout(timer);
    timer = setTimeout(show, field.id === "where" ? 600 : 200, 0);
  });
  show(read());
  return show;
}

/* A picture, enlarged; the arrow keys go to the other of its pair. */
const large = byId("large");
function enlarge(image) {
  const [big, words] = large.children;
  big.src = live ? `/image/${encodeURIComponent(image.dataset.uid)}?large` : image.src;
  big.alt = image.alt;
  words.textContent = `${image.closest("figure").querySelector("figcaption").textContent} · ${image.closest(".card").querySelector("h4").textContent}`;
  large.shown = image;
  if (!large.open) large.showModal();
}
pages.addEventListener("click", event => { if (event.target.matches("img[src]")) enlarge(event.target); });
pages.addEventListener("keydown", event => { if (event.key === "Enter" && event.target.matches("img[src]")) enlarge(event.target); });
large.addEventListener("click", () => large.close());
large.addEventListener("keydown", event => {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
  const both = [...large.shown.closest(".pair").querySelectorAll("img[src]")];
  enlarge(both[(both.indexOf(large.shown) + 1) % both.length]);
});
