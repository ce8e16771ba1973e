// The viewer of a run: it reads the page's JSON and draws it. Text is inserted only as text nodes.
// Parts: elements, numbers, charts, sliders, theory, metrics, tokens, agreement, estimators; the
// playground is in playground.js. Tests call `window.report`, at the end.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const control = data.kind === "control";
const unit = control ? "step" : "token", whole = control ? "episode" : "completion";

// ---------------------------------------------------------------- elements
// h("p.quiet", {title: "..."}, children) makes an element, s(...) the same in SVG. A key "on..." adds a listener,
// "--..." sets a CSS variable.
const maker = (create) => (tag, ...children) => {
  const [name, ...classes] = tag.split("."), node = create(name);
  const attributes = children[0]?.constructor === Object ? children.shift() : {};
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
const h = maker((name) => document.createElement(name));
const s = maker((name) => document.createElementNS("http://www.w3.org/2000/svg", name));

function table(heads, rows, on = -1) { // all numbers of a column get the same decimals
  const decimals = heads.map((_, k) => {
    const most = Math.max(...rows.map((row) => (isNumber(row[k]) ? Math.abs(row[k]) : 0)));
    return most >= 100 ? 1 : most >= 10 ? 2 : 3;
  });
  const cell = (value, k) => (isNumber(value) ? minus((value || 0).toFixed(decimals[k])) : value ?? "–");
  return h("table", h("thead", h("tr", heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", rows.map((row, i) => h("tr", { class: i === on ? "on" : null },
      row.map((v, k) => h("td", cell(v, k)))))));
}
function choice(host, label, options, value, input) {
  const select = h("select", { onchange: () => input(select.value) },
    options.map(([v, text]) => h("option", { value: v }, text)));
  select.value = value;
  host.append(h("label", label, select));
  return select;
}

