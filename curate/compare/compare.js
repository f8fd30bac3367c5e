/* After pages/base.js. */
const { models, scorers, prompts } = block("data"), missing = block("missing");
const home = byId("prompts"), perBlock = Number(home.dataset.block), sidePx = Number(home.dataset.sidePx);

/* Pictures are unpacked a block at a time, when the first of it is wanted. */
const unpacked = new Map();
function picture(place) {
  const index = Math.floor(place / perBlock);
  if (!unpacked.has(index)) unpacked.set(index, block(`pictures-${index}`));
  return unpacked.get(index)[place % perBlock];
}

const make = (tag, className, text) => { const one = document.createElement(tag); if (className) one.className = className; if (text !== undefined) one.textContent = text; return one; };
const shown = value => value === null ? "–" : String(Number(value.toPrecision(4)));
const chosen = (id, otherwise) => byId(id) ? Number(byId(id).value) : otherwise;

/* Mean change of a prompt between two models by one scorer, over the rows that have both; null where there is none. */
function change(prompt, scorer, one, other) {
  let sum = 0, count = 0;
  for (const row of prompt.rows) {
    const a = row[one]?.[1 + scorer] ?? null, b = row[other]?.[1 + scorer] ?? null;
    if (a !== null && b !== null) { sum += a - b; count += 1; }
  }
  return count ? sum / count : null;
}

function figure(row, index) {
  const cell = row[index], box = make("figure"), caption = make("figcaption"), list = make("dl");
  if (cell === null) box.append(make("div", "none", "no picture"));
  else if (cell[0] === null) box.append(make("div", "none", "no room for the picture"));
  else if (cell[0] < 0) box.append(make("div", "lost", missing[-1 - cell[0]]));
  else {
    const image = make("img");
    image.alt = `drawn by ${models[index]}`; image.loading = "lazy"; image.decoding = "async";
    image.width = image.height = sidePx; image.src = picture(cell[0]);
    image.addEventListener("load", () => { if (image.naturalWidth <= 96) image.classList.add("small"); });
    box.append(image);
  }
  caption.append(make("strong", "", models[index]));
  if (cell !== null) scorers.forEach((name, place) => {
    const value = cell[1 + place], others = row.filter(one => one !== null && one[1 + place] !== null).map(one => one[1 + place]);
    const best = value !== null && others.length > 1 && value === Math.max(...others) && value !== Math.min(...others);
    list.append(make("dt", "", name), make("dd", best ? "top" : "", shown(value)));
  });
  caption.append(list); box.append(caption);
  return box;
}

function card(prompt, by, most = prompt.rows.length) {
  const article = make("article", "prompt"), header = make("header"), title = make("h3", "", prompt.text);
  title.dir = "auto";
  header.append(title);
  if (prompt.category !== null) header.append(make("span", "", prompt.category));
  const difference = change(prompt, by.scorer, by.one, by.other);
  if (difference !== null) header.append(make("span", difference > 0 ? "up" : difference < 0 ? "down" : "", `${scorers[by.scorer]} ${difference > 0 ? "+" : ""}${shown(difference)}`));
  article.append(header);
  for (const row of prompt.rows.slice(0, most)) {
    if (row.every(cell => cell === null || cell[0] === null) && row !== prompt.rows[0]) continue;
    const line = make("div", "models");
    models.forEach((_, index) => line.append(figure(row, index)));
    article.append(line);
  }
  const hidden = prompt.rows.filter((row, place) => place && row.every(cell => cell === null || cell[0] === null)).length;
  if (hidden && most > 1) article.append(make("p", "why", `${hidden} more of each count in the difference; the file has no room for their pictures.`));
  return article;
}

/* Which prompts, in which order; cards are made as they come near. */
const sentinel = new IntersectionObserver(entries => { if (entries.some(entry => entry.isIntersecting) && made < queue.length) { more(); watch(); } }, { rootMargin: "1200px" });
/* An observer tells of changes only: it is asked anew when what it saw before was not the end. */
function watch() { sentinel.unobserve(byId("more")); sentinel.observe(byId("more")); }
let queue = [], made = 0, by = null;
function arrange() {
  by = { scorer: chosen("scorer", 0), one: chosen("model", 0), other: chosen("against", models.length - 1) };
  const words = filter.value.toLowerCase(), category = byId("category")?.value ?? "", order = byId("order").value;
  const fitting = prompts.filter(one => one.text.toLowerCase().includes(words) && (!category || one.category === category));
  const keyed = fitting.map(one => [change(one, by.scorer, by.one, by.other), one]);
  const known = keyed.filter(([value]) => value !== null), rest = keyed.filter(([value]) => value === null);
  if (order === "text") keyed.sort((a, b) => a[1].text < b[1].text ? -1 : 1);
  else if (order === "close") known.sort((a, b) => Math.abs(a[0]) - Math.abs(b[0]));
  else known.sort((a, b) => order === "worst" ? a[0] - b[0] : b[0] - a[0]);
  let sorted = order === "text" ? keyed : known.concat(rest);
  if (order === "both") sorted = known.map((_, place) => known[place % 2 ? known.length - (place + 1) / 2 : place / 2]).concat(rest);
  queue = sorted.map(([, one]) => one);
  made = 0;
  home.replaceChildren();
  more();
  watch();
  const total = many(prompts.length);
  count.textContent = fitting.length < prompts.length ? `${many(fitting.length)} of ${total} prompts` : `${total} prompts`;
}
function more() {
  const end = Math.min(made + 12, queue.length);
  for (; made < end; made++) home.append(card(queue[made], by));
}
/* The clearest cases, before all numbers. */
const MOST = 3;
{
  const plain = { scorer: 0, one: 0, other: models.length - 1 };
  const known = prompts.map(one => [change(one, 0, 0, plain.other), one]).filter(([value]) => value).sort((a, b) => b[0] - a[0]);
  for (const [, one] of known.slice(0, MOST).filter(([value]) => value > 0)) byId("wins").append(card(one, plain, 1));
  for (const [, one] of known.slice(-MOST).reverse().filter(([value]) => value < 0)) byId("losses").append(card(one, plain, 1));
}
filter.addEventListener("input", arrange);
for (const id of ["category", "order", "scorer", "model", "against"]) byId(id)?.addEventListener("change", arrange);
arrange();
