// The metrics: a chart for each over the iterations, with one cursor in all of them.
const iterations = data.metrics.iteration ?? [], cursors = [];
const FIRST = ["score", "gold", "eval_score", "objective", "kl", "entropy", "length", "eos_rate", "policy_loss",
  "value_loss", "explained_variance", "clip_fraction", "grad_norm"];
const LAST = ["training_seconds", "steps", "score_std", "eval_score_std", "tokens_per_second", "first_ratio_drift",
  "update_kl", "ratio_drift", "kl_k3", "kl_exact", "kl_loss", "advantage_std", "score_std_within"];
function drawOverview() {
  const names = Object.keys(data.metrics).filter((name) => !["iteration", "seconds"].includes(name));
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : 99), constant = [];
  const others = $("more-charts").lastElementChild;
  for (const name of names.sort((a, b) => rank(a) - rank(b))) {
    const seen = data.metrics[name].filter(isNumber), [low, high] = [Math.min(...seen), Math.max(...seen)];
    if (high - low > 1e-6 * Math.abs(high)) (LAST.includes(name) ? others : $("charts")).append(drawCurve(name, seen));
    else if (seen.length) constant.push(`${words(name)[0]} (${name}) ${short(seen[0])}`);
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
const words = (name) => data.words[name] ?? [name, "", ""]; // its name, its unit, what is good
function drawCurve(name, seen) {
  const values = data.metrics[name], ends = [iterations[0], iterations.at(-1)];
  const chart = frame(`${words(name)[0]} over iterations, from ${num(seen[0])} to ${num(seen.at(-1))}`, 260, 118, ends,
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
  const [title, measure, good] = words(name);
  const help = data.help[name] ?? data.help[name.replace(/\/.*/, "/NAME")], id = `tip-${cursors.length}`;
  const [first, last, least, most] = [seen[0], seen.at(-1), Math.min(...seen), Math.max(...seen)].map(num);
  const about = `First ${first}, last ${last}; lowest ${least}, highest ${most}.`;
  return h("div.chart", h("div", h("button", { type: "button", "aria-describedby": id }, title), out,
    h("span.tip", { role: "tooltip", id }, help ? `${help}. ` : "", about)),
    h("p.what", title === name ? null : h("code", name), measure), chart.svg, good && h("p.good", `Good: ${good}.`));
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
