"use strict";
// One drawing at a time is shown: what the server said of it is in `drawing`, what is looked at in `view`.
const $ = (id) => document.getElementById(id);
const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
let about, drawing, source;
const view = { show: "sample", sample: 0 };

async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer; is `stochseg serve` still running?");
  }
  if (response.ok) return response;
  let said = `the server answered ${response.status}`;
  try { said = (await response.json()).error || said; } catch { /* no words in it */ }
  throw new Error(said);
}

function tell(text, error = false) {
  $("message").textContent = text;
  $("message").className = error ? "error" : "";
}

async function start() {
  about = await (await ask("/api/info")).json();
  document.title = `${about.title} · stochseg`;
  $("title").textContent = about.title;
  const names = about.classes.filter(shows).map((c) => c.name);
  const classes = names.length > 6 ? `${names.length} classes` : names.join(", ");
  $("about").textContent = `${about.method}, trained at ${about.size.join("×")} pixels; outlines ${classes}`;
  const side = Math.floor(Math.sqrt(about.most_pixels));
  $("limits").textContent = `${about.kinds.map((k) => k.slice(1)).join(", ")}; up to ${side}×${side} pixels, ${about.most_megabytes} MB`;
  $("file").accept = about.kinds.join(",");
  const counts = new Set([4, 8, 16, 32, 64, about.samples].filter((n) => n <= about.most_samples));
  for (const n of [...counts].sort((a, b) => a - b)) $("samples").append(node("option", { value: n }, String(n)));
  $("samples").value = about.samples;
  about.classes.forEach((c, i) => shows(c) && $("class").append(node("option", { value: i }, c.name)));
  about.examples.forEach((name, i) => {
    const image = node("img", { src: `/api/examples/${i}.png`, alt: name, loading: "lazy" });
    const button = node("button", { "aria-pressed": "false", title: name }, image);
    button.onclick = () => draw({ example: i, button });
    $("examples").append(button);
  });
  if (!about.examples.length) tell("Send an image to begin.");
  else $("examples").firstElementChild.click();
}

async function draw(from) {
  source = from;
  const query = new URLSearchParams({ samples: $("samples").value, seed: $("seed").value || 0 });
  if (from.file) query.set("name", from.file.name);
  else query.set("example", from.example);
  if (from.file && from.file.size > about.most_megabytes * 2 ** 20) {
    tell(`${from.file.name}: files up to ${about.most_megabytes} MB are read`, true);
    return;
  }
  for (const button of $("examples").children) button.setAttribute("aria-pressed", button === from.button);
  document.body.classList.add("waiting");
  tell("Drawing samples …");
  const begun = performance.now();
  try {
    const response = await ask(`/api/drawings?${query}`, { method: "POST", headers: { "x-stochseg": "1" }, body: from.file });
    const found = await response.json();
    if (source !== from) return; // another image was chosen since
    drawing = found;
    const tiles = drawing.tile ? `, in tiles of ${drawing.tile[1]}×${drawing.tile[0]}` : "";
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    tell(`${drawing.name}: ${drawing.width}×${drawing.height} pixels, ${drawing.samples} samples in ${seconds} s${tiles}`);
    $("again").disabled = false;
    lay();
  } catch (error) {
    if (source === from) tell(error.message, true);
  } finally {
    if (source === from) document.body.classList.remove("waiting");
  }
}

const at = (what) => `/api/drawings/${drawing.id}/${what}`;
const layer = (number) => at(`samples/${number}.png`);
const percent = (share) => `${Math.round(100 * share)} %`;
const shows = (each) => each.color.some(Boolean); // black classes are background
const areaOf = (areas) => {
  const marked = areas.reduce((sum, area, i) => sum + (shows(about.classes[i]) ? area : 0), 0);
  return marked ? `${marked} px` : "nothing";
};
const areasOf = (number) => drawing.areas.map((each) => each[number]);

function stack(number) {
  const shape = `aspect-ratio: ${drawing.width} / ${drawing.height}`;
  const box = node("div", { class: "layers" });
  box.style.cssText = shape;
  box.append(node("img", { src: at("image.png"), alt: "", loading: "lazy" }));
  box.append(node("img", { class: "over", src: layer(number), alt: `sample ${number + 1}`, loading: "lazy" }));
  return box;
}

function card(number, share) {
  const words = node("span", { class: "words" });
  if (share !== undefined) {
    const bar = node("i");
    bar.style.width = `${100 * share}%`;
    words.append(node("b", {}, percent(share)), node("span", { class: "bar" }, bar));
  }
  words.append(node("small", {}, `sample ${number + 1}: ${areaOf(areasOf(number))}`));
  const button = node("button", { "data-sample": number, "aria-pressed": "false" }, stack(number), words);
  button.onclick = () => { view.sample = number; show("sample"); };
  return button;
}

function lay() {
  for (const section of document.querySelectorAll("section[hidden]")) section.hidden = false;
  const ratio = drawing.width / drawing.height;
  $("view").style.aspectRatio = ratio;
  $("view").style.maxWidth = `calc(72vh * ${ratio})`;
  $("view").querySelector(".base").src = at("image.png");
  $("view").querySelector(".over").hidden = true; // that of the image before
  $("grid").replaceChildren(...drawing.hypotheses.map((h) => card(h.sample, h.share)));
  $("every").replaceChildren(...Array.from({ length: drawing.samples }, (_, i) => card(i)));
  $("counted").textContent = `samples that stand for all ${drawing.samples}, and the share that each speaks for`;
  for (const id of ["one", "other"]) {
    $(id).replaceChildren(...Array.from({ length: drawing.samples }, (_, i) => node("option", { value: i }, `sample ${i + 1}`)));
  }
  view.sample = drawing.hypotheses[0].sample;
  $("one").value = view.sample;
  $("other").value = (drawing.hypotheses[1] || drawing.hypotheses[0]).sample;
  $("part").value = 0;
  $("npz").href = at("samples.npz");
  $("zip").href = at("samples.zip");
  numbers();
  show(view.show);
}

