// The viewer of a run. It reads the page's JSON, draws with SVG, and puts text in by text nodes alone.
// Parts, in order: elements, numbers, charts, sliders, theory, overview, tokens, agreement,
// estimators, playground. `window.report` at the end is what the tests call.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const control = data.kind === "control";
const unit = control ? "step" : "token";
const whole = control ? "episode" : "completion";

// ---------------------------------------------------------------- elements
function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const h = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const s = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function table(heads, rows, on = -1) {
  const cells = (kind, row) => row.map((cell) => h(kind, kind === "th" ? { scope: "col" } : {}, cell));
  return h("table", {}, h("thead", {}, h("tr", {}, ...cells("th", heads))),
    h("tbody", {}, ...rows.map((row, i) => h("tr", { class: i === on ? "on" : null }, ...cells("td", row)))));
}

function choice(host, label, options, input) {
  const select = h("select", { onchange: () => input(select.value) },
    ...options.map(([value, text]) => h("option", { value }, text)));
  host.append(h("label", {}, label, select));
  return select;
}

// ---------------------------------------------------------------- numbers
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
function num(x, sign = false) {
  if (!isNumber(x)) return "–";
  const size = Math.abs(x);
  let text = size >= 1000 ? size.toFixed(0) : size >= 100 ? size.toFixed(1) : size >= 10 ? size.toFixed(2)
    : size >= 0.0005 || size === 0 ? size.toFixed(3) : size.toExponential(1).replace("e-", "e−");
  if (size < 1e-12) text = "0.000";
  return (x < 0 && size >= 1e-12 ? "−" : sign && size >= 1e-12 ? "+" : "") + text;
}
const signed = (x) => num(x, true);
const wrapped = (x) => (isNumber(x) && x < 0 ? `(${num(x)})` : num(x));
const short = (x) => String(Number(x.toPrecision(4))).replace("-", "−");
const sum = (xs) => xs.reduce((a, b) => a + b, 0);
const mean = (xs) => (xs.length ? sum(xs) / xs.length : NaN);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
function quantile(xs, q) {
  const sorted = [...xs].sort((a, b) => a - b);
  return sorted[Math.round(q * (sorted.length - 1))];
}
function correlation(xs, ys) {
  const [a, b] = [mean(xs), mean(ys)];
  const over = sum(xs.map((x, i) => (x - a) * (ys[i] - b)));
  return over / Math.sqrt(sum(xs.map((x) => (x - a) ** 2)) * sum(ys.map((y) => (y - b) ** 2)));
}
function ticks(low, high, about) {
  if (!(high > low)) return [low];
  const rough = (high - low) / about, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * scale).find((x) => x >= rough * 0.999);
  const marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) marks.push(i * step);
  return marks;
}

