// The episodes, coloured token by token, with channels, sliders and filters.
const episodes = data.episodes, settings = { gamma: null, lam: null, kl: null };
const asRun = episodes.map((e) => recompute(e));
let now = asRun;
const hasCritic = episodes.some((e) => e.baseline === "critic");
const hasKl = episodes.some((e) => e.tokens.kl?.some((x) => x));
// Whether the learner's advantage is GAE with the run's values: not without a critic, nor for n-step returns.
const isGae = episodes.every((e, i) => e.baseline === "critic" && (e.tokens.advantage ?? []).every((a, t) =>
  !isNumber(a) || Math.abs(a - asRun[i].advantage[t]) < 1e-3 * (1 + Math.abs(a))));
const GAE = "GAE with this critic", column = (name) => (e, r, t) => e.tokens[name]?.[t];
// Each channel: its value at (episode, recomputed numbers, t), and its meaning.
const CHANNELS = {
  advantage: isGae ? [(e, r, t) => r.advantage[t], "how much better it was than expected (GAE with the slider values)",
    "advantage A"]
    : [column("advantage"), "the advantage that the learner used", "advantage A"],
  ...(hasCritic && !isGae
    ? { [GAE]: [(e, r, t) => r.advantage[t], "with the slider values; not used by the learner", GAE] } : {}),
  "true advantage": [column("true_advantage"), "measured from many continuations before and after it, or exactly",
    "true advantage"],
  ...(hasCritic ? { δ: [(e, r, t) => r.delta[t], "r + γ·V′ − V: surprise of the critic at this step", "TD error δ"] }
    : {}),
  reward: [(e, r, t) => r.reward[t], control ? "as the learner got it, scaled and shaped"
    : "score − β·KL, as the learner got it", "reward r"],
  ...(control ? { raw: [column("score"), "the environment's own reward", "raw reward"] } : {}),
  KL: [column("kl"), "log π − log π of the reference, in nats", "KL to the reference"],
  "log-prob": [column("logprob"), "log π(a|s) when it was sampled, in nats", "log-probability"],
  ...(hasCritic ? { V: [column("value"), "the critic's estimate of the return from here on", "critic's value V"] }
    : {}),
  entropy: [column("entropy"), "entropy of π(·|s), in nats: 0 is certain", "entropy"],
  ratio: [column("ratio"), "probability after the update / before it; a dot marks clipped ones", "probability ratio"],
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
  for (const [name, [value, meaning, label]] of Object.entries(CHANNELS)) {
    const disabled = !episodes.some((e, i) => e.tokens.token.some((_, t) => value(e, now[i], t)));
    const onchange = () => { view.channel = name; paint(); };
    const checked = name === view.channel;
    const radio = h("input", { type: "radio", name: "channel", value: name, checked, disabled, onchange });
    $("channels").append(h("label", { title: meaning }, radio, h("span", label)));
  }
  const own = episodes.at(-1) ?? { gamma: 1, lam: 0.95 }, coef = own.kl_coef ?? 0;
  const knobs = hasCritic ? { gamma: ["discount γ", 1, own.gamma],
    lam: ["λ of GAE: 0 trusts the critic, 1 the return", 1,
    own.lam] } : {};
  if (hasKl) knobs.kl = ["KL coefficient β", Math.max(0.5, 3 * coef), coef];
  for (const [name, [label, high, value]] of Object.entries(knobs)) {
    const set = slider($("sliders"), name, label, 0, high, 0.005, value, (v) => change(name, v));
    followers.push((moved, v) => { if (moved === name) set(v); });
  }
  const reset = () => Object.keys(settings).forEach((name) => change(name, null));
  $("sliders").append(h("div", h("button", { type: "button", id: "reset", onclick: reset }, "Reset to the run")));
  $("sliders").hidden = !Object.keys(knobs).length;
  const host = $("filters"), unique = (values) => [...new Set(values)];
  const relist = (key) => (value) => { view[key] = value; view.limit = 16; listEpisodes(); };
  const prompts = unique(episodes.map((e) => e.prompt)), final = episodes.some((e) => !isNumber(e.iteration));
  const times = unique(episodes.map((e) => e.iteration)).sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  if (final && !control) view.iteration = "null";
  choice(host, "Prompt", [["", "all prompts"], ...prompts.map((p) => [p, p])], "", relist("prompt"));
  const named = times.map((it) => [String(it), it ?? "after training"]);
  chooser.iteration = choice(host, "Iteration", [["", "all"], ...named], view.iteration, relist("iteration"));
  choice(host, "Sort by", [["", "recorded order"], ["-score", "highest score"], ["score", "lowest score"],
    ["-length", "longest"], ["length", "shortest"], ["-gap", "largest error of the advantage"]], "", relist("sort"));
  const least = { score: "Score at least", length: "Length at least", gap: "Error of the advantage at least (SE)" };
  for (const [key, label] of Object.entries(least)) {
    const read = () => relist(key)(box.value === "" ? null : Number(box.value));
    const box = h("input", { type: "number", step: "any", oninput: read });
    host.append(h("label", label, box));
  }
  const compare = () => { // iterations can only be compared if all of them are listed
    chooser.iteration.value = view.iteration = side.checked ? "" : chooser.before;
    relist("side")(side.checked);
  };
  const side = h("input", { type: "checkbox", id: "side", onchange: () => {
    if (side.checked) chooser.before = view.iteration;
    compare();
  } });
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
    h("div.group", h("h3", prompt), sideBySide(members.sort(inTime).map((row) => card(row, false)))))
    : some.map((row) => card(row, true))));
  $("count").textContent = `${some.length} of ${found.length} matching ${whole}s; ${episodes.length} recorded`;
  $("more").hidden = some.length === found.length;
  if (!cards.has(chosen.e) && some.length) {
    const sizes = some[0].e.tokens.token.map((_, t) => Math.abs(advantageOf(some[0].i, t) ?? 0));
    Object.assign(chosen, { e: some[0].i, t: Math.max(0, sizes.indexOf(Math.max(...sizes))) });
  }
  paint();
}
function sideBySide(members) {
  const made = scrollable(members);
  made.firstChild.classList.add("side");
  return made;
}
function card({ e, i, gap, length }, prompt) {
  const noisy = (e.tokens.true_advantage_se ?? []).some((x) => x > 0);
  const facts = [when(e), `score ${signed(e.score)}`, isNumber(e.gold) && `gold ${signed(e.gold)}`,
    `${length} ${unit}s`, !e.finished && `cut at the ${control ? "time" : "length"} limit`,
    gap !== null && `mean error of the advantages: ${gap.toFixed(1)}${noisy ? " standard errors" : ""}`];
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
  const stage = control ? scene(e, i, (t) => select(i, t, false)) : null;
  const header = h("header", prompt && h("b", e.prompt), facts.map((fact) => fact && h("span", fact)));
  const made = h("article", { "data-e": i }, header, stage?.host, strip, words);
  cards.set(i, { made, words, strip, stage, all: [...words.children] });
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
  if (here && at) one.stage?.show(chosen.t);
  if (!here || !one.strip || !at) return;
  one.words.scrollLeft = at.offsetLeft - one.words.offsetLeft - one.words.clientWidth / 2;
  one.strip.cursor(chosen.t);
}
function paint() { // colours, bars and accessible names of all shown tokens
  const c = centre(), [, meaning, label] = CHANNELS[view.channel];
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
    h("span.intro", `${label}: ${meaning}. Bars go up above ${c}, down below it.`));
  noteSliders();
  inspectToken();
}
function noteSliders() {
  const e = episodes[chosen.e] ?? episodes[0], moved = Object.values(settings).some((v) => v !== null);
  $("reset").disabled = !moved;
  if (!e) return;
  const truth = episodes.some((one) => one.tokens.true_advantage?.some(isNumber));
  const scaled = (e.reward_scale ?? 1) !== 1 || (e.entropy_temperature ?? 0) > 0;
  $("slider-note").textContent = [
    hasCritic && (moved ? "Reward, TD error and GAE are recomputed with these values."
      : "The sliders show the run's values. Move one to recompute reward, TD error and GAE."),
    !hasCritic && `This run has no critic: its advantage is the one that the learner used (baseline: ${e.baseline}).`,
    moved && truth && `True values are for γ ${short(e.gamma)} and β ${short(e.kl_coef ?? 0)} and do not change.`,
    hasCritic && !isGae && `The learner's advantage stays as recorded; the sliders change “${GAE}”.`,
    !hasCritic && hasKl && "The KL coefficient changes the reward, and not the recorded advantage.",
    scaled && "The learner's rewards were scaled or shaped: reward, V, TD error and advantage are in its units; "
      + "score and raw reward are in the task's own.",
    scaled && truth && "True advantages are in the task's units: compare signs and correlation only.",
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
  const values = hasCritic ? [[c.value, "line-ink", "V"], [c.true_value, "line-third dashed", "true V"]]
    : [[now[i].toGo, "line-ink", "return from here on"]];
  const plots = [values, [hasCritic && [now[i].delta, "line-neg thin", "δ"],
    [isGae ? now[i].advantage : c.advantage, "line-pos", "A"],
    [c.true_advantage, "line-third dashed", "true A"]].filter(Boolean)].map((lines) => {
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