function show(what) {
  view.show = what;
  for (const tab of document.querySelectorAll(".tabs button")) tab.setAttribute("aria-checked", tab.dataset.show === what);
  for (const each of document.querySelectorAll("[data-sample]")) {
    each.setAttribute("aria-pressed", what === "sample" && Number(each.dataset.sample) === view.sample);
  }
  $("walking").hidden = what !== "walk";
  const scaled = what === "entropy" || (what === "mean" && about.classes.length === 2);
  $("scale").hidden = !scaled;
  if (scaled) $("scale").querySelector("img").src = `/api/scales/${what}.png`;
  const captions = {
    mean: about.classes.length === 2 ? `how often ${about.classes[1].name} in the samples` : "classes in the samples, mixed by how often",
    entropy: "how much the samples disagree (1: all classes alike)",
    image: "the image as the model sees it",
  };
  if (what === "walk") return walk();
  if (what === "sample") put(layer(view.sample), `sample ${view.sample + 1} of ${drawing.samples}: ${areaOf(areasOf(view.sample))}`);
  else put(what === "image" ? null : at(`${what}.png`), captions[what]);
}

// A layer and its words change together, when the layer is here: a slow answer never stands under other words.
let latest = 0;
async function put(address, words) {
  const mine = ++latest;
  const over = $("view").querySelector(".over");
  if (address) {
    const layer = new Image();
    layer.src = address;
    try { await layer.decode(); } catch { if (mine === latest) tell("a picture did not arrive; draw again", true); return; }
    if (mine !== latest) return;
    over.src = address;
  }
  over.hidden = !address;
  $("caption").textContent = words;
}

// While the slider moves, one request is under way and the last place it passed waits.
let walking = false, next = false;
async function walk() {
  if (walking) { next = true; return; }
  walking = true;
  const [one, other, part, id] = [$("one").value, $("other").value, $("part").value / 100, drawing.id];
  try {
    const response = await ask(`${at("walk.png")}?${new URLSearchParams({ one, other, part })}`);
    const areas = response.headers.get("x-areas").split(",").map(Number);
    const address = URL.createObjectURL(await response.blob());
    if (view.show === "walk" && drawing.id === id) {
      await put(address, `${percent(part)} of the way from sample ${+one + 1} to ${+other + 1}: ${areaOf(areas)}`);
    }
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  } catch (error) {
    tell(error.message, true);
  } finally {
    walking = false;
    if (next) { next = false; if (view.show === "walk") walk(); }
  }
}

function numbers() {
  const areas = drawing.areas[$("class").value];
  const sorted = [...areas].sort((a, b) => a - b);
  const quantile = (q) => {
    const place = q * (sorted.length - 1), low = Math.floor(place);
    return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  };
  const present = areas.filter((a) => a > 0).length;
  const rows = [
    ["P(present)", `${(present / areas.length).toFixed(2)} (${present} of ${areas.length} samples)`],
    ["median", `${quantile(0.5).toFixed(0)} px`],
    ["5 % to 95 %", `${quantile(0.05).toFixed(0)} to ${quantile(0.95).toFixed(0)} px`],
  ];
  $("facts").replaceChildren(...rows.flatMap(([name, text]) => [node("dt", {}, name), node("dd", {}, text)]));
  histogram(areas);
}

function histogram(areas) {
  const most = Math.max(...areas, 1), bins = 16, width = 320, height = 120, foot = 18, head = 14;
  const counts = Array(bins).fill(0);
  for (const a of areas) counts[Math.min(bins - 1, Math.floor((a / most) * bins))] += 1;
  const top = Math.max(...counts);
  const svg = (tag, attributes, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };
  const words = `histogram of the area in ${areas.length} samples, 0 to ${most} pixels`;
  const plot = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words });
  counts.forEach((count, i) => {
    const tall = ((height - foot - head) * count) / top;
    plot.append(svg("rect", { x: (i * width) / bins + 1, y: height - foot - tall, width: width / bins - 2, height: tall }));
  });
  plot.append(svg("line", { x1: 0, x2: width, y1: height - foot, y2: height - foot }));
  plot.append(svg("text", { x: 0, y: height - 4 }, "0"));
  plot.append(svg("text", { x: width, y: height - 4, "text-anchor": "end" }, `${most} px`));
  plot.append(svg("text", { x: 0, y: 10 }, `${top} of ${areas.length} samples`));
  $("histogram").replaceChildren(plot);
}

const sent = (file) => file && draw({ file });
$("file").onchange = () => { sent($("file").files[0]); $("file").value = ""; };
for (const [name, on] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", on);
    if (name === "drop") sent(event.dataTransfer.files[0]);
  });
}
$("again").onclick = () => draw(source);
$("class").onchange = numbers;
$("opacity").oninput = () => { $("view").querySelector(".over").style.opacity = $("opacity").value / 100; };
for (const id of ["one", "other"]) $(id).onchange = walk;
$("part").oninput = walk;
for (const tab of document.querySelectorAll(".tabs button")) tab.onclick = () => show(tab.dataset.show);
$("opacity").oninput();
start().catch((error) => tell(error.message, true));