// ---------------------------------------------------------------- charts
function frame(label, width, height, xs, ys, options = {}) {
  const { left = 40, right = 8, top = 8, bottom = 20, xAbout = 4, yAbout = 4, xText, yText } = options;
  const x = (v) => left + (v - xs[0]) / (xs[1] - xs[0] || 1) * (width - left - right);
  const y = (v) => height - bottom - (v - ys[0]) / (ys[1] - ys[0] || 1) * (height - top - bottom);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  for (const mark of ticks(...ys, yAbout)) {
    svg.append(s("line", { class: Math.abs(mark) < 1e-12 ? "zero" : "grid", x1: left, x2: width - right,
      y1: y(mark), y2: y(mark) }),
    s("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, short(mark)));
  }
  for (const mark of ticks(...xs, xAbout)) {
    svg.append(s("text", { x: x(mark), y: height - bottom + 14, "text-anchor": "middle" }, short(mark)));
  }
  const middle = (left + width - right) / 2;
  if (xText) svg.append(s("text", { x: middle, y: height - 3, "text-anchor": "middle" }, xText));
  if (yText) svg.append(s("text", { x: left - 32, y: 10 }, yText));
  const back = (px) => xs[0] + (px - left) / (width - left - right) * (xs[1] - xs[0]);
  return { svg, x, y, back, line: (points, kind) => {
    const drawn = points.filter(([a, b]) => isNumber(a) && isNumber(b));
    svg.append(s("polyline", { class: `curve ${kind}`, points:
      drawn.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }));
  } };
}
function span(values, pad = 0.06) {
  const low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}
const atPointer = (event, svg) =>
  (event.clientX - svg.getBoundingClientRect().left) * svg.viewBox.baseVal.width / svg.getBoundingClientRect().width;

// ---------------------------------------------------------------- sliders
// A range with its number beside it; returns a function that moves both without reporting it.
function slider(host, id, label, low, high, step, value, input) {
  const range = h("input", { type: "range", id, min: low, max: high, step });
  const box = h("input", { type: "number", min: low, max: high, step: "any", "aria-label": `${label}, as a number` });
  const set = (v) => { range.value = v; box.value = Number(Number(v).toPrecision(6)); };
  range.addEventListener("input", () => { box.value = range.value; input(Number(range.value)); });
  box.addEventListener("change", () => {
    if (box.value === "" || !Number.isFinite(Number(box.value))) return set(range.value);
    set(clamp(Number(box.value), low, high));
    input(Number(box.value));
  });
  host.append(h("div", { class: "slider" }, h("label", { for: id }, label), range, box));
  set(value);
  return set;
}

// ---------------------------------------------------------------- theory
// What the learner is paid, the TD error and GAE of one episode; a null setting is the episode's own.
function recompute(episode, settings = {}) {
  const c = episode.tokens, steps = c.token.length;
  const gamma = settings.gamma ?? episode.gamma, lam = settings.lam ?? episode.lam;
  const coef = settings.kl ?? episode.kl_coef ?? 0, own = episode.kl_coef ?? 0;
  const charged = episode.kl_in === "reward";
  const reward = [], delta = [], advantage = new Array(steps).fill(0);
  for (let t = 0; t < steps; t++) {
    const kl = charged ? c.kl?.[t] ?? 0 : 0;
    reward.push((c.score?.[t] ?? (c.reward?.[t] ?? 0) + own * kl) - coef * kl);
    delta.push(reward[t] + gamma * (c.next_value?.[t] ?? 0) - (c.value?.[t] ?? 0));
  }
  for (let t = steps - 1, next = 0; t >= 0; t--) next = advantage[t] = delta[t] + gamma * lam * next;
  return { reward, delta, advantage, gamma, lam, coef };
}

// ---------------------------------------------------------------- overview
const iterations = data.metrics.iteration ?? [];
const chartsAt = [];
function drawOverview() {
  const first = ["score", "gold", "eval_score", "objective", "kl", "entropy", "length", "eos_rate", "policy_loss",
    "value_loss", "explained_variance", "clip_fraction", "grad_norm", "advantage_std"];
  const hidden = ["iteration", "seconds", "training_seconds", "steps", "score_std", "eval_score_std",
    "tokens_per_second", "first_ratio_drift", "update_kl", "ratio_drift", "kl_k3", "kl_exact"];
  const names = Object.keys(data.metrics).filter((name) => !["iteration", "seconds"].includes(name));
  const rank = (name) => (first.includes(name) ? first.indexOf(name) : 99);
  const constant = [];
  for (const name of names.sort((a, b) => rank(a) - rank(b))) {
    const seen = data.metrics[name].filter(isNumber);
    if (!seen.length) continue;
    const [low, high] = [Math.min(...seen), Math.max(...seen)];
    if (high - low <= 1e-6 * Math.abs(high)) { constant.push(`${name} ${short(seen[0])}`); continue; }
    const host = hidden.includes(name) ? $("more-charts").lastElementChild : $("charts");
    host.append(drawCurve(name, data.metrics[name], seen));
  }
  $("more-charts").hidden = !$("more-charts").lastElementChild.children.length;
  $("constants").textContent = constant.length ? `The same throughout: ${constant.join(" · ")}.` : "";
  if (iterations.length < 2) { $("scrubber").hidden = true; return; }
  const value = iterations.length - 1;
  const label = h("label", { for: "scrub" });
  const range = h("input", { type: "range", id: "scrub", min: 0, max: value, step: 1, value });
  range.addEventListener("input", () => { scrubTo(Number(range.value)); nearestEpisodes(Number(range.value)); });
  $("scrubber").append(h("div", { class: "slider" }, label, range));
  scrubTo(value);
}
function drawCurve(name, values, seen) {
  const ys = span(seen), xs = [iterations[0], iterations.at(-1)];
  const chart = frame(`${name} over iterations, from ${num(seen[0])} to ${num(seen.at(-1))}`, 260, 118, xs, ys);
  chart.line(iterations.map((it, i) => [it, values[i]]), "");
  const cursor = s("line", { class: "cursor", y1: 8, y2: 98 });
  const dot = s("circle", { class: "at", r: 3.5 });
  chart.svg.append(cursor, dot);
  const out = h("output", {});
  const place = (i) => {
    let near = i;
    for (let d = 0; d < values.length && !isNumber(values[near]); d++) near = isNumber(values[i - d]) ? i - d : i + d;
    for (const [key, v] of [["x1", chart.x(iterations[i])], ["x2", chart.x(iterations[i])]]) cursor.setAttribute(key, v);
    dot.setAttribute("cx", chart.x(iterations[near]));
    dot.setAttribute("cy", chart.y(values[near]));
    out.textContent = num(values[near]);
  };
  chartsAt.push(place);
  const index = (event) => {
    const wanted = chart.back(atPointer(event, chart.svg));
    return iterations.reduce((best, it, i) => (Math.abs(it - wanted) < Math.abs(iterations[best] - wanted) ? i : best), 0);
  };
  chart.svg.addEventListener("pointermove", (event) => scrubTo(index(event), false));
  chart.svg.addEventListener("pointerleave", () => scrubTo(Number($("scrub").value), false));
  chart.svg.addEventListener("click", (event) => { scrubTo(index(event)); nearestEpisodes(index(event)); });
  const help = data.help[name] ?? (name.startsWith("reward/") ? data.help["reward/NAME"] : null);
  const about = `${help ? `${help}. ` : ""}From ${num(seen[0])} to ${num(seen.at(-1))}; ` +
    `least ${num(Math.min(...seen))}, most ${num(Math.max(...seen))}.`;
  const id = `tip-${chartsAt.length}`;
  return h("div", { class: "chart" }, h("div", {}, h("button", { type: "button", "aria-describedby": id }, name), out,
    h("span", { class: "tip", role: "tooltip", id }, about)), chart.svg);
}
function scrubTo(i, move = true) {
  for (const place of chartsAt) place(i);
  if (move) $("scrub").value = i;
  document.querySelector("label[for=scrub]").textContent = `Iteration ${iterations[i]} of ${iterations.at(-1)}`;
  $("scrub").setAttribute("aria-valuetext", `iteration ${iterations[i]}`);
}
function nearestEpisodes(i) {
  const recorded = data.episodes.map((e) => e.iteration).filter(isNumber);
  if (!recorded.length) return;
  const near = recorded.reduce((a, b) => (Math.abs(b - iterations[i]) < Math.abs(a - iterations[i]) ? b : a));
  chooser.iteration.value = view.iteration = String(near);
  listEpisodes();
}

// ---------------------------------------------------------------- tokens
const episodes = data.episodes;
const settings = { gamma: null, lam: null, kl: null };
const now = episodes.map((e) => recompute(e)), asRun = episodes.map((e) => recompute(e));
const moved = () => Object.values(settings).some((v) => v !== null);
// Does the learner's own advantage equal GAE at the run's settings? Not without a critic, nor with n-step returns.
const isGae = episodes.every((e, i) => e.baseline === "critic" && e.tokens.advantage.every((a, t) =>
  !isNumber(a) || Math.abs(a - asRun[i].advantage[t]) < 1e-3 * (1 + Math.abs(a))));
const column = (name) => (e, r, t) => e.tokens[name]?.[t];
const CHANNELS = {
  advantage: isGae ? (e, r, t) => r.advantage[t] : column("advantage"),
  ...(isGae ? {} : { "GAE with this critic": (e, r, t) => r.advantage[t] }),
  "true advantage": column("true_advantage"), "δ": (e, r, t) => r.delta[t],
  reward: (e, r, t) => r.reward[t], KL: column("kl"), "log-prob": column("logprob"), V: column("value"),
  entropy: column("entropy"), ratio: column("ratio"),
};
const MEANING = {
  advantage: isGae ? "how much better than expected, by GAE with these sliders" : "what the learner weighed each action by",
  "GAE with this critic": "how much better than expected, by GAE with these sliders; the learner did not use it",
  "true advantage": "the same, measured by continuing many times from before and after", "δ": "reward + γ·V(s′) − V(s)",
  reward: "score − β·KL, what the learner is paid here", KL: "log π − log reference",
  "log-prob": "log π(a|s) when it was drawn", V: "the critic's value before it", entropy: "of π(·|s), in nats",
  ratio: "probability after the update / before it; the dot marks what was clipped",
};
const view = { channel: "advantage", prompt: "", iteration: "", sort: "recorded", side: false, limit: 16, score: -Infinity, length: 0, gap: 0 };
const chooser = {};
const chosen = { e: -1, t: 0 };
let scale = 1, cards = new Map();
const centre = () => (view.channel === "ratio" ? 1 : 0);
const iterationName = (e) => (isNumber(e.iteration) ? `iteration ${e.iteration}` : "after training");
const valueAt = (e, i, t) => CHANNELS[view.channel](e, now[i], t);
const drifted = episodes.some((e) => e.tokens.kl?.some((x) => x));
const hasTruth = (e) => (e.tokens.true_advantage ?? []).some(isNumber);

function gap(e, i) { // mean |advantage - true advantage|, in standard errors; in reward where the truth is exact
  const gaps = e.tokens.token.map((_, t) => {
    const off = Math.abs(CHANNELS.advantage(e, now[i], t) - (e.tokens.true_advantage?.[t] ?? NaN));
    return e.tokens.true_advantage_se?.[t] > 0 ? off / e.tokens.true_advantage_se[t] : off;
  }).filter(isNumber);
  return gaps.length ? mean(gaps) : null;
}

function drawControls() {
  for (const name of Object.keys(CHANNELS)) {
    const some = episodes.some((e, i) => e.tokens.token.some((_, t) => CHANNELS[name](e, now[i], t)));
    const radio = h("input", { type: "radio", name: "channel", value: name, checked: name === view.channel, disabled: !some,
      onchange: () => { view.channel = name; paint(); } });
    $("channels").append(h("label", { title: MEANING[name] }, radio, h("span", {}, name)));
  }
  const own = episodes.at(-1) ?? { gamma: 1, lam: 0.95, kl_coef: 0 };
  const move = (name) => (value) => { settings[name] = value; sliders.forEach((follow) => follow(name, value)); resettle(); };
  const setters = {
    gamma: slider($("sliders"), "gamma", "γ, the discount", 0, 1, 0.005, own.gamma, move("gamma")),
    lam: slider($("sliders"), "lam", "λ, of GAE", 0, 1, 0.005, own.lam, move("lam")),
    kl: !drifted ? () => {} : slider($("sliders"), "kl", "β, the KL coefficient", 0, Math.max(0.5, 3 * (own.kl_coef ?? 0)), 0.005, own.kl_coef ?? 0, move("kl")),
  };
  sliders.push((name, value) => setters[name](value));
  const reset = h("button", { type: "button", id: "reset", onclick: () => {
    for (const [name, key] of [["gamma", "gamma"], ["lam", "lam"], ["kl", "kl_coef"]]) {
      settings[name] = null;
      sliders.forEach((follow) => follow(name, own[key] ?? 0));
    }
    resettle();
  } }, "Back to the run's own");
  $("sliders").append(h("div", {}, reset));
  const unique = (values) => [...new Set(values)];
  const relist = (key) => (value) => { view[key] = value; view.limit = 16; listEpisodes(); };
  const host = $("filters");
  chooser.prompt = choice(host, "Prompt", [["", "every prompt"], ...unique(episodes.map((e) => e.prompt)).map((p) => [p, p])], relist("prompt"));
  chooser.iteration = choice(host, "Iteration", [["", "every one"], ...unique(episodes.map((e) => e.iteration))
    .sort((a, b) => (a ?? Infinity) - (b ?? Infinity)).map((it) => [String(it), isNumber(it) ? String(it) : "after training"])], relist("iteration"));
  choice(host, "Sort by", [["recorded", "as recorded"], ["high", "highest score"], ["low", "lowest score"], ["long", "longest"],
    ["short", "shortest"], ["gap", "most disagreement"]], relist("sort"));
  for (const [key, label] of [["score", "Score at least"], ["length", "Length at least"], ["gap", "Disagreement at least"]]) {
    const box = h("input", { type: "number", step: "any", oninput: () => relist(key)(box.value === "" ? -Infinity : Number(box.value)) });
    host.append(h("label", {}, label, box));
  }
  const side = h("input", { type: "checkbox", id: "side", onchange: () => relist("side")(side.checked) });
  host.append(h("label", { class: "check" }, side, "One prompt's iterations side by side"));
  host.addEventListener("submit", (event) => event.preventDefault());
  const ended = episodes.some((e) => e.iteration === null || e.iteration === undefined);
  if (ended && !control) chooser.iteration.value = view.iteration = "null";
  $("more").addEventListener("click", () => { view.limit += 16; listEpisodes(); });
}
const sliders = [];
function resettle() { // after a slider: compute again, and show it
  episodes.forEach((e, i) => { now[i] = recompute(e, settings); });
  paint();
  drawAgreement();
}

function listEpisodes() {
  const shown = episodes.map((e, i) => ({ e, i, gap: gap(e, i), length: e.tokens.token.length })).filter(({ e, gap: off, length }) =>
    (view.prompt === "" || e.prompt === view.prompt) && (view.iteration === "" || String(e.iteration) === view.iteration) &&
    (view.score === -Infinity || e.score >= view.score) && length >= view.length && (view.gap <= 0 || off >= view.gap));
  const orders = { high: (a, b) => b.e.score - a.e.score, low: (a, b) => a.e.score - b.e.score, long: (a, b) => b.length - a.length,
    short: (a, b) => a.length - b.length, gap: (a, b) => (b.gap ?? -1) - (a.gap ?? -1) };
  if (orders[view.sort]) shown.sort(orders[view.sort]);
  const limit = control ? Math.ceil(view.limit / 4) : view.limit;
  const some = shown.slice(0, view.side ? shown.length : limit);
  cards = new Map();
  const groups = new Map();
  for (const one of some) groups.set(one.e.prompt, [...(groups.get(one.e.prompt) ?? []), one]);
  $("episodes").replaceChildren(...(view.side ? [...groups].slice(0, limit).map(([prompt, members]) => {
    members.sort((a, b) => (a.e.iteration ?? Infinity) - (b.e.iteration ?? Infinity));
    return h("div", { class: "group" }, h("h3", {}, prompt), h("div", { class: "side", tabindex: -1 }, ...members.map((m) => card(m, false))));
  }) : some.map((m) => card(m, true))));
  $("count").textContent = shown.length ? `${some.length} of ${episodes.length} recorded ${whole}s` + (some.length < shown.length ? `; ${shown.length} match` : "")
    : episodes.length ? `No recorded ${whole} matches.` : "";
  $("more").hidden = some.length >= shown.length;
  if (!cards.has(chosen.e) && some.length) Object.assign(chosen, { e: some[0].i, t: firstOf(some[0].e, some[0].i) });
  paint();
}
function firstOf(e, i) { // the token with the largest advantage either way
  const size = e.tokens.token.map((_, t) => Math.abs(CHANNELS.advantage(e, now[i], t) ?? 0));
  return Math.max(0, size.indexOf(Math.max(...size)));
}

function card({ e, i, gap: off, length }, withPrompt) {
  const facts = [`score ${signed(e.score)}`, isNumber(e.gold) ? `gold ${signed(e.gold)}` : null, `${length} ${unit}s`,
    e.finished ? null : "cut at the limit", off === null ? null : `disagreement ${off.toFixed(1)}${e.tokens.true_advantage_se.some((x) => x > 0) ? " SE" : ""}`];
  const long = control || length > 120;
  const spaced = e.tokens.token.some((text) => /^\s/.test(text));
  const words = h("div", { class: long ? "row" : "words", role: "listbox", "aria-orientation": "horizontal",
    "aria-label": `${unit}s of ${e.prompt}, ${iterationName(e)}` });
  e.tokens.token.forEach((text, t) => {
    const shown = text.replace(/^ /, "").replace(/\n/g, "⏎") || "␣";
    const special = /^(<.*>|\[.*\]|[⏎␣]+)$/.test(shown);
    words.append(h("span", { class: `t${!t || !spaced || /^\s/.test(text) ? " gap" : ""}${special ? " special" : ""}`, role: "option",
      tabindex: -1, "data-t": t, "aria-selected": "false" }, shown, e.tokens.clipped?.[t] ? h("i", { title: "clipped" }) : null));
  });
  const pick = (event, focus) => {
    const t = event.target.closest(".t")?.dataset.t;
    if (t !== undefined) select(i, Number(t), focus);
  };
  words.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse") pick(event, false); });
  words.addEventListener("click", (event) => pick(event, true));
  words.addEventListener("focusin", (event) => pick(event, false));
  words.addEventListener("keydown", (event) => step(event, i));
  const plots = long ? h("div", { class: "strip" }) : null;
  const made = h("article", { "data-e": i }, h("header", {}, withPrompt ? h("b", {}, e.prompt) : null, h("span", {}, iterationName(e)),
    ...facts.filter(Boolean).map((fact) => h("span", {}, fact))), plots, words);
  cards.set(i, { made, words, plots, all: [...words.children] });
  return made;
}
function step(event, i) { // arrows within an episode, up and down between them
  const last = episodes[i].tokens.token.length - 1, order = [...cards.keys()], place = order.indexOf(i);
  const to = { ArrowRight: chosen.t + 1, ArrowLeft: chosen.t - 1, Home: 0, End: last, PageDown: chosen.t + 10, PageUp: chosen.t - 10 }[event.key];
  const other = { ArrowDown: order[place + 1], ArrowUp: order[place - 1] }[event.key];
  if (to !== undefined) select(i, clamp(to, 0, last), true);
  else if (other !== undefined) select(other, Math.min(chosen.t, episodes[other].tokens.token.length - 1), true);
  else return;
  event.preventDefault();
}
function select(i, t, focus) {
  const before = cards.get(chosen.e);
  Object.assign(chosen, { e: i, t });
  mark(before);
  mark(cards.get(i));
  inspectToken();
  if (focus) cards.get(i)?.all[t].focus();
}
function mark(one) { // the chosen token, and where Tab enters an episode
  if (!one) return;
  const i = Number(one.made.dataset.e), here = i === chosen.e;
  one.made.classList.toggle("on", here);
  for (const node of one.words.querySelectorAll('[aria-selected="true"], [tabindex="0"]')) {
    node.setAttribute("aria-selected", "false");
    node.setAttribute("tabindex", -1);
  }
  const at = one.all[here ? chosen.t : 0];
  at?.setAttribute("tabindex", 0);
  if (here) at?.setAttribute("aria-selected", "true");
  if (here && one.plots) {
    one.words.scrollLeft = at.offsetLeft - one.words.offsetLeft - one.words.clientWidth / 2;
    one.plots.cursor?.(chosen.t);
  }
}

function paint() { // colours, bars and names of every token that is shown
  const c = centre();
  // Of the run's own settings, so that a slider is seen to make numbers smaller or larger.
  const sizes = [...cards.keys()].flatMap((i) => episodes[i].tokens.token.map((_, t) =>
    Math.abs(CHANNELS[view.channel](episodes[i], asRun[i], t) - c)));
  scale = quantile(sizes.filter(isNumber), 0.95) || 1;
  for (const [i, one] of cards) {
    one.all.forEach((node, t) => {
      const v = valueAt(episodes[i], i, t), m = isNumber(v) ? clamp((v - c) / scale, -1, 1) : 0;
      node.style.setProperty("--m", Math.abs(m).toFixed(3));
      node.classList.toggle("pos", m > 0);
      node.classList.toggle("neg", m < 0);
      node.setAttribute("aria-label", `${episodes[i].tokens.token[t]}, ${view.channel} ${isNumber(v) ? signed(v) : "not measured"}`);
    });
    if (one.plots) drawStrip(one, i);
    mark(one);
  }
  const end = short(Number(scale.toPrecision(2)));
  $("legend").replaceChildren(h("span", {}, c ? `${c} − ${end}` : `−${end}`),
    h("span", { class: "ramp", role: "img", "aria-label": "orange below, blue above" }),
    h("span", {}, c ? `${c} + ${end}` : `+${end}`),
    h("span", {}, `${view.channel}: ${MEANING[view.channel]}. The bar stands above its line for +, below it for −.`));
  noteSliders();
  inspectToken();
}
function noteSliders() {
  const e = episodes[chosen.e] ?? episodes[0];
  $("reset").disabled = !moved();
  if (!e) return;
  const truth = episodes.some(hasTruth) ? ` True values were measured at γ ${short(e.gamma)} and β ${short(e.kl_coef ?? 0)} and do not follow.` : "";
  const other = isGae ? "" : ` The learner's own advantage (${e.baseline}) is not GAE at these settings and stays as recorded; the sliders move “GAE with this critic”.`;
  const loss = e.kl_in === "loss" ? " Here the KL stands in the loss, so β does not change the reward." : "";
  $("slider-note").textContent = (moved() ? "Reward, δ and GAE are computed anew with these settings." + truth : "These are the run's own settings; move one, and reward, δ and GAE follow.") + other + loss;
}

function drawStrip(one, i) { // a long episode: a heat line, V, and the advantage with δ
  const e = episodes[i], n = e.tokens.token.length, width = Math.max(280, one.made.clientWidth - 30 || 600);
  const heat = s("svg", { viewBox: `0 0 ${width} 16`, width, height: 16, role: "img", "aria-label": `${view.channel} of each ${unit}` });
  const x = (t) => 40 + t / n * (width - 48);
  for (let t = 0; t < n; t++) {
    const m = clamp((valueAt(e, i, t) - centre()) / scale, -1, 1) || 0;
    heat.append(s("rect", { x: x(t), y: m > 0 ? 0 : 8, width: (width - 48) / n + 0.3, height: 8, class: m > 0 ? "fill-pos" : "fill-neg", opacity: Math.abs(m).toFixed(2) }));
  }
  const kinds = [["V", [["value", "line-ink", "V"], ["true_value", "line-third dashed", "true V"]].map(([key, kind, name]) => [e.tokens[key] ?? [], kind, name])],
    ["A", [[now[i].delta, "line-neg thin", "δ"], [isGae ? now[i].advantage : e.tokens.advantage, "line-pos", "A"], [e.tokens.true_advantage ?? [], "line-third dashed", "true A"]]]];
  const plots = kinds.map(([name, lines]) => {
    const drawn = lines.filter(([values]) => values.some(isNumber));
    const ys = span(drawn.flatMap(([values]) => values.filter(isNumber)));
    const plot = frame(`${drawn.map((d) => d[2]).join(", ")} over the ${unit}s`, width, 96, [0, n], ys, { xAbout: 8, top: 16 });
    drawn.forEach(([values, kind, text], k) => {
      plot.line(values.map((v, t) => [t + 0.5, v]), kind);
      plot.svg.append(s("line", { class: `curve ${kind}`, x1: 42 + 70 * k, x2: 58 + 70 * k, y1: 7, y2: 7 }), s("text", { x: 62 + 70 * k, y: 11 }, text));
    });
    const cursor = s("line", { class: "cursor", x1: -9, x2: -9, y1: 14, y2: 76 });
    plot.svg.append(cursor);
    return { ...plot, cursor };
  });
  one.plots.cursor = (t) => plots.forEach((p) => { for (const key of ["x1", "x2"]) p.cursor.setAttribute(key, p.x(t + 0.5)); });
  one.plots.onclick = (event) => select(i, clamp(Math.floor((atPointer(event, heat) - 40) / (width - 48) * n), 0, n - 1), true);
  one.plots.replaceChildren(heat, ...plots.map((p) => p.svg));
}

function inspectToken() {
  const e = episodes[chosen.e], t = chosen.t;
  if (!e) return $("inspector").replaceChildren(h("p", { class: "quiet" }, `No ${unit}s were recorded in this run.`));
  const c = e.tokens, r = now[chosen.e], last = t === c.token.length - 1, get = (name) => c[name]?.[t];
  const equation = (left, words, numbers, result) => h("p", {}, h("b", {}, left), ` = ${words}`, h("br"), `= ${numbers} = `, h("b", {}, signed(result)));
  const charged = e.kl_in === "reward";
  const name = isGae ? "A" : "GAE";
  const equations = [
    charged && drifted ? equation("r", "score − β·KL", `${num(get("score"))} − ${short(r.coef)}·${wrapped(get("kl"))}`, r.reward[t]) : null,
    equation("δ", "r + γ·V′ − V", `${num(r.reward[t])} + ${short(r.gamma)}·${wrapped(get("next_value"))} − ${wrapped(get("value"))}`, r.delta[t]),
    equation(name, `δ + γ·λ·${name}′`, `${num(r.delta[t])} + ${short(r.gamma)}·${short(r.lam)}·${last ? "0" : wrapped(r.advantage[t + 1])}`, r.advantage[t])];
  const se = (value, error) => (isNumber(value) ? `${signed(value)}${error > 0 ? ` ± ${num(error)}` : ""}` : null);
  const off = isNumber(get("true_advantage")) ? CHANNELS.advantage(e, now[chosen.e], t) - get("true_advantage") : NaN;
  const numbers = [["log π(a|s)", num(get("logprob"))], ["π(a|s)", isNumber(get("logprob")) ? num(Math.exp(get("logprob"))) : null],
    ["log ref", num(get("ref_logprob"))], ["KL", signed(get("kl"))], ["entropy", num(get("entropy"))], ["score", num(get("score"))],
    ["V", signed(get("value"))], ["V′", signed(get("next_value"))], ["ratio", isNumber(get("ratio")) ? num(get("ratio")) + (get("clipped") ? " clipped" : "") : null],
    ["A, recorded", signed(get("advantage"))], ["true V", se(get("true_value"), get("true_value_se"))],
    ["true A", se(get("true_advantage"), get("true_advantage_se"))],
    ["A − true A", isNumber(off) ? `${signed(off)}${get("true_advantage_se") > 0 ? `, ${(Math.abs(off) / get("true_advantage_se")).toFixed(1)} SE` : ""}` : null]];
  const wide = ["true V", "true A", "A − true A"];
  const top = get("top") ?? [], drawn = top.some(([text]) => text === get("token"));
  const bars = drawn || !isNumber(get("logprob")) ? top : [...top, [get("token"), Math.exp(get("logprob"))]];
  $("inspector").replaceChildren(h("h3", {}, get("token").trim() || JSON.stringify(get("token"))),
    h("p", { class: "quiet" }, `${unit} ${t + 1} of ${c.token.length}, ${iterationName(e)}`),
    h("div", { class: "equations", id: "equations" }, ...equations.filter(Boolean)),
    h("dl", { class: "numbers" }, ...numbers.filter(([, value]) => value !== null && value !== "–").flatMap(([key, value]) =>
      [h("dt", {}, key), h("dd", { class: wide.includes(key) ? "wide" : null }, value)])),
    top.length ? h("div", { class: "top" }, ...bars.flatMap(([text, p]) => [h("span", {}, text.trim() ? text.trim() : JSON.stringify(text)),
      h("i", { class: text === get("token") ? "on" : null, "--m": p }), h("span", {}, `${(100 * p).toFixed(p < 0.1 ? 1 : 0)}%`)])) : "");
}

// ---------------------------------------------------------------- agreement
function drawAgreement() {
  const points = episodes.flatMap((e, i) => (e.tokens.true_advantage ?? []).map((truth, t) =>
    ({ i, t, x: now[i].advantage[t], y: truth, se: e.tokens.true_advantage_se?.[t] ?? 0 })))
    .filter((p) => isNumber(p.x) && isNumber(p.y));
  const measured = data.agreement;
  $("agreement-said").textContent = points.length
    ? `Each dot is a ${unit}: across, GAE with the sliders' settings; upward, its true advantage, ± one standard error. ` +
      "On the diagonal the critic is right; a wrong sign pushes the policy the wrong way."
    : `No true advantages were measured for this run. ${control ? "" : "`rlhf-pg study credit RUN` measures them."}`;
  const body = $("agreement-body");
  if (!points.length) return body.replaceChildren();
  if (!body.firstChild) {
    const sliderHost = h("div", { class: "sliders" });
    const set = slider(sliderHost, "agreement-lam", "λ, of GAE (the same as above)", 0, 1, 0.005, settings.lam ?? episodes.at(-1).lam,
      (value) => { settings.lam = value; sliders.forEach((follow) => follow("lam", value)); resettle(); });
    sliders.push((name, value) => { if (name === "lam") set(value); });
    body.append(sliderHost, h("div", { class: "facts", id: "agreement-facts" }), h("div", { class: "plots" },
      h("figure", { id: "scatter" }), h("figure", { id: "by-position" })), h("div", { class: "scroll", id: "agreement-table" }));
    if (measured) drawMeasured(measured);
  }
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y), off = xs.map((x, k) => x - ys[k]);
  const facts = [["correlation", num(correlation(xs, ys))],
    ["same sign", `${(100 * mean(points.map((p) => Number(p.x * p.y > 0)))).toFixed(0)}%`],
    ["root mean squared error", num(Math.sqrt(mean(off.map((d) => d * d))))], ["mean error", signed(mean(off))], [`${unit}s`, String(points.length)]];
  $("agreement-facts").replaceChildren(...facts.map(([name, value]) => h("div", {}, h("b", {}, value), name)));
  const width = Math.max(300, $("scatter").clientWidth), range = span([...ys, ...points.map((p) => asRun[p.i].advantage[p.t])]);
  const plot = frame("GAE against the true advantage", width, Math.min(width, 420), range, range,
    { left: 46, bottom: 36, top: 18, xAbout: 6, yAbout: 6, xText: "GAE", yText: "true advantage" });
  plot.svg.append(s("line", { class: "zero dashed", x1: plot.x(range[0]), y1: plot.y(range[0]), x2: plot.x(range[1]), y2: plot.y(range[1]) }));
  for (const p of points.filter((_, k) => k % Math.ceil(points.length / 1200) === 0)) {
    const right = p.x * p.y > 0, kind = right ? "pos" : "neg", x = plot.x(clamp(p.x, ...range));
    plot.svg.append(s("line", { class: `line-${kind} thin`, opacity: 0.4, x1: x, x2: x, y1: plot.y(p.y - p.se), y2: plot.y(p.y + p.se) }),
      s("circle", { class: `fill-${kind}`, opacity: 0.75, r: 3, cx: x, cy: plot.y(p.y),
        onclick: () => { showEpisode(p.i); select(p.i, p.t, true); } },
      s("title", {}, `${episodes[p.i].tokens.token[p.t]}: GAE ${signed(p.x)}, true ${signed(p.y)} ± ${num(p.se)}`)));
  }
  $("scatter").replaceChildren(plot.svg, h("figcaption", {}, "Blue: the same sign. Orange: the wrong one. A click on a dot shows it among the tokens."));
}
function drawMeasured(measured) {
  $("agreement-table").append(h("h3", {}, "By λ, as measured"), table(["λ", "correlation", "corrected for noise", "same sign", "rmse"],
    measured.gae.map((row) => [short(row.lam), num(row.correlation), num(row.corrected_correlation),
      isNumber(row.sign_agreement) ? `${(100 * row.sign_agreement).toFixed(0)}%` : "–", num(row.rmse)]),
    measured.gae.findIndex((row) => row.lam === measured.lam)),
  h("p", { class: "quiet" }, `${measured.completions} completions, ${measured.tokens} tokens; the truth is ` +
    (measured.exact ? "exact, by enumeration" : `the mean of ${measured.continuations} continuations from every prefix`) +
    `. The critic's values correlate with the true ones at ${num(measured.value_correlation)}. ` +
    "“Corrected for noise” allows for the standard errors of the truth."));
  const rows = measured.by_position ?? [];
  if (rows.length < 2) return;
  const width = Math.max(300, $("by-position").clientWidth), last = rows.at(-1).position;
  const all = rows.flatMap((row) => [row.rmse, row.bias, row.noise, 0]).filter(isNumber);
  const plot = frame("Error of GAE by position", width, Math.min(width, 420), [0, last], span(all),
    { left: 46, bottom: 36, top: 18, xAbout: 6, yAbout: 6, xText: `position of the ${unit}`, yText: "GAE − true advantage" });
  for (const [key, kind] of [["rmse", "line-pos"], ["bias", "line-neg"], ["noise", "line-ink dashed thin"]]) {
    plot.line(rows.map((row) => [row.position, row[key]]), kind);
  }
  $("by-position").append(plot.svg, h("figcaption", {}, "Blue: root mean squared error. Orange: mean error. Dashed: how much of it is noise of the truth."));
}
function showEpisode(i) { // make an episode visible, whatever the filters say
  if (cards.has(i)) return;
  Object.assign(view, { prompt: episodes[i].prompt, iteration: String(episodes[i].iteration), score: -Infinity, length: 0, gap: 0, limit: 999 });
  chooser.prompt.value = view.prompt;
  chooser.iteration.value = view.iteration;
  for (const box of $("filters").querySelectorAll("input[type=number]")) box.value = "";
  listEpisodes();
}

// ---------------------------------------------------------------- estimators
const lab = { task: 0, lam: null, critic: null, extra: "" };
function drawEstimators() {
  const tasks = data.estimators ?? [];
  $("estimators-said").textContent = tasks.length
    ? "Many estimates of one gradient, each projected on the true one, which lies at 1. A narrow heap is an estimate of low variance; " +
      "a heap whose mark stands off 1 is biased. Lower λ, and GAE tightens and moves."
    : "No estimators were compared for this run; `rlhf-pg study estimators` does.";
  if (!tasks.length) return;
  const host = h("div", { class: "panel controls" }), choices = h("div", { class: "filters" }), sliderHost = h("div", { class: "sliders" });
  host.append(sliderHost, choices);
  $("estimators-body").replaceChildren(host, h("div", { id: "ridges" }), h("div", { class: "scroll", id: "methods" }));
  const task = tasks[lab.task], gae = task.methods.filter((m) => m.family === "gae");
  const critics = [...new Set(gae.map((m) => m.critic))];
  if (!critics.includes(lab.critic)) lab.critic = critics.includes(task.critic) ? task.critic : critics[0];
  const grid = [...new Set(gae.filter((m) => m.critic === lab.critic).map((m) => m.lam))].sort((a, b) => a - b);
  if (grid.length) {
    if (!grid.includes(lab.lam)) lab.lam = grid.includes(0.95) ? 0.95 : grid.at(-1);
    const range = h("input", { type: "range", id: "estimator-lam", min: 0, max: grid.length - 1, step: 1, "aria-describedby": "ridges" });
    const out = h("output", { for: "estimator-lam" });
    const say = () => { out.textContent = short(lab.lam); range.setAttribute("aria-valuetext", `lambda ${lab.lam}`); };
    range.value = grid.indexOf(lab.lam);
    range.addEventListener("input", () => { lab.lam = grid[range.value]; say(); drawRidges(task); });
    say();
    sliderHost.append(h("div", { class: "slider" }, h("label", { for: "estimator-lam" }, "λ, of GAE (those measured)"), range, out));
  }
  const pick = (key, redraw) => (value) => { lab[key] = key === "task" ? Number(value) : value; redraw(); };
  if (tasks.length > 1) choice(choices, "Task", tasks.map((one, k) => [String(k), one.task]), pick("task", drawEstimators)).value = lab.task;
  if (critics.length > 1) choice(choices, "Critic of GAE", critics.map((c) => [c, c]), pick("critic", drawEstimators)).value = lab.critic;
  const rest = task.methods.filter((m) => m.family !== "gae").map((m) => m.name);
  if (!rest.includes(lab.extra)) lab.extra = "";
  choice(choices, "Beside them", [["", "none"], ...rest.map((name) => [name, name])], pick("extra", () => drawRidges(task))).value = lab.extra;
  drawRidges(task);
}
function drawRidges(task) {
  const find = (family) => task.methods.find((m) => m.family === family);
  const gae = task.methods.find((m) => m.family === "gae" && m.lam === lab.lam && m.critic === lab.critic);
  const rows = [...new Set([find("reinforce"), find("reward-to-go"), find("baseline"), gae, task.methods.find((m) => m.name === lab.extra)])].filter(Boolean);
  const widest = rows.flatMap((m) => [quantile(m.projections, 0.01), quantile(m.projections, 0.99)]);
  const range = span([...widest.filter(isNumber), 0, 1], 0.04), bins = 64;
  const room = $("ridges").clientWidth, width = room > 600 ? room - 252 : room;
  const ridges = rows.flatMap((m, k) => {
    const last = k === rows.length - 1, counts = new Array(bins).fill(0);
    for (const v of m.projections) { // what lies outside is counted at the edge
      counts[clamp(Math.floor((v - range[0]) / (range[1] - range[0]) * bins), 0, bins - 1)]++;
    }
    const height = last ? 86 : 62, most = Math.max(...counts), bottom = last ? 26 : 2;
    const plot = frame(`${m.name}: estimates projected on the true gradient`, width, height, range, [0, most || 1],
      { left: 4, right: 4, top: 4, bottom, yAbout: 0.1, xAbout: last ? 7 : 0.01 });
    plot.svg.querySelectorAll(last ? "text[text-anchor=end], .zero" : "text, .zero").forEach((node) => node.remove());
    const at = mean(m.projections), kind = m.family === "gae" ? "pos" : m.family === "reinforce" ? "neg" : "third";
    counts.forEach((n, b) => plot.svg.append(s("rect", { class: `fill-${kind}`, opacity: 0.75, x: plot.x(range[0] + b * (range[1] - range[0]) / bins),
      width: Math.max(1, (width - 8) / bins - 0.7), y: plot.y(n), height: Math.max(0, plot.y(0) - plot.y(n)) })));
    plot.svg.append(s("line", { class: "line-ink", "stroke-width": 1.4, x1: plot.x(1), x2: plot.x(1), y1: 0, y2: plot.y(0) }),
      s("path", { class: "fill-ink", d: `M${plot.x(clamp(at, ...range))} ${plot.y(0) - 9} l5 9 h-10 z` }));
    return [h("div", {}, h("b", {}, m.family === "gae" ? `GAE, λ = ${short(m.lam)}` : m.name),
      `bias ${num(m.bias)} ± ${num(m.bias_se)}`, h("br"), `variance ${num(m.variance)} · cosine ${num(m.cosine)}`), plot.svg];
  });
  const truth = task.truth, on = task.methods.indexOf(gae);
  $("ridges").replaceChildren(h("div", { class: "ridge" }, ...ridges), h("p", { class: "quiet" },
    `The line at 1 is the true gradient, ${truth.how}` + (isNumber(truth.episodes) ? ` (${truth.episodes} episodes)` : "") +
    `, norm ${num(truth.norm)}` + (truth.relative_error > 0 ? ` ± ${(100 * truth.relative_error).toFixed(1)}%` : "") +
    `; the triangle is the mean of ${task.estimates} estimates of ${task.batch} episodes each.`));
  $("methods").replaceChildren(h("details", { open: $("methods").firstChild ? $("methods").firstChild.open : true }, h("summary", {}, "Every method"),
    table(["method", "λ", "critic", "bias", "± se", "variance", "mse", "cosine", "of one", "signal / noise"], task.methods.map((m) =>
      [m.name, isNumber(m.lam) ? short(m.lam) : "", m.critic ?? "", num(m.bias) + (m.expected_exactly ? " exact" : ""), num(m.bias_se), num(m.variance), num(m.mse),
        num(m.cosine), num(m.cosine_single), num(m.snr)]), on)));
}

// ---------------------------------------------------------------- playground
const HORIZON = 4, STATES = ["A", "B"], ACTIONS = ["stay", "go"];
const play = { p: [0.3, 0.5], rewards: [[0.2, -0.3], [1, 0]], count: 60, weigh: "return", step: 6, limit: 0.05, clip: 0.2, seed: 1 };
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logit = (p) => Math.log(p / (1 - p));
const after = (state, action) => (action ? 1 - state : state);
function random(seed) { // mulberry32
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
// theta_s is the logit of `go` in state s. J, its gradient, the visits d_t(s) and A_t(s, a), all exact.
function exact(theta, rewards) {
  const p = theta.map(sigmoid), visits = [[1, 0]], V = Array.from({ length: HORIZON + 1 }, () => [0, 0]), A = [];
  for (let t = HORIZON - 1; t >= 0; t--) {
    const Q = [0, 1].map((k) => [0, 1].map((a) => rewards[k][a] + V[t + 1][after(k, a)]));
    V[t] = [0, 1].map((k) => (1 - p[k]) * Q[k][0] + p[k] * Q[k][1]);
    A[t] = [0, 1].map((k) => Q[k].map((q) => q - V[t][k]));
  }
  for (let t = 1; t < HORIZON; t++) {
    const [a, b] = visits[t - 1];
    visits.push([a * (1 - p[0]) + b * p[1], a * p[0] + b * (1 - p[1])]);
  }
  const gradient = [0, 1].map((k) => sum(visits.map((d, t) => d[k] * p[k] * (1 - p[k]) * (A[t][k][1] - A[t][k][0]))));
  return { J: V[0][0], gradient, visits, A, V, p };
}
function sample(draw, p, rewards, V, weigh) {
  const steps = [];
  for (let t = 0, state = 0; t < HORIZON; t++) {
    const action = draw() < p[state] ? 1 : 0;
    steps.push({ state, action, reward: rewards[state][action], slope: action - p[state] });
    state = after(state, action);
  }
  const total = sum(steps.map((one) => one.reward)), estimate = [0, 0];
  steps.forEach((one, t) => {
    const toGo = sum(steps.slice(t).map((later) => later.reward));
    one.weight = { return: total, "to-go": toGo, baseline: toGo - V[t][one.state] }[weigh];
    estimate[one.state] += one.slope * one.weight;
  });
  return { steps, total, estimate };
}
// KL(old || new) of a step's actions, averaged over the states the old policy visits.
function divergence(old, theta) {
  const q = theta.map(sigmoid);
  return sum(old.visits.flatMap((d) => [0, 1].map((k) => d[k] / HORIZON *
    (old.p[k] * Math.log(old.p[k] / q[k]) + (1 - old.p[k]) * Math.log((1 - old.p[k]) / (1 - q[k]))))));
}
function within(old, theta, direction, limit) { // the longest part of a step whose KL stays within the limit
  const go = (k) => theta.map((x, s_) => x + k * direction[s_]);
  if (divergence(old, go(1)) <= limit) return go(1);
  let [low, high] = [0, 1];
  for (let i = 0; i < 50; i++) {
    const half = (low + high) / 2;
    if (divergence(old, go(half)) <= limit) low = half; else high = half;
  }
  return go(low);
}
function clipped(old, theta, size, clip) { // many small steps up PPO's clipped objective, in expectation
  const path = [...theta], parts = 400;
  for (let i = 0; i < parts; i++) {
    const p = path.map(sigmoid), slope = [0, 0];
    old.visits.forEach((d, t) => [0, 1].forEach((k) => [0, 1].forEach((a) => {
      const before = a ? old.p[k] : 1 - old.p[k], ratio = (a ? p[k] : 1 - p[k]) / before, A = old.A[t][k][a];
      if (A > 0 ? ratio < 1 + clip : ratio > 1 - clip) slope[k] += d[k] * before * A * ratio * (a - p[k]);
    })));
    path.forEach((_, k) => { path[k] += size / parts * slope[k]; });
  }
  return path;
}

function drawPlayControls() {
  const host = $("play-sliders"), move = (change) => (value) => { change(value); drawPlay(); };
  slider(host, "play-a", "π(go | A)", 0.02, 0.98, 0.01, play.p[0], move((v) => { play.p[0] = v; }));
  slider(host, "play-b", "π(go | B)", 0.02, 0.98, 0.01, play.p[1], move((v) => { play.p[1] = v; }));
  slider(host, "play-count", "Trajectories", 5, 400, 5, play.count, move((v) => { play.count = Math.round(v); }));
  slider(host, "play-step", "Step size η", 0.5, 20, 0.5, play.step, move((v) => { play.step = v; }));
  slider(host, "play-limit", "KL limit", 0.005, 0.3, 0.005, play.limit, move((v) => { play.limit = v; }));
  slider(host, "play-clip", "Clip ε", 0.05, 0.6, 0.05, play.clip, move((v) => { play.clip = v; }));
  const choices = $("play-choices");
  choice(choices, "Each action is weighed by", [["return", "the whole return G"], ["to-go", "the reward-to-go"], ["baseline", "the reward-to-go − V(s)"]],
    move((v) => { play.weigh = v; })).id = "play-weigh";
  STATES.forEach((state, k) => ACTIONS.forEach((action, a) => {
    const box = h("input", { type: "number", step: 0.1, value: play.rewards[k][a], oninput: () => { if (box.value !== "") { play.rewards[k][a] = Number(box.value); drawPlay(); } } });
    choices.append(h("label", {}, `r(${state}, ${action})`, box));
  }));
  choices.append(h("button", { type: "button", id: "play-again", onclick: () => { play.seed += 1; drawPlay(); } }, "Draw again"));
}
function arrow(svg, from, to, kind, width) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]], long = Math.hypot(dx, dy) || 1, head = Math.min(long, 4 + 2 * width);
  const [ux, uy] = [dx / long, dy / long], [bx, by] = [to[0] - ux * head, to[1] - uy * head];
  svg.append(s("line", { class: `line-${kind}`, "stroke-width": width, x1: from[0], y1: from[1], x2: bx, y2: by }),
    s("path", { class: `fill-${kind}`, d: `M${to[0]} ${to[1]} L${bx - uy * head / 2} ${by + ux * head / 2} L${bx + uy * head / 2} ${by - ux * head / 2} z` }));
}
function drawPlay() {
  const theta = play.p.map(logit), old = exact(theta, play.rewards), draw = random(play.seed);
  const drawn = Array.from({ length: play.count }, () => sample(draw, play.p, play.rewards, old.V, play.weigh));
  const average = [0, 1].map((k) => mean(drawn.map((one) => one.estimate[k]))), g = old.gradient;
  const spread = [0, 1].map((k) => sum(drawn.map((one) => (one.estimate[k] - average[k]) ** 2)) / (play.count - 1));
  const direction = g.map((x) => play.step * x);
  const steps = [["as it was", theta, "ink"], ["unconstrained", theta.map((x, k) => x + direction[k]), "neg"],
    ["KL-limited", within(old, theta, direction, play.limit), "third"], ["clipped", clipped(old, theta, play.step, play.clip), "pos"]];
  drawArrows(drawn, average, g);
  drawPlane(theta, old, steps);
  $("play-table").replaceChildren(table(["step", "π(go | A)", "π(go | B)", "KL(old ‖ new)", "J"], steps.map(([name, at, kind]) =>
    [h("span", {}, h("i", { class: `dot fill-${kind}` }), name), ...at.map((x) => num(sigmoid(x))), num(Math.max(0, divergence(old, at))), num(exact(at, play.rewards).J)])));
  const vector = (x) => `(${signed(x[0])}, ${signed(x[1])})`;
  const cosine = (g[0] * average[0] + g[1] * average[1]) / (Math.hypot(...g) * Math.hypot(...average));
  const line = (name, ...rest) => h("p", {}, h("b", {}, name), ...rest);
  $("play-equations").replaceChildren(h("h3", {}, "In numbers"),
    line("∂log π(go|s)/∂θ_s = 1 − π(go|s)", ` = ${num(1 - play.p[0])} in A, ${num(1 - play.p[1])} in B; of stay, −π(go|s) = ${num(-play.p[0])} and ${num(-play.p[1])}`),
    line("J = E[r₀ + r₁ + r₂ + r₃]", ` = ${num(old.J)}, exactly`),
    line("∇J = Σₜ E[∇log π(aₜ|sₜ) · A(sₜ, aₜ)]", ` = ${vector(g)}, exactly`),
    line(`mean of ${play.count} estimates`, ` = ${vector(average)} ± (${spread.map((v) => num(Math.sqrt(v / play.count))).join(", ")}); cosine ${num(cosine)}`),
    line("variance of one estimate", ` = ${num(sum(spread))}`));
  $("play-trajectories").replaceChildren(h("h3", {}, "The first of them"), h("div", { class: "scroll" }, table(["trajectory", "return", "estimate"], drawn.slice(0, 6).map((one) =>
    [one.steps.map((x) => `${STATES[x.state]} ${ACTIONS[x.action]} ${short(x.reward)}`).join(" → "), num(one.total), vector(one.estimate)]))));
}
function drawArrows(drawn, average, g) {
  const width = Math.max(280, $("play-arrows").clientWidth), height = Math.min(width, 400);
  const reach = Math.max(quantile(drawn.flatMap((one) => one.estimate.map(Math.abs)), 0.97), Math.hypot(...g) * 1.2, 0.1) * 1.05;
  const across = reach * (width - 54) / (height - 54);
  const plot = frame("estimates of the gradient, their mean and the exact gradient", width, height, [-across, across], [-reach, reach],
    { left: 46, bottom: 36, top: 18, xText: "∂ / ∂θ of A", yText: "∂ / ∂θ of B" });
  const place = ([a, b]) => [plot.x(clamp(a, -across, across)), plot.y(clamp(b, -reach, reach))], origin = place([0, 0]);
  plot.svg.append(s("line", { class: "zero", x1: origin[0], x2: origin[0], y1: 18, y2: height - 36 }));
  const faint = s("g", { opacity: Math.min(0.55, 12 / drawn.length + 0.12) });
  for (const one of drawn) arrow(faint, origin, place(one.estimate), one.total >= 0 ? "pos" : "neg", 1);
  plot.svg.append(faint);
  arrow(plot.svg, origin, place(average), "third", 3);
  arrow(plot.svg, origin, place(g), "ink", 3);
  $("play-arrows").replaceChildren(plot.svg);
  $("play-arrows-said").textContent = "Thin: one trajectory's Σ ∇log π · weight, blue where its return is positive, orange where it is not. Green: their mean. Black or white: the exact gradient.";
}
function drawPlane(theta, old, steps) {
  const width = Math.max(280, $("play-plane").clientWidth), height = Math.min(width, 400), reach = 5;
  const plot = frame("J over the two logits, and three steps", width, height, [-reach, reach], [-reach, reach],
    { left: 46, bottom: 36, top: 18, xText: "θ of A: logit of go", yText: "θ of B: logit of go" });
  const cells = 40, all = [];
  const size = 2 * reach / cells;
  for (let i = 0; i < cells; i++) for (let j = 0; j < cells; j++) {
    const at = [-reach + (i + 0.5) * size, -reach + (j + 0.5) * size];
    all.push([at, exact(at, play.rewards).J]);
  }
  const [low, high] = [Math.min(...all.map((c) => c[1])), Math.max(...all.map((c) => c[1]))];
  const ground = s("g", { "shape-rendering": "crispEdges" });
  for (const [at, J] of all) {
    ground.append(s("rect", { class: "fill-pos", "fill-opacity": (0.04 + 0.42 * Math.round(12 * (J - low) / (high - low || 1)) / 12).toFixed(3), x: plot.x(at[0] - size / 2), y: plot.y(at[1] + size / 2),
      width: plot.x(size) - plot.x(0), height: plot.y(0) - plot.y(size) }));
  }
  const ring = Array.from({ length: 73 }, (_, k) => within(old, theta, [30 * Math.cos(k * Math.PI / 36), 30 * Math.sin(k * Math.PI / 36)], play.limit));
  const place = (at) => at.map((x) => clamp(x, -reach, reach));
  plot.svg.prepend(ground);
  plot.line(ring.map(place), "line-third thin dashed");
  const from = [plot.x(theta[0]), plot.y(theta[1])];
  for (const [name, at, kind] of steps.slice(1)) {
    const [a, b] = place(at);
    arrow(plot.svg, from, [plot.x(a), plot.y(b)], kind, 2.4);
    plot.svg.append(s("title", {}, name));
  }
  plot.svg.append(s("circle", { class: "at", r: 5, cx: from[0], cy: from[1] }));
  $("play-plane").replaceChildren(plot.svg);
  $("play-plane-said").textContent = `The darker, the higher J, from ${num(low)} to ${num(high)}. Orange: the whole step. Green: within the KL limit, whose edge is dashed. Blue: where the clip leaves no more to gain.`;
}

