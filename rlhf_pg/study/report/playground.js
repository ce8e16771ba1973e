// The playground: a policy gradient small enough to be exact, drawn with the functions of viewer.js.
// Two states, A and B; two actions: 0 stays, 1 goes to the other; four steps from A. theta_s is the logit of going.
const HORIZON = 4, PAIR = [0, 1], STATES = ["A", "B"], ACTIONS = ["stay", "go"];
const play = { a: 0.3, b: 0.5, rewards: [[0.2, -0.3], [1, 0]], count: 60, weigh: "return", step: 6, limit: 0.05,
  clip: 0.2, seed: 1 };
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const after = (state, action) => (action ? 1 - state : state);
const along = (theta, direction, k) => theta.map((x, i) => x + k * direction[i]);
function exact(theta, rewards) { // J, its gradient, state probabilities visits[t][s], V[t][s] and A[t][s][a]
  const p = theta.map(sigmoid), visits = [[1, 0]], A = [], V = [];
  V[HORIZON] = [0, 0];
  for (let t = HORIZON - 1; t >= 0; t--) {
    const Q = PAIR.map((k) => PAIR.map((a) => rewards[k][a] + V[t + 1][after(k, a)]));
    V[t] = PAIR.map((k) => (1 - p[k]) * Q[k][0] + p[k] * Q[k][1]);
    A[t] = PAIR.map((k) => Q[k].map((q) => q - V[t][k]));
  }
  for (let t = 1; t < HORIZON; t++) {
    const toB = visits[t - 1][0] * p[0] + visits[t - 1][1] * (1 - p[1]);
    visits.push([1 - toB, toB]);
  }
  const gradient = PAIR.map((k) => sum(visits.map((d, t) => d[k] * p[k] * (1 - p[k]) * (A[t][k][1] - A[t][k][0]))));
  return { J: V[0][0], gradient, visits, A, V, p };
}
function random(seed) { // a linear congruential generator of numbers in [0, 1)
  let state = Math.imul(seed, 0x9e3779b1) >>> 0;
  return () => (state = (1664525 * state + 1013904223) % 2 ** 32) / 2 ** 32;
}
function sample(draw, { p, V }) { // one trajectory, and its estimate of the gradient
  const steps = [], estimate = [0, 0];
  for (let t = 0, state = 0; t < HORIZON; t++) {
    const action = draw() < p[state] ? 1 : 0;
    steps.push({ state, action, reward: play.rewards[state][action] });
    state = after(state, action);
  }
  steps.forEach(({ state, action }, t) => {
    const rest = play.weigh === "return" ? steps : steps.slice(t);
    const weight = sum(rest.map((one) => one.reward)) - (play.weigh === "baseline" ? V[t][state] : 0);
    estimate[state] += (action - p[state]) * weight;
  });
  return { steps, estimate, total: sum(steps.map((one) => one.reward)) };
}
// KL(old || new) of an action, averaged over the states that the old policy visits.
function divergence({ visits, p }, theta) {
  const q = theta.map(sigmoid), kl = PAIR.map((k) => p[k] * Math.log(p[k] / q[k])
    + (1 - p[k]) * Math.log((1 - p[k]) / (1 - q[k])));
  return sum(visits.map((d) => d[0] * kl[0] + d[1] * kl[1])) / HORIZON;
}
function within(old, theta, direction, limit) { // the longest part of a step with a KL within the limit
  if (divergence(old, along(theta, direction, 1)) <= limit) return along(theta, direction, 1);
  let low = 0, high = 1;
  for (let i = 0; i < 50; i++) {
    const half = (low + high) / 2;
    if (divergence(old, along(theta, direction, half)) <= limit) low = half; else high = half;
  }
  return along(theta, direction, low);
}
function clipped(old, theta, size, clip) { // 400 small steps up PPO's expected clipped objective
  let at = theta;
  for (let i = 0; i < 400; i++) {
    const p = at.map(sigmoid), slope = [0, 0];
    old.visits.forEach((d, t) => PAIR.forEach((k) => PAIR.forEach((a) => {
      const before = a ? old.p[k] : 1 - old.p[k], ratio = (a ? p[k] : 1 - p[k]) / before, A = old.A[t][k][a];
      if (A > 0 ? ratio < 1 + clip : ratio > 1 - clip) slope[k] += d[k] * before * A * ratio * (a - p[k]);
    })));
    at = along(at, slope, size / 400);
  }
  return at;
}
function drawPlayControls() {
  const knobs = { a: ["π(go | A)", 0.02, 0.98, 0.01], b: ["π(go | B)", 0.02, 0.98, 0.01],
    count: ["Trajectories", 5, 400, 5],
    step: ["Step size η", 0.5, 20, 0.5], limit: ["KL limit", 0.005, 0.3, 0.005], clip: ["Clip ε", 0.05, 0.6, 0.05] };
  const move = (key) => (value) => { play[key] = key === "count" ? Math.round(value) : value; drawPlay(); };
  for (const [key, knob] of Object.entries(knobs)) slider($("play-sliders"), `play-${key}`, ...knob, play[key],
    move(key));
  choice($("play-choices"), "Weight of ∇log π",
    [["return", "whole return G"], ["to-go", "reward-to-go"],
    ["baseline", "reward-to-go − V(s)"]], play.weigh, move("weigh")).id = "play-weigh";
  STATES.forEach((state, k) => ACTIONS.forEach((action, a) => {
    const set = () => { play.rewards[k][a] = Number(box.value); drawPlay(); };
    const box = h("input", { type: "number", step: 0.1, value: play.rewards[k][a], oninput: set });
    $("play-choices").append(h("label", `r(${state}, ${action})`, box));
  }));
  const again = () => { play.seed += 1; drawPlay(); };
  $("play-choices").append(h("button", { type: "button", id: "play-again", onclick: again }, "Sample again"));
}
function drawPlay() {
  const theta = [play.a, play.b].map((p) => Math.log(p / (1 - p))), old = exact(theta, play.rewards),
    draw = random(play.seed);
  const g = old.gradient, drawn = Array.from({ length: play.count }, () => sample(draw, old)),
    whole = along([0, 0], g, play.step);
  const average = PAIR.map((k) => mean(drawn.map((one) => one.estimate[k])));
  const spread = PAIR.map((k) => sum(drawn.map((one) => (one.estimate[k] - average[k]) ** 2)) / (play.count - 1));
  const steps = [["before", theta, "ink"], ["unconstrained", along(theta, whole, 1), "neg"],
    ["KL-limited", within(old, theta, whole, play.limit), "third"],
      ["clipped", clipped(old, theta, play.step, play.clip), "pos"]];
  drawArrows(drawn, average, g);
  drawPlane(theta, old, steps);
  $("play-table").replaceChildren(table(["step", "π(go | A)", "π(go | B)", "KL(old ‖ new)", "J"],
    steps.map(([name, at, kind]) => [h("span", h(`i.dot.fill-${kind}`), name), ...at.map(sigmoid),
      Math.max(0, divergence(old, at)), exact(at, play.rewards).J])));
  const vector = (x) => `(${signed(x[0])}, ${signed(x[1])})`, line = (name, text) => h("p", h("b", name), text);
  const errors = spread.map((v) => Math.sqrt(v / play.count)),
    cosine = sum(PAIR.map((k) => g[k] * average[k])) / (Math.hypot(...g) * Math.hypot(...average));
  $("play-equations").replaceChildren(
    line("∂log π(go|s)/∂θₛ = 1 − π(go|s)",
      ` = ${num(1 - play.a)} in A, ${num(1 - play.b)} in B; for stay: −π(go|s)`),
    line("J = E[r₀ + r₁ + r₂ + r₃]", ` = ${num(old.J)} (exact)`),
    line("∇J = Σₜ E[∇log π(aₜ|sₜ) · A(sₜ, aₜ)]", ` = ${vector(g)} (exact)`),
    line(`mean of ${play.count} estimates`,
      ` = ${vector(average)} ± (${errors.map(num).join(", ")}); cosine to ∇J ${num(cosine)}`),
    line("variance of one estimate", ` = ${num(sum(spread))}`));
  $("play-trajectories").replaceChildren(table(["trajectory", "return", "Σ ∇log π · weight"],
    drawn.slice(0, 8).map((one) => [one.steps.map((x) => `${STATES[x.state]} ${ACTIONS[x.action]} ${short(x.reward)}`)
      .join(" → "), one.total, vector(one.estimate)])));
}
function arrow(svg, from, to, kind, width) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]], long = Math.hypot(dx, dy) || 1,
    head = Math.min(long, 4 + 2 * width);
  const [ux, uy] = [dx / long * head, dy / long * head], [bx, by] = [to[0] - ux, to[1] - uy];
  svg.append(s(`line.line-${kind}`, { "stroke-width": width, x1: from[0], y1: from[1], x2: bx, y2: by }),
    s(`path.fill-${kind}`,
      { d: `M${to[0]} ${to[1]} L${bx - uy / 2} ${by + ux / 2} L${bx + uy / 2} ${by - ux / 2} z` }));
}
function drawArrows(drawn, average, g) {
  const width = Math.max(280, $("play-arrows").clientWidth), height = Math.min(width, 400);
  const up = 1.05 * Math.max(quantile(drawn.flatMap((one) => one.estimate.map(Math.abs)), 0.97),
    Math.hypot(...g) * 1.2, 0.1);
  const across = up * (width - 54) / (height - 54); // so that angles are right
  const plot = frame("estimates of the gradient, their mean and the exact gradient", width, height, [-across, across],
    [-up, up],
    { left: 46, bottom: 36, top: 18, xText: "∂ / ∂θ of A", yText: "∂ / ∂θ of B" });
  const place = ([a, b]) => [plot.x(clamp(a, -across, across)), plot.y(clamp(b, -up, up))], origin = place([0, 0]);
  const faint = s("g", { opacity: Math.min(0.55, 12 / drawn.length + 0.25) });
  for (const one of drawn) arrow(faint, origin, place(one.estimate), one.total >= 0 ? "pos" : "neg", 1);
  plot.svg.append(s("line.zero", { x1: origin[0], x2: origin[0], y1: 18, y2: height - 36 }), faint);
  arrow(plot.svg, origin, place(average), "third", 6);
  arrow(plot.svg, origin, place(g), "ink", 2);
  $("play-arrows").replaceChildren(plot.svg);
}
function drawPlane(theta, old, steps) {
  const width = Math.max(280, $("play-plane").clientWidth), height = Math.min(width, 400), reach = 5, cells = 40,
    size = 0.25;
  const plot = frame("J over the two logits, and three steps", width, height, [-reach, reach], [-reach, reach],
    { left: 46, bottom: 36, top: 18, xText: "θ of A: logit of go", yText: "θ of B: logit of go" });
  const places = Array.from({ length: cells }, (_, i) => -reach + (i + 0.5) * size);
  const all = places.flatMap((a) => places.map((b) => [a, b, exact([a, b], play.rewards).J]));
  const low = Math.min(...all.map((cell) => cell[2])), high = Math.max(...all.map((cell) => cell[2]));
  const shade = (J) => 0.04 + 0.42 * Math.round(12 * (J - low) / (high - low || 1)) / 12;
  const wide = plot.x(size) - plot.x(0), tall = plot.y(0) - plot.y(size);
  plot.svg.prepend(s("g", { "shape-rendering": "crispEdges" },
    all.map(([a, b, J]) => s("rect.fill-pos", { width: wide, height: tall,
    x: plot.x(a - size / 2), y: plot.y(b + size / 2), "fill-opacity": shade(J).toFixed(3) }))));
  const place = (at) => at.map((x) => clamp(x, -reach, reach)),
    pixel = (at) => [plot.x(place(at)[0]), plot.y(place(at)[1])];
  const around = Array.from({ length: 73 }, (_, k) =>
    [30 * Math.cos(k * Math.PI / 36), 30 * Math.sin(k * Math.PI / 36)]);
  plot.line(around.map((direction) => place(within(old, theta, direction, play.limit))), "line-third thin dashed");
  for (const [, at, kind] of steps.slice(1)) arrow(plot.svg, pixel(theta), pixel(at), kind, 2.4);
  plot.svg.append(s("circle.at", { r: 5, cx: pixel(theta)[0], cy: pixel(theta)[1] }));
  $("play-plane").replaceChildren(plot.svg);
  $("play-range").textContent = `from ${num(low)} to ${num(high)}`;
}