// ---------------------------------------------------------------- numbers
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const minus = (text) => text.replace("-", "−");
const short = (x) => minus(String(Number(x.toPrecision(4))));
function num(x) {
  if (!isNumber(x)) return "–";
  const size = Math.abs(x) < 1e-12 ? 0 : Math.abs(x);
  const text = size && size < 0.0005 ? size.toExponential(1)
    : size.toFixed(size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
  return (x < 0 && size ? "−" : "") + minus(text);
}
const fixed = (x) => (isNumber(x) ? minus(x.toFixed(3)) : "–");
const signed = (x) => (x >= 1e-12 ? "+" : "") + num(x);
const inside = (x) => (x < 0 ? `(${num(x)})` : num(x));
const percent = (x) => (isNumber(x) ? `${(100 * x).toFixed(1)}%` : "–");
const sum = (xs) => xs.reduce((a, b) => a + b, 0);
const mean = (xs) => sum(xs) / xs.length;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const nearest = (xs, x) => xs.reduce((best, v, i) => (Math.abs(v - x) < Math.abs(xs[best] - x) ? i : best), 0);
const quantile = (xs, q) => [...xs].sort((a, b) => a - b)[Math.round(q * (xs.length - 1))];
function correlation(xs, ys) {
  const [a, b] = [mean(xs), mean(ys)], square = (v, m) => sum(v.map((x) => (x - m) ** 2));
  return sum(xs.map((x, i) => (x - a) * (ys[i] - b))) / Math.sqrt(square(xs, a) * square(ys, b));
}

// ---------------------------------------------------------------- charts
function ticks(low, high, about) { // round values from low to high, with their texts
  if (!about) return [];
  if (!(high > low)) return [[low, short(low)]];
  const rough = (high - low) / about, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * scale).find((x) => x >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  const text = (v) => minus(String(Number(v.toFixed(clamp(-Math.floor(Math.log10(step)), 0, 12)))));
  return Array.from({ length: last - first + 1 }, (_, i) => [(first + i) * step, text((first + i) * step)]);
}
function span(values, pad = 0.06) {
  const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}
// An SVG with axes. x and y map values to pixels, back maps a pointer event to a value, line draws points.
function frame(label, width, height, xs, ys, options = {}) {
  const { left = 40, right = 8, top = 8, bottom = 20, xAbout = 4, yAbout = 4, xText, yText } = options;
  const x = (v) => left + (v - xs[0]) / (xs[1] - xs[0] || 1) * (width - left - right);
  const y = (v) => height - bottom - (v - ys[0]) / (ys[1] - ys[0] || 1) * (height - top - bottom);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  for (const [mark, text] of ticks(...ys, yAbout)) {
    const kind = Math.abs(mark) < 1e-12 ? "zero" : "grid";
    svg.append(s("line", { class: kind, x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
      s("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, text));
  }
  const below = (px, py, text) => svg.append(s("text", { x: px, y: py, "text-anchor": "middle" }, text));
  for (const [mark, text] of ticks(...xs, xAbout)) below(x(mark), height - bottom + 14, text);
  if (xText) below((left + width - right) / 2, height - 3, xText);
  if (yText) svg.append(s("text", { x: left - 32, y: 10 }, yText));
  const back = (event) => {
    const box = svg.getBoundingClientRect();
    return xs[0] + ((event.clientX - box.left) * width / box.width - left) / (width - left - right) * (xs[1] - xs[0]);
  };
  const line = (points, kind = "") => svg.append(s("polyline", { class: `curve ${kind}`, points: points
    .filter((point) => point.every(isNumber)).map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }));
  return { svg, x, y, back, line };
}
const attribute = (node, values) => Object.entries(values).forEach(([key, value]) => node.setAttribute(key, value));

// ---------------------------------------------------------------- sliders
// A range with its number beside it; returns a function that sets both without calling `input`.
function slider(host, id, label, low, high, step, value, input) {
  const range = h("input", { type: "range", id, min: low, max: high, step });
  const box = h("input", { type: "number", min: low, max: high, step: "any", "aria-label": `${label}, as a number` });
  const set = (v) => { range.value = v; box.value = Number(Number(v).toPrecision(6)); };
  range.addEventListener("input", () => { box.value = range.value; input(Number(range.value)); });
  box.addEventListener("change", () => {
    if (box.value === "") return set(range.value);
    set(clamp(Number(box.value), low, high));
    input(Number(box.value));
  });
  host.append(h("div.slider", h("label", { for: id }, label), range, box));
  set(value);
  return set;
}

// ---------------------------------------------------------------- theory
// Rewards, TD errors and GAE of an episode; a setting that is null defaults to the episode's own.
function recompute(episode, settings = {}) {
  const c = episode.tokens, own = episode.kl_coef ?? 0;
  const gamma = settings.gamma ?? episode.gamma, lam = settings.lam ?? episode.lam, coef = settings.kl ?? own;
  const kl = c.token.map((_, t) => (episode.kl_in === "reward" ? c.kl?.[t] ?? 0 : 0));
  const reward = kl.map((k, t) => (c.score?.[t] ?? (c.reward?.[t] ?? 0) + own * k) - coef * k);
  const delta = reward.map((r, t) => r + gamma * (c.next_value?.[t] ?? 0) - (c.value?.[t] ?? 0));
  const advantage = [...delta];
  for (let t = delta.length - 2; t >= 0; t--) advantage[t] += gamma * lam * advantage[t + 1];
  return { reward, delta, advantage, gamma, lam, coef };
}

// ---------------------------------------------------------------- metrics
const iterations = data.metrics.iteration ?? [], cursors = [];
const FIRST = ["score", "gold", "eval_score", "objective", "kl", "entropy", "length", "eos_rate", "policy_loss",
  "value_loss", "explained_variance", "clip_fraction", "grad_norm"];
const LAST = ["training_seconds", "steps", "score_std", "eval_score_std", "tokens_per_second", "first_ratio_drift",
  "update_kl", "ratio_drift", "kl_k3", "kl_exact", "kl_loss", "advantage_std"];
function drawOverview() {
  const names = Object.keys(data.metrics).filter((name) => !["iteration", "seconds"].includes(name));
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : 99), constant = [];
  const others = $("more-charts").lastElementChild;
  for (const name of names.sort((a, b) => rank(a) - rank(b))) {
    const seen = data.metrics[name].filter(isNumber), [low, high] = [Math.min(...seen), Math.max(...seen)];
    if (high - low > 1e-6 * Math.abs(high)) (LAST.includes(name) ? others : $("charts")).append(drawCurve(name, seen));
    else if (seen.length) constant.push(`${name} ${short(seen[0])}`);
  }
  $("more-charts").hidden = !others.children.length;
  $("constants").textContent = constant.length ? `Constant: ${constant.join(" · ")}.` : "";
  $("scrubber").hidden = iterations.length < 2;
  if (iterations.length < 2) return;
  const last = iterations.length - 1;
  const range = h("input", { type: "range", id: "scrub", min: 0, max: last, value: last });
  range.addEventListener("input", () => scrubTo(Number(range.value)));
  $("scrubber").append(h("div.slider", h("label", { for: "scrub" }), range));
  pointAt(last);
}
function drawCurve(name, seen) {
  const values = data.metrics[name], ends = [iterations[0], iterations.at(-1)];
  const chart = frame(`${name} over iterations, from ${num(seen[0])} to ${num(seen.at(-1))}`, 260, 118, ends,
    span(seen));
  const cursor = s("line.cursor", { y1: 8, y2: 98 }), dot = s("circle.at", { r: 3.5 }), out = h("output");
  const measured = iterations.map((_, i) => i).filter((i) => isNumber(values[i]));
  chart.line(iterations.map((it, i) => [it, values[i]]));
  chart.svg.append(cursor, dot);
  cursors.push((i) => {
    const near = measured[nearest(measured, i)], x = chart.x(iterations[i]);
    attribute(cursor, { x1: x, x2: x });
    attribute(dot, { cx: chart.x(iterations[near]), cy: chart.y(values[near]) });
    out.textContent = num(values[near]);
  });
  const under = (event) => nearest(iterations, chart.back(event));
  chart.svg.addEventListener("pointermove", (event) => pointAt(under(event)));
  chart.svg.addEventListener("pointerleave", () => pointAt(Number($("scrub").value)));
  chart.svg.addEventListener("click", (event) => scrubTo($("scrub").value = under(event)));
  const help = data.help[name] ?? data.help[name.replace(/\/.*/, "/NAME")], id = `tip-${cursors.length}`;
  const [first, last, least, most] = [seen[0], seen.at(-1), Math.min(...seen), Math.max(...seen)].map(num);
  const about = `First ${first}, last ${last}; lowest ${least}, highest ${most}.`;
  return h("div.chart", h("div", h("button", { type: "button", "aria-describedby": id }, name), out,
    h("span.tip", { role: "tooltip", id }, help ? `${help}. ` : "", about)), chart.svg);
}
function pointAt(i) { // move the cursor of all charts
  cursors.forEach((place) => place(i));
  document.querySelector("label[for=scrub]").textContent = `Iteration ${iterations[i]} of ${iterations.at(-1)}`;
  $("scrub").setAttribute("aria-valuetext", `iteration ${iterations[i]}`);
}
function scrubTo(i) { // the same, and show the tokens of the nearest recorded iteration
  pointAt(i);
  const recorded = episodes.map((e) => e.iteration).filter(isNumber);
  if (!recorded.length) return;
  chooser.iteration.value = view.iteration = String(recorded[nearest(recorded, iterations[i])]);
  listEpisodes();
}

// ---------------------------------------------------------------- tokens
const episodes = data.episodes, settings = { gamma: null, lam: null, kl: null };
const asRun = episodes.map((e) => recompute(e));
let now = asRun;
const hasKl = episodes.some((e) => e.tokens.kl?.some((x) => x));
// Whether the learner's advantage is GAE with the run's values: not without a critic, nor for n-step returns.
const isGae = episodes.every((e, i) => e.baseline === "critic" && (e.tokens.advantage ?? []).every((a, t) =>
  !isNumber(a) || Math.abs(a - asRun[i].advantage[t]) < 1e-3 * (1 + Math.abs(a))));
const GAE = "GAE with this critic", column = (name) => (e, r, t) => e.tokens[name]?.[t];
// Each channel: its value at (episode, recomputed numbers, t), and its meaning.
const CHANNELS = {
  advantage: isGae ? [(e, r, t) => r.advantage[t], "how much better it was than expected (GAE with the slider values)"]
    : [column("advantage"), "the advantage that the learner used"],
  ...(isGae ? {} : { [GAE]: [(e, r, t) => r.advantage[t], "with the slider values; not used by the learner"] }),
  "true advantage": [column("true_advantage"), "measured from many continuations before and after it, or exactly"],
  δ: [(e, r, t) => r.delta[t], "TD error: r + γ·V′ − V"],
  reward: [(e, r, t) => r.reward[t], "score − β·KL, as the learner gets it"],
  KL: [column("kl"), "log π − log π of the reference"],
  "log-prob": [column("logprob"), "log π(a|s) when it was sampled"],
  V: [column("value"), "the critic's estimate of the return from here on"],
  entropy: [column("entropy"), "entropy of π(·|s), in nats"],
  ratio: [column("ratio"), "probability after the update / before it; a dot marks clipped ones"],
};
const EVERYTHING = { prompt: "", iteration: "", sort: "", side: false, score: null, length: null, gap: null };
const view = { ...EVERYTHING, channel: "advantage", limit: 16 }, chooser = {}, chosen = { e: -1, t: 0 }, followers = [];
let scale = 1, cards = new Map();
const centre = () => (view.channel === "ratio" ? 1 : 0);
const shownValue = (i, t, of = now) => CHANNELS[view.channel][0](episodes[i], of[i], t);
const advantageOf = (i, t) => CHANNELS.advantage[0](episodes[i], now[i], t);
const when = (e) => (isNumber(e.iteration) ? `iteration ${e.iteration}` : "after training");
const spell = (text) => text.trim().replace(/\s*\n\s*/g, "⏎") || (text.includes("\n") ? "⏎" : "␣");

// Mean |advantage - true advantage| of the run, in (root mean squared) standard errors; in reward if exact.
function gapOf(e, i) {
  const gaps = e.tokens.token.map((_, t) =>
    Math.abs(CHANNELS.advantage[0](e, asRun[i], t) - (e.tokens.true_advantage?.[t] ?? NaN))).filter(isNumber);
  const errors = (e.tokens.true_advantage_se ?? []).filter(isNumber), se = Math.sqrt(mean(errors.map((x) => x * x)));
  return gaps.length ? mean(gaps) / (se > 0 ? se : 1) : null;
}
function change(name, value) { // a slider was moved, or (null) is reset to the run's value
  settings[name] = value;
  const own = episodes.at(-1)?.[name === "kl" ? "kl_coef" : name] ?? 0;
  followers.forEach((follow) => follow(name, value ?? own));
  now = episodes.map((e) => recompute(e, settings));
  paint();
  drawAgreement();
}
function drawControls() {
  for (const [name, [value, meaning]] of Object.entries(CHANNELS)) {
    const disabled = !episodes.some((e, i) => e.tokens.token.some((_, t) => value(e, now[i], t)));
    const onchange = () => { view.channel = name; paint(); };
    const checked = name === view.channel;
    const radio = h("input", { type: "radio", name: "channel", value: name, checked, disabled, onchange });
    $("channels").append(h("label", { title: meaning }, radio, h("span", name)));
  }
  const own = episodes.at(-1) ?? { gamma: 1, lam: 0.95 }, coef = own.kl_coef ?? 0;
  const knobs = { gamma: ["γ, discount", 1, own.gamma], lam: ["λ of GAE", 1, own.lam] };
  if (hasKl) knobs.kl = ["β, KL coefficient", Math.max(0.5, 3 * coef), coef];
  for (const [name, [label, high, value]] of Object.entries(knobs)) {
    const set = slider($("sliders"), name, label, 0, high, 0.005, value, (v) => change(name, v));
    followers.push((moved, v) => { if (moved === name) set(v); });
  }
  const reset = () => Object.keys(settings).forEach((name) => change(name, null));
  $("sliders").append(h("div", h("button", { type: "button", id: "reset", onclick: reset }, "Reset to the run")));
  const host = $("filters"), unique = (values) => [...new Set(values)];
  const relist = (key) => (value) => { view[key] = value; view.limit = 16; listEpisodes(); };
  const prompts = unique(episodes.map((e) => e.prompt)), final = episodes.some((e) => !isNumber(e.iteration));
  const times = unique(episodes.map((e) => e.iteration)).sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  if (final && !control) view.iteration = "null";
  choice(host, "Prompt", [["", "all prompts"], ...prompts.map((p) => [p, p])], "", relist("prompt"));
  const named = times.map((it) => [String(it), it ?? "after training"]);
  chooser.iteration = choice(host, "Iteration", [["", "all"], ...named], view.iteration, relist("iteration"));
  choice(host, "Sort by", [["", "recorded order"], ["-score", "highest score"], ["score", "lowest score"],
    ["-length", "longest"], ["length", "shortest"], ["-gap", "largest |A − true A|"]], "", relist("sort"));
  const least = { score: "Score at least", length: "Length at least", gap: "|A − true A| at least" };
  for (const [key, label] of Object.entries(least)) {
    const read = () => relist(key)(box.value === "" ? null : Number(box.value));
    const box = h("input", { type: "number", step: "any", oninput: read });
    host.append(h("label", label, box));
  }
  const side = h("input", { type: "checkbox", id: "side", onchange: () => relist("side")(side.checked) });
  host.append(h("label.check", side, "Iterations of each prompt side by side"));
  host.addEventListener("submit", (event) => event.preventDefault());
  $("more").addEventListener("click", () => { view.limit += 16; listEpisodes(); });
}

function listEpisodes() {
  const rows = episodes.map((e, i) => ({ e, i, score: e.score, gap: gapOf(e, i), length: e.tokens.token.length }));
  const found = rows.filter((row) => (view.prompt === "" || row.e.prompt === view.prompt)
    && (view.iteration === "" || String(row.e.iteration ?? null) === view.iteration)
    && ["score", "length", "gap"].every((key) => view[key] === null || (row[key] ?? -Infinity) >= view[key]));
  const [key, sign] = [view.sort.replace("-", ""), view.sort.startsWith("-") ? -1 : 1];
  if (key) found.sort((a, b) => sign * ((a[key] ?? -1) - (b[key] ?? -1)));
  const some = view.side ? found : found.slice(0, control ? view.limit / 4 : view.limit), groups = new Map();
  for (const row of some) groups.set(row.e.prompt, [...(groups.get(row.e.prompt) ?? []), row]);
  const inTime = (a, b) => (a.e.iteration ?? Infinity) - (b.e.iteration ?? Infinity);
  cards = new Map();
  $("episodes").replaceChildren(...(view.side ? [...groups].map(([prompt, members]) =>
    h("div.group", h("h3", prompt), h("div.side", members.sort(inTime).map((row) => card(row, false)))))
    : some.map((row) => card(row, true))));
  $("count").textContent = `${some.length} of ${found.length} matching ${whole}s; ${episodes.length} recorded`;
  $("more").hidden = some.length === found.length;
  if (!cards.has(chosen.e) && some.length) {
    const sizes = some[0].e.tokens.token.map((_, t) => Math.abs(advantageOf(some[0].i, t) ?? 0));
    Object.assign(chosen, { e: some[0].i, t: Math.max(0, sizes.indexOf(Math.max(...sizes))) });
  }
  paint();
}
function card({ e, i, gap, length }, prompt) {
  const errors = (e.tokens.true_advantage_se ?? []).some((x) => x > 0) ? " SE" : "";
  const facts = [when(e), `score ${signed(e.score)}`, isNumber(e.gold) && `gold ${signed(e.gold)}`,
    `${length} ${unit}s`, !e.finished && `cut at the ${control ? "time" : "length"} limit`,
    gap !== null && `|A − true A| ${gap.toFixed(1)}${errors}`];
  const long = control || length > 120, texts = e.tokens.token, spaced = texts.some((text) => /^\s/.test(text));
  const words = h(long ? "div.row" : "div.words", { role: "listbox", "aria-orientation": "horizontal",
    "aria-label": `${unit}s of ${e.prompt}, ${when(e)}` });
  texts.forEach((text, t) => {
    const special = /^(<.*>|\[.*\]|[⏎␣]+)$/.test(spell(text)), gapped = !t || !spaced || special || /^\s/.test(text);
    words.append(h(`span.t${gapped ? ".gap" : ""}${special ? ".special" : ""}`, { role: "option", tabindex: -1,
      "data-t": t, "aria-selected": "false" }, spell(text), e.tokens.clipped?.[t] && h("i", { title: "clipped" })));
  });
  const pick = (event, focus) => {
    const t = event.target.closest(".t")?.dataset.t;
    if (t !== undefined) select(i, Number(t), focus);
  };
  words.addEventListener("pointerover", (event) => event.pointerType === "mouse" && pick(event, false));
  words.addEventListener("pointerleave", () => { // show the token that has the focus again
    const kept = document.activeElement.closest(".t");
    if (kept) select(Number(kept.closest("article").dataset.e), Number(kept.dataset.t), false);
  });
  words.addEventListener("click", (event) => pick(event, true));
  words.addEventListener("focusin", (event) => pick(event, false));
  words.addEventListener("keydown", (event) => step(event, i));
  const strip = long ? h("div.strip") : null;
  const header = h("header", prompt && h("b", e.prompt), facts.map((fact) => fact && h("span", fact)));
  const made = h("article", { "data-e": i }, header, strip, words);
  cards.set(i, { made, words, strip, all: [...words.children] });
  return made;
}
function step(event, i) { // left and right within an episode, up and down between them
  const last = episodes[i].tokens.token.length - 1, order = [...cards.keys()], place = order.indexOf(i);
  const to = { ArrowRight: chosen.t + 1, ArrowLeft: chosen.t - 1, Home: 0, End: last,
    PageDown: chosen.t + 10, PageUp: chosen.t - 10 }[event.key];
  const other = { ArrowDown: order[place + 1], ArrowUp: order[place - 1] }[event.key];
  if (to !== undefined) select(i, clamp(to, 0, last), true);
  else if (other !== undefined) select(other, clamp(chosen.t, 0, episodes[other].tokens.token.length - 1), true);
  else return;
  event.preventDefault();
}
function select(i, t, focus) {
  const before = cards.get(chosen.e);
  Object.assign(chosen, { e: i, t });
  mark(before);
  mark(cards.get(i));
  inspectToken();
  if (focus) cards.get(i)?.all[t]?.focus();
}
function mark(one) { // the selected token, and the one that Tab enters
  if (!one) return;
  const here = Number(one.made.dataset.e) === chosen.e, at = one.all[here ? chosen.t : 0];
  one.made.classList.toggle("on", here);
  for (const node of one.words.querySelectorAll('[aria-selected="true"], [tabindex="0"]')) {
    attribute(node, { "aria-selected": "false", tabindex: -1 });
  }
  if (at) attribute(at, { tabindex: 0, "aria-selected": String(here) });
  if (!here || !one.strip || !at) return;
  one.words.scrollLeft = at.offsetLeft - one.words.offsetLeft - one.words.clientWidth / 2;
  one.strip.cursor(chosen.t);
}
function paint() { // colours, bars and accessible names of all shown tokens
  const c = centre(), [, meaning] = CHANNELS[view.channel];
  // The scale is that of the run's values, so that moving a slider visibly changes the numbers.
  const sizes = [...cards].flatMap(([i, one]) => one.all.map((_, t) =>
    Math.abs(shownValue(i, t, asRun) - c))).filter(isNumber);
  scale = quantile(sizes, 0.95) || 1;
  // Read all widths before anything changes: a later read would force a new layout.
  for (const one of cards.values()) one.width = Math.max(280, one.made.clientWidth - 30);
  for (const [i, one] of cards) {
    one.all.forEach((node, t) => {
      const value = shownValue(i, t), m = isNumber(value) ? clamp((value - c) / scale, -1, 1) : 0;
      node.style.setProperty("--m", Math.abs(m).toFixed(3));
      node.classList.toggle("pos", m > 0);
      node.classList.toggle("neg", m < 0);
      node.setAttribute("aria-label", `${spell(episodes[i].tokens.token[t])}, ${view.channel} ${signed(value)}`);
    });
    if (one.strip) drawStrip(one, i);
    mark(one);
  }
  const end = short(Number(scale.toPrecision(2)));
  $("legend").replaceChildren(h("span", c ? `${c} − ${end}` : `−${end}`), h("span.ramp"),
    h("span", c ? `${c} + ${end}` : `+${end}`),
    h("span.intro", `${view.channel}: ${meaning}. Bars go up above ${c}, down below it.`));
  noteSliders();
  inspectToken();
}
function noteSliders() {
  const e = episodes[chosen.e] ?? episodes[0], moved = Object.values(settings).some((v) => v !== null);
  $("reset").disabled = !moved;
  if (!e) return;
  const truth = episodes.some((one) => one.tokens.true_advantage?.some(isNumber));
  $("slider-note").textContent = [
    moved ? "Reward, δ and GAE are recomputed with these values."
      : "The sliders show the run's values. Move one to recompute reward, δ and GAE.",
    moved && truth && `True values are for γ ${short(e.gamma)} and β ${short(e.kl_coef ?? 0)} and do not change.`,
    !isGae && `The learner's advantage (baseline: ${e.baseline}) stays as recorded; the sliders change “${GAE}”.`,
    e.kl_in === "loss" && "In this run the KL is in the loss, so β does not change the reward.",
  ].filter(Boolean).join(" ");
}
function drawStrip(one, i) { // of a long episode: a heat map, V, and the advantage with δ
  const c = episodes[i].tokens, n = c.token.length, width = one.width, left = 56, right = 16;
  const wide = (width - left - right) / n, paths = new Map();
  for (let t = 0; t < n; t++) { // steps of the same strength share a path, for speed
    const m = Math.round(8 * clamp((shownValue(i, t) - centre()) / scale, -1, 1)) || 0;
    const x = (left + t * wide).toFixed(1), box = `M${x} ${m > 0 ? 0 : 8}h${(wide + 0.3).toFixed(2)}v8H${x}z`;
    paths.set(m, (paths.get(m) ?? "") + box);
  }
  const heat = s("svg", { width, height: 16, role: "img", "aria-label": `${view.channel} of each ${unit}` },
    [...paths].map(([m, d]) => s(m > 0 ? "path.fill-pos" : "path.fill-neg", { d, opacity: Math.abs(m) / 8 })));
  const plots = [[[c.value, "line-ink", "V"], [c.true_value, "line-third dashed", "true V"]],
    [[now[i].delta, "line-neg thin", "δ"], [isGae ? now[i].advantage : c.advantage, "line-pos", "A"],
      [c.true_advantage, "line-third dashed", "true A"]]].map((lines) => {
    const drawn = lines.filter(([values]) => values?.some(isNumber));
    const range = span(drawn.flatMap(([values]) => values.filter(isNumber)));
    const plot = frame(`${drawn.map((d) => d[2]).join(", ")} over the ${unit}s`, width, 96, [0, n], range,
      { left, right, xAbout: 8, top: 16 });
    drawn.forEach(([values, kind, text], k) => {
      plot.line(values.map((v, t) => [t + 0.5, v]), kind);
      plot.svg.append(s("line", { class: `curve ${kind}`, x1: left + 70 * k, x2: left + 16 + 70 * k, y1: 7, y2: 7 }),
        s("text", { x: left + 20 + 70 * k, y: 11 }, text));
    });
    plot.cursor = s("line.cursor", { x1: -9, x2: -9, y1: 14, y2: 76 });
    plot.svg.append(plot.cursor);
    return plot;
  });
  one.strip.cursor = (t) => plots.forEach((plot) =>
    attribute(plot.cursor, { x1: plot.x(t + 0.5), x2: plot.x(t + 0.5) }));
  one.strip.onclick = (event) => select(i, clamp(Math.floor(plots[0].back(event)), 0, n - 1), true);
  one.strip.replaceChildren(heat, ...plots.map((plot) => plot.svg));
}
function inspectToken() { // all numbers of the selected token, and the computation of its advantage
  const e = episodes[chosen.e], t = chosen.t, host = $("inspector");
  if (!e?.tokens.token.length) return host.replaceChildren(h("p.quiet", `No ${unit} to show.`));
  const c = e.tokens, r = now[chosen.e], get = (name) => c[name]?.[t], name = isGae ? "A" : "GAE",
    next = r.advantage[t + 1] ?? 0;
  const equation = (left, words, numbers, result) =>
    h("p", h("b", left), ` = ${words}`, h("br"), `= ${numbers} = `, h("b", signed(result)));
  const charged = hasKl && e.kl_in === "reward", gamma = short(r.gamma);
  const se = (key) => signed(get(key)) + (get(`${key}_se`) > 0 ? ` ± ${num(get(`${key}_se`))}` : "");
  const off = advantageOf(chosen.e, t) - (get("true_advantage") ?? NaN), error = get("true_advantage_se");
  const numbers = [["log π(a|s)", num(get("logprob"))], ["π(a|s)", num(Math.exp(get("logprob") ?? NaN))],
    ["log ref", num(get("ref_logprob"))], ["KL", signed(get("kl"))], ["entropy", num(get("entropy"))],
    ["score", num(get("score"))], ["V", signed(get("value"))], ["V′", signed(get("next_value"))],
    ["ratio", num(get("ratio")) + (get("clipped") ? " clipped" : "")],
    ["A (recorded)", signed(get("advantage"))], ["true V", se("true_value")], ["true A", se("true_advantage")],
    ["state", get("state") ? get("state").slice(0, 8).map(short).join(", ") : "–"],
    ["A − true A", isNumber(off) ? signed(off) + (error > 0 ? `, ${(Math.abs(off) / error).toFixed(1)} SE` : "")
      : "–"]];
  const top = get("top") ?? [], drawn = get("token"), same = (text) => spell(text) === spell(drawn);
  const bars = top.some(([text]) => same(text)) || !top.length || !isNumber(get("logprob")) ? top
    : [...top, [drawn, Math.exp(get("logprob"))]];
  host.replaceChildren(h("h3", spell(drawn)), h("p.quiet", `${unit} ${t + 1} of ${c.token.length}, ${when(e)}`),
    h("div.equations", { id: "equations" },
      charged && equation("r", "score − β·KL", `${num(get("score"))} − ${short(r.coef)}·${inside(get("kl"))}`,
        r.reward[t]),
      equation("δ", "r + γ·V′ − V",
        `${num(r.reward[t])} + ${gamma}·${inside(get("next_value"))} − ${inside(get("value"))}`, r.delta[t]),
      equation(name, `δ + γ·λ·${name}′`, `${num(r.delta[t])} + ${gamma}·${short(r.lam)}·${inside(next)}`,
        r.advantage[t])),
    h("p.quiet", `V′${isGae ? ", A′" : ""}: values of the next ${unit}. ±, SE: standard error.`),
    h("dl.numbers", numbers.filter(([, value]) => value !== "–").map(([key, value]) =>
      [h("dt", { class: /true|state/.test(key) ? "wide" : null }, key), h("dd", value)])),
    h("div.top", bars.map(([text, p]) => [h("span", spell(text)), h("i", { class: same(text) ? "on" : null, "--m": p }),
      h("span", `${(100 * p).toFixed(p < 0.1 ? 1 : 0)}%`)])));
}

// ---------------------------------------------------------------- agreement
function drawAgreement() {
  const points = episodes.flatMap((e, i) => (e.tokens.true_advantage ?? []).map((y, t) =>
    ({ i, t, x: now[i].advantage[t], y, se: e.tokens.true_advantage_se?.[t] ?? 0 })))
    .filter((p) => isNumber(p.x) && isNumber(p.y));
  $("agreement-body").hidden = !points.length;
  $("agreement-intro").hidden = !points.length;
  $("agreement-none").hidden = points.length > 0;
  if (!points.length) return;
  if (!$("agreement-lam")) {
    const set = slider($("agreement-slider"), "agreement-lam", "λ of GAE (the same slider as above)", 0, 1, 0.005,
      episodes.at(-1).lam, (v) => change("lam", v));
    followers.push((name, v) => { if (name === "lam") set(v); });
    if (data.agreement) drawMeasured(data.agreement);
  }
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y), off = xs.map((x, k) => x - ys[k]);
  const clear = points.filter((p) => Math.abs(p.y) > 2 * p.se), noise = mean(points.map((p) => p.se ** 2));
  const facts = { correlation: num(correlation(xs, ys)),
    "right sign, where it is clear": percent(mean(clear.map((p) => Number(p.x * p.y > 0)))),
    "rmse, corrected for noise": num(Math.sqrt(Math.max(0, mean(off.map((d) => d * d)) - noise))),
    "mean error": signed(mean(off)), [`${unit}s, ${clear.length} with a clear sign`]: points.length };
  $("agreement-facts").replaceChildren(...Object.entries(facts).map(([name, value]) =>
    h("div", h("b", String(value)), name)));
  const width = Math.max(280, $("scatter").clientWidth),
    range = span([...ys, ...points.map((p) => asRun[p.i].advantage[p.t])]);
  const plot = frame("GAE against the true advantage", width, Math.min(width, 420), range, range,
    { left: 46, bottom: 36, top: 18, xAbout: 6, yAbout: 6, xText: "GAE", yText: "true advantage" });
  plot.line([[range[0], range[0]], [range[1], range[1]]], "line-ink dashed thin");
  for (const p of points.filter((_, k) => k % Math.ceil(points.length / 1200) === 0)) {
    const kind = !clear.includes(p) ? "quiet" : p.x * p.y > 0 ? "pos" : "neg", x = plot.x(clamp(p.x, ...range));
    const said = `${spell(episodes[p.i].tokens.token[p.t])}: GAE ${signed(p.x)}, true ${signed(p.y)} ± ${num(p.se)}`;
    const onclick = () => showToken(p.i, p.t);
    plot.svg.append(s(`line.thin.line-${kind}`, { opacity: 0.4, x1: x, x2: x, y1: plot.y(p.y - p.se),
      y2: plot.y(p.y + p.se) }),
      s(`circle.fill-${kind}`, { opacity: 0.75, r: 3, cx: x, cy: plot.y(p.y), onclick }, s("title", said)));
  }
  $("scatter").replaceChildren(plot.svg);
}
function drawMeasured(measured) { // the agreement that `study credit` saved
  $("agreement-table").append(table(["λ", "correlation", "corrected for noise", "right sign", "rmse"],
    measured.gae.map((row) =>
    [short(row.lam), row.correlation, row.corrected_correlation, percent(row.sign_agreement), row.rmse]),
  measured.gae.findIndex((row) => row.lam === measured.lam)));
  const how = measured.exact ? "exact, by enumeration"
    : `means over ${measured.continuations} continuations of every prefix`;
  $("agreement-how").textContent = `${measured.completions} ${whole}s, ${measured.tokens} ${unit}s; ` +
    `the true values are ${how}. Correlation of the critic's V with the true V: ${num(measured.value_correlation)}.`;
  const rows = (measured.by_position ?? []).filter((row) => row.tokens >= 4);
  $("by-position").parentElement.hidden = rows.length < 2;
  $("measured").hidden = false;
  if (rows.length < 2) return;
  const width = Math.max(280, $("by-position").clientWidth),
    all = rows.flatMap((row) => [row.rmse, row.bias, row.noise, 0]);
  const plot = frame("Error of GAE by position", width, Math.min(width, 420), [0, rows.at(-1).position],
    span(all.filter(isNumber)),
    { left: 46, bottom: 36, top: 18, xAbout: 6, yAbout: 6, xText: `position of the ${unit}`,
      yText: "GAE − true advantage" });
  for (const [key, kind] of [["rmse", "line-pos"], ["bias", "line-neg"], ["noise", "line-ink dashed thin"]]) {
    plot.line(rows.map((row) => [row.position, row[key]]), kind);
  }
  $("by-position").append(plot.svg);
}
function showToken(i, t) { // select a token, also one that the filters hide
  if (!cards.has(i)) {
    $("filters").reset();
    Object.assign(view, { ...EVERYTHING, limit: 9999 });
    listEpisodes();
  }
  select(i, t, true);
}

// ---------------------------------------------------------------- estimators
const choices = { task: 0, lam: 0.95, critic: null, extra: "" };
function drawEstimators() {
  const tasks = data.estimators, task = tasks[choices.task];
  $("estimators-none").hidden = tasks.length > 0;
  $("estimators-intro").hidden = $("estimators-body").hidden = !tasks.length;
  if (!tasks.length) return;
  const gae = task.methods.filter((m) => m.family === "gae"), critics = [...new Set(gae.map((m) => m.critic))];
  if (!critics.includes(choices.critic)) choices.critic = critics.includes(task.critic) ? task.critic : critics[0];
  const grid = [...new Set(gae.filter((m) => m.critic === choices.critic).map((m) => m.lam))].sort((a, b) => a - b);
  const rest = task.methods.filter((m) => m.family !== "gae").map((m) => m.name);
  if (!rest.includes(choices.extra)) choices.extra = "";
  const host = $("estimator-choices");
  host.replaceChildren();
  if (grid.length) {
    choices.lam = grid[nearest(grid, choices.lam)];
    const range = h("input", { type: "range", id: "estimator-lam", min: 0, max: grid.length - 1,
      value: grid.indexOf(choices.lam) });
    const out = h("output", short(choices.lam));
    range.addEventListener("input", () => {
      choices.lam = grid[range.value];
      out.textContent = short(choices.lam);
      range.setAttribute("aria-valuetext", `lambda ${choices.lam}`);
      drawRidges(task);
    });
    host.append(h("div.slider", h("label", { for: "estimator-lam" }, "λ of GAE (measured values)"), range, out));
  }
  const ask = (key, label, options) => { // a change redraws the section and keeps the focus
    const answer = (value) => { choices[key] = value; drawEstimators(); $(`estimator-${key}`).focus(); };
    choice(host, label, options, choices[key], answer).id = `estimator-${key}`;
  };
  if (tasks.length > 1) ask("task", "Task", tasks.map((one, k) => [k, one.task]));
  if (critics.length > 1) ask("critic", "Critic of GAE", critics.map((c) => [c, c]));
  ask("extra", "Also show", [["", "none"], ...rest.map((name) => [name, name])]);
  drawRidges(task);
}
function drawRidges(task) {
  const first = (family) => task.methods.find((m) => m.family === family);
  const gae = task.methods.find((m) => m.family === "gae" && m.lam === choices.lam && m.critic === choices.critic);
  const fair = task.methods.find((m) => m.family === "baseline" && m.bias < 0.01) ?? first("baseline");
  const extra = task.methods.find((m) => m.name === choices.extra);
  const shown = [first("reinforce"), first("reward-to-go"), fair, gae, extra];
  const rows = [...new Set(shown.filter(Boolean))].map((m) => ({ ...m, drawn: m.projections.filter(isNumber) }));
  const reached = rows.flatMap((m) => [quantile(m.drawn, 0.01), quantile(m.drawn, 0.99)]);
  const range = span([...reached, 0, 1].filter(isNumber), 0.04);
  const room = $("ridges").clientWidth, width = Math.max(280, room > 600 ? room - 252 : room);
  const ridges = rows.map((m, k) => {
    const last = k === rows.length - 1, bins = 48, wide = (range[1] - range[0]) / bins, counts = Array(bins).fill(0);
    for (const v of m.drawn) counts[clamp(Math.floor((v - range[0]) / wide), 0, bins - 1)]++; // outliers go to the edge
    const plot = frame(`${m.name}: estimates projected on the true gradient`, width, last ? 86 : 62, range,
      [0, Math.max(...counts)], { left: 4, right: 4, top: 4, bottom: last ? 26 : 2, yAbout: 0, xAbout: last ? 7 : 0 });
    const kind = m.family === "gae" ? "pos" : m.family === "reinforce" ? "neg" : "third", foot = plot.y(0);
    counts.forEach((n, b) => plot.svg.append(s(`rect.fill-${kind}`, { opacity: 0.75, x: plot.x(range[0] + b * wide),
      y: plot.y(n), width: Math.max(1, (width - 8) / bins - 0.7), height: foot - plot.y(n) })));
    plot.svg.append(s("line.line-ink", { "stroke-width": 1.4, x1: plot.x(1), x2: plot.x(1), y1: 0, y2: foot }));
    const at = plot.x(clamp(m.drawn.length ? mean(m.drawn) : 1, ...range));
    plot.svg.append(s("path.fill-ink", { d: `M${at} ${foot - 9} l5 9 h-10 z` }));
    return [h("div", h("b", m.family === "gae" ? `GAE, λ = ${short(m.lam)}` : m.name),
      `bias ${fixed(m.bias)}${m.expected_exactly ? " (exact)" : ` ± ${fixed(m.bias_se)}`}`, h("br"),
      `variance ${fixed(m.variance)} · cosine ${fixed(m.cosine)}`), plot.svg];
  });
  const { how, episodes: count, norm, relative_error: error } = task.truth;
  const about = [how, isNumber(count) && `${count} episodes`,
    error > 0 && `relative error ${(100 * error).toFixed(1)}%`];
  $("ridges").replaceChildren(h("div.ridge", ridges), h("p.quiet",
    `Line at 1: the true gradient (${about.filter(Boolean).join(", ")}), of norm ${num(norm)}. Triangle: `,
    `the mean of ${task.estimates} estimates from ${task.batch} episodes each.`,
    task.critic && ` Critics: ${task.critic}.`));
  const heads = ["method", "λ", "critic", "bias", "± SE", "variance", "mse", "cosine", "cosine of one",
    "signal / noise", "note"];
  const note = (m) => [m.expected_exactly && "exact", m.rescaled && "rescaled"].filter(Boolean).join(", ");
  const cells = (m) => [m.name, isNumber(m.lam) ? short(m.lam) : "", m.critic ?? "", m.bias, m.bias_se, m.variance,
    m.mse, m.cosine, m.cosine_single, m.snr, note(m)];
  $("methods").replaceChildren(table(heads, task.methods.map(cells), task.methods.indexOf(gae)));
}

// ---------------------------------------------------------------- the page
function start() {
  $("left-out").append(...data.left_out.map((text) => h("p.note", text)));
  $("config").lastElementChild.append(table(["option", "value"], data.config));
  if (control) {
    $("to-tokens").textContent = $("h-tokens").textContent = "Steps";
    $("unit").textContent = unit;
    $("inspector").setAttribute("aria-label", "Selected step");
  }
  const reader = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const other = () => ((root.dataset.theme ?? (reader.matches ? "dark" : "light")) === "dark" ? "light" : "dark");
  const name = () => { $("theme").textContent = other() === "dark" ? "Dark" : "Light"; };
  $("theme").addEventListener("click", () => { root.dataset.theme = other(); name(); });
  reader.addEventListener("change", name);
  name();
  const there = { overview: data.metrics.iteration, tokens: episodes, agreement: episodes };
  for (const [id, rows] of Object.entries(there)) // hide sections without data, and their links
    $(id).hidden = document.querySelector(`nav a[href="#${id}"]`).hidden = !rows?.length;
  drawOverview();
  drawControls();
  listEpisodes();
  drawAgreement();
  drawEstimators();
  drawPlayControls();
  drawPlay();
  let width = innerWidth, waiting = 0;
  const redraw = () => [paint, drawAgreement, drawEstimators, drawPlay].forEach((draw) => draw());
  addEventListener("resize", () => {
    clearTimeout(waiting);
    if (innerWidth !== width) waiting = setTimeout(() => { width = innerWidth; redraw(); }, 150);
  });
}
addEventListener("DOMContentLoaded", start);

window.report = {
  // {reward, delta, advantage, ...} of each embedded episode: lists with one number per token.
  recompute: (gamma, lam, kl) => episodes.map((e) => recompute(e, { gamma, lam, kl })),
  // {J, gradient, ...} of the playground, given its two logits and rewards[state][action].
  gradient: (theta, rewards) => exact(theta, rewards),
};