// ---------------------------------------------------------------- the page
function start() {
  if (data.left_out.length) $("left-out").append(...data.left_out.map((text) => h("p", { class: "note" }, text)));
  $("config").lastElementChild.append(table(["option", "value"], data.config));
  if (control) $("to-tokens").textContent = $("h-tokens").textContent = "Steps";
  $("tokens-said").textContent = episodes.length
    ? `Every ${unit} of the recorded ${whole}s, coloured by what you choose. Point at one, or move with the arrow keys, to see its numbers and how its advantage comes about.`
    : `No ${unit}s were recorded in this run.`;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const name = () => { $("theme").textContent = isDark() ? "Light" : "Dark"; };
  $("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; name(); });
  name();
  drawOverview();
  drawControls();
  listEpisodes();
  drawAgreement();
  drawEstimators();
  drawPlayControls();
  drawPlay();
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (innerWidth !== width) { width = innerWidth; paint(); drawAgreement(); drawEstimators(); drawPlay(); } }, 150);
  });
}
start();

window.report = {
  data,
  // One entry for each embedded episode: {reward, delta, advantage}, lists with a number for each token.
  recompute: (gamma, lam, kl) => episodes.map((e) => recompute(e, { gamma, lam, kl })),
  // J and its gradient for the two logits and rewards[state][action] of the playground.
  gradient: (theta, rewards) => { const { J, gradient } = exact(theta, rewards); return { J, gradient }; },
};
})();
