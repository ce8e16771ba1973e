// (b) Two states: sampled gradients, and four ways to make a step of them, on the map of J.
function twoStateSection() {
  const RULES = { free: ["free: θ + η·g", "neg"], kl: ["KL-limited", "third"], natural: ["natural gradient", "ink"],
    clipped: ["clipped (PPO)", "pos"] };
  const at = { a: 0.2, b: 0.1, rewards: [[0, 1], [-0.4, -2]], count: 50, weigh: "to-go", gradient: "sampled", eta: 40,
    limit: 0.005, clip: 0.2, look: "kl" };
  const now = {}; // of each rule: its path of theta, its last sample and gradient
  function sampleAt(theta, rule) {
    const old = twoState.exact(theta, at.rewards), draw = now[rule].draw;
    const drawn = Array.from({ length: at.count }, () => twoState.sample(draw, old, at.rewards, at.weigh));
    const average = PAIR.map((k) => mean(drawn.map((one) => one.estimate[k])));
    Object.assign(now[rule], { old, drawn, average, g: at.gradient === "exact" ? old.gradient : average });
  }
  function reset() {
    for (const rule of Object.keys(RULES)) {
      const theta = [at.a, at.b].map(logit);
      now[rule] = { draw: random(7), path: [theta], J: [twoState.exact(theta, at.rewards).J] };
      sampleAt(theta, rule);
    }
  }
  function advance() {
    for (const rule of Object.keys(RULES)) {
      const { path, old, g, drawn } = now[rule], theta = path.at(-1), whole = g.map((x) => x * at.eta);
      const terms = at.gradient === "exact" ? twoState.expectedTerms(old) : twoState.sampledTerms(drawn);
      const next = { free: () => along(theta, whole, 1), kl: () => twoState.within(old, theta, whole, at.limit),
        natural: () => twoState.natural(old, theta, g, at.limit),
        clipped: () => twoState.clipped(old, theta, terms, at.eta, at.clip) }[rule]();
      path.push(next.map((x) => clamp(x, -12, 12)));
      now[rule].J.push(twoState.exact(path.at(-1), at.rewards).J);
      sampleAt(path.at(-1), rule);
    }
    return now.free.path.length < 200;
  }
  const knobs = { a: ["start: π(go | A)", 0.02, 0.98, 0.01], b: ["start: π(go | B)", 0.02, 0.98, 0.01],
    count: ["trajectories per step", 1, 400, 1], eta: ["step size η (free, KL-limited, clipped)", 1, 60, 1],
    limit: ["KL limit, nats (KL-limited, natural)", 0.001, 0.2, 0.001], clip: ["clip range ε", 0.05, 0.6, 0.05] };
  for (const [key, knob] of Object.entries(knobs)) {
    slider($("two-sliders"), `two-${key}`, ...knob, at[key],
      (v) => { at[key] = key === "count" ? Math.round(v) : v; reset(); draw(); });
  }
  const ask = (key, label, options, again = true) => {
    choice($("two-choices"), label, options, at[key],
      (v) => { at[key] = v; if (again) reset(); draw(); }).id = `two-${key}`;
  };
  ask("gradient", "Gradient", [["sampled", "sampled"], ["exact", "exact"]]);
  ask("weigh", "Weight of each score", [["return", "whole return"], ["to-go", "reward-to-go"],
    ["baseline", "reward-to-go − V(s)"]]);
  STATES.forEach((state, k) => ACTIONS.forEach((action, a) => {
    const box = h("input", { type: "number", step: 0.1, value: at.rewards[k][a], oninput: () => {
      at.rewards[k][a] = Number(box.value);
      reset();
      draw();
    } });
    $("two-choices").append(h("label", `r(${state}, ${action})`, box));
  }));
  ask("look", "Show the sample of", Object.entries(RULES).map(([key, [name]]) => [key, name]), false);

  function draw() {
    const { old, drawn, average, path } = now[at.look], theta = path.at(-1);
    drawArrows($("two-arrows"), drawn, average, old.gradient);
    drawMap($("two-map"), at.rewards,
      Object.entries(RULES).map(([rule, [, kind]]) => ({ kind, path: now[rule].path })));
    const most = Math.max(20, path.length - 1), all = Object.values(now).flatMap((one) => one.J);
    curves($("two-J"), "J of the four policies over the steps", Object.entries(RULES).map(([rule, [name, kind]]) =>
      [now[rule].J.map((J, i) => [i, J]), `line-${kind}`, roomOf($("two-J"), 900) > 500 ? name : rule]), [0, most],
        span([...all, 0]),
    { xText: "steps", yText: "", height: 220, most: 900 });
    $("two-table").replaceChildren(scrollable(table(["policy", "π(go | A)", "π(go | B)", "KL of the next step", "J"],
      Object.entries(RULES).map(([rule, [name, kind]]) => {
        const one = now[rule], last = one.path.at(-1);
        const before = one.path.length > 1 ? twoState.exact(one.path.at(-2), at.rewards) : null;
        return [h("span", h(`i.dot.fill-${kind}`), name), ...last.map(sigmoid),
          before ? Math.max(0, twoState.divergence(before, last)) : "–", one.J.at(-1)];
      }))));
    const first = drawn[0],
      spread = sum(PAIR.map((k) => (drawn.length > 1 ? variance(drawn.map((one) => one.estimate[k])) : NaN)));
    $("two-steps").replaceChildren(scrollable(table(["t", "state", "action", "reward", "score a − p", "weight",
      "score × weight"],
      first.steps.map((one, t) => [String(t), STATES[one.state], ACTIONS[one.action], one.reward, one.score, one.weight,
        one.score * one.weight]))));
    const cosine = dot(old.gradient, average) / (Math.hypot(...old.gradient) * Math.hypot(...average));
    facts($("two-facts"), [["this trajectory's estimate (A, B)", pair(first.estimate)],
      [`mean of ${drawn.length}`, pair(average)],
      ["exact gradient", pair(old.gradient)], ["cosine of mean and exact", num(cosine)],
        ["variance of one estimate", num(spread)]]);
  }
  player($("two-player"), { id: "two", perSecond: 4, advance, draw, reset, speeds: [0.25, 1, 4] });
  reset();
  addSection(draw);
}
function arrow(svg, from, to, kind, width) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]], long = Math.hypot(dx, dy) || 1,
    head = Math.min(long, 4 + 2 * width);
  const [ux, uy] = [dx / long * head, dy / long * head], [bx, by] = [to[0] - ux, to[1] - uy];
  svg.append(s(`line.line-${kind}`, { "stroke-width": width, x1: from[0], y1: from[1], x2: bx, y2: by }),
    s(`path.fill-${kind}`,
      { d: `M${to[0]} ${to[1]} L${bx - uy / 2} ${by + ux / 2} L${bx + uy / 2} ${by - ux / 2} z` }));
}
function drawArrows(host, drawn, average, g) {
  const width = roomOf(host), height = Math.min(width, 400);
  const up = 1.05 * Math.max(quantile(drawn.flatMap((one) => one.estimate.map(Math.abs)), 0.97),
    Math.hypot(...g) * 1.2, 0.1);
  const across = up * (width - 54) / (height - 54); // so that angles are right
  const plot = frame("estimates of the gradient, their mean and the exact gradient", width, height,
    [-across, across], [-up, up],
    { left: 46, bottom: 36, top: 18, xText: "∂ / ∂θ of A", yText: "∂ / ∂θ of B" });
  const place = ([a, b]) => [plot.x(clamp(a, -across, across)), plot.y(clamp(b, -up, up))], origin = place([0, 0]);
  const faint = s("g", { opacity: Math.min(0.55, 12 / drawn.length + 0.25) });
  for (const one of drawn) arrow(faint, origin, place(one.estimate), one.total >= 0 ? "pos" : "neg", 1);
  plot.svg.append(s("line.zero", { x1: origin[0], x2: origin[0], y1: 18, y2: height - 36 }), faint);
  arrow(plot.svg, origin, place(average), "third", 6);
  arrow(plot.svg, origin, place(g), "ink", 2);
  host.replaceChildren(plot.svg);
}
// J over both logits as a smooth picture, with the paths of the policies.
function drawMap(host, rewards, paths) {
  const width = roomOf(host), height = Math.min(width, 400), reach = 5, cells = 120;
  const plot = frame("J over the two logits, with the paths of four policies", width, height, [-reach, reach],
    [-reach, reach],
    { left: 46, bottom: 36, top: 18, xText: "θ of A: logit of go", yText: "θ of B: logit of go" });
  const [x0, y0, x1, y1] = [plot.x(-reach), plot.y(reach), plot.x(reach), plot.y(-reach)];
  const values = Array.from({ length: cells ** 2 },
    (_, i) => twoState.exact([-reach + 2 * reach * (i % cells + 0.5) / cells,
    reach - 2 * reach * (Math.floor(i / cells) + 0.5) / cells], rewards).J);
  const low = Math.min(...values), high = Math.max(...values),
    canvas = h("canvas", { width: cells, height: cells, "aria-hidden": "true" });
  const ink = canvas.getContext("2d"), image = ink.createImageData(cells, cells), [r, g, b] = colour("--pos");
  values.forEach((J, i) => image.data.set([r, g, b, 12 + 165 * (J - low) / (high - low || 1)], 4 * i));
  ink.putImageData(image, 0, 0);
  const percent = (v, whole) => `${100 * v / whole}%`;
  for (const [key, value] of [["left", percent(x0, width)], ["top", percent(y0, height)],
    ["width", percent(x1 - x0, width)],
    ["height", percent(y1 - y0, height)]]) canvas.style.setProperty(key, value);
  const pixel = (at) => [plot.x(clamp(at[0], -reach, reach)), plot.y(clamp(at[1], -reach, reach))];
  for (const { kind, path } of paths) {
    const points = path.map(pixel);
    plot.svg.append(s("polyline", { class: `curve line-${kind}`, "stroke-width": 2.2,
      points: points.map((q) => q.join(",")).join(" ") }));
    points.forEach(([x, y]) => plot.svg.append(s(`circle.fill-${kind}`, { r: 2, cx: x, cy: y })));
    plot.svg.append(s(`circle.fill-${kind}`, { r: 5, cx: points.at(-1)[0], cy: points.at(-1)[1] }));
  }
  const [x, y] = pixel(paths[0].path[0]);
  plot.svg.append(s("circle.at", { r: 5, cx: x, cy: y }));
  host.replaceChildren(h("div.map", canvas, plot.svg));
  $("two-range").textContent = `from ${num(low)} to ${num(high)}`;
}
function colour(name) { // the red, green and blue of a colour of the page
  const probe = h("canvas", { width: 1, height: 1 }), ink = probe.getContext("2d"), sample = h("i", { class: "probe" });
  document.body.append(sample);
  sample.style.setProperty("color", `var(${name})`);
  ink.fillStyle = getComputedStyle(sample).color;
  sample.remove();
  ink.fillRect(0, 0, 1, 1);
  return ink.getImageData(0, 0, 1, 1).data;
}
