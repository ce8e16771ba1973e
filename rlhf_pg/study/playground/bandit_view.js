// (a) A bandit: the exact gradient beside sampled estimates, for any baseline.
function banditSection() {
  const at = { p: 0.9, b: 0, rate: 0.5, learn: false }, seen = { draw: null, estimates: [], path: [] };
  const reset = () => Object.assign(seen, { draw: random(1), estimates: [], path: [at.p], theta: logit(at.p) });
  const p = () => sigmoid(seen.theta);
  const knobs = { p: ["p = π(1): probability of the paying action", 0.02, 0.98, 0.01], b: ["baseline b", -1, 2, 0.05],
    rate: ["learning rate", 0.05, 5, 0.05] };
  const set = {};
  for (const [key, knob] of Object.entries(knobs)) {
    set[key] = slider($("bandit-sliders"), `bandit-${key}`, ...knob, at[key], (v) => {
      at[key] = v;
      if (key !== "rate") reset();
      draw();
    });
  }
  const learn = h("input",
    { type: "checkbox", id: "bandit-learn", onchange: () => { at.learn = learn.checked; reset(); draw(); } });
  $("bandit-choices").append(h("label.check", learn, "Follow the sampled gradient (p moves)"),
    ...[["b = 0", () => 0], ["b = E[r] = p", () => at.p],
      ["b = 1 − p, the best", () => 1 - at.p]].map(([name, value]) =>
      h("button", { type: "button", onclick: () => { at.b = value(); set.b(at.b); reset(); draw(); } }, name)));
  const advance = () => {
    const a = seen.draw() < p() ? 1 : 0, g = bandit.estimate(p(), a, a, at.b);
    seen.estimates.push(g);
    if (at.learn) {
      seen.theta += at.rate * g;
      seen.path.push(p());
      if (seen.path.length > 2000) return false;
    }
    return seen.estimates.length < 20000;
  };
  function draw() {
    const now = bandit.exact(p(), at.b), zero = bandit.exact(p(), 0), n = seen.estimates.length;
    const average = n ? mean(seen.estimates) : NaN, spread = n > 1 ? variance(seen.estimates) : NaN;
    const table = [["exact gradient p(1 − p)", num(now.gradient)],
      at.learn ? ["estimates so far, each at its own p", String(n)] : ["mean of the samples",
        n > 1 ? `${num(average)} ± ${num(Math.sqrt(spread / n))}` : "press Play"],
      ["exact variance of one estimate", num(now.variance)],
      ...(at.learn ? [["p now", num(p())]] : [["variance of the samples", num(spread)], ["samples", String(n)]]),
      ["variance, relative to b = 0", `${num(now.variance / zero.variance)}×`]];
    facts($("bandit-facts"), table);
    const reach = Math.max(...[0, 1].map((a) => Math.abs(bandit.estimate(p(), a, a, at.b))), 0.3) * 1.15;
    if (at.learn) {
      curves($("bandit-histogram"), "p over the steps",
        [[seen.path.map((v, i) => [i, v]), "line-pos", "p along the samples"]],
        [0, Math.max(50, seen.path.length)], [0, 1], { xText: "samples", yText: "p", height: 200 });
    } else {
      histogram($("bandit-histogram"), "sampled estimates of the gradient", seen.estimates, [-reach, reach],
        { xText: "g of one sample",
        height: 200, marks: [[now.gradient, "line-ink", "exact"], [average, "line-neg", "mean of samples"]] });
    }
    const grid = Array.from({ length: 121 }, (_, i) => -1 + i / 40), most = Math.max(bandit.exact(p(), -1).variance,
      bandit.exact(p(), 2).variance);
    const overB = curves($("bandit-by-b"), "variance for each baseline",
      [[grid.map((b) => [b, bandit.exact(p(), b).variance]), "line-pos"]],
      [-1, 2], [0, most], { xText: "baseline b", yText: "variance", height: 200 });
    for (const [b, kind, name] of [[0, "ink", "0"], [p(), "neg", "p"], [1 - p(), "third", "1 − p"]]) {
      const y = overB.y(bandit.exact(p(), b).variance);
      overB.svg.append(s(`circle.fill-${kind}`, { r: 4, cx: overB.x(b), cy: y }),
        s("text", { x: overB.x(b) + 5, y: y - 7 }, name));
    }
    overB.svg.append(s("circle.at", { r: 5, cx: overB.x(at.b), cy: overB.y(now.variance) }));
    const ps = Array.from({ length: 97 }, (_, i) => 0.02 + i / 100);
    const overP = curves($("bandit-by-p"), "variance for each p", [
      [ps.map((x) => [x, bandit.exact(x, 0).variance]), "line-ink", "b = 0"],
      [ps.map((x) => [x, bandit.exact(x, x).variance]), "line-neg", "b = E[r]"]], [0, 1], [0, 0.16],
    { xText: "p", yText: "variance", height: 200 });
    overP.svg.append(s("line.line-quiet.dashed", { x1: overP.x(2 / 3), x2: overP.x(2 / 3), y1: 34, y2: overP.y(0) }),
      s("text", { x: overP.x(2 / 3) + 4, y: 46 }, "p = 2/3"),
        s("circle.at", { r: 4, cx: overP.x(p()), cy: overP.y(zero.variance) }));
  }
  player($("bandit-player"), { id: "bandit", perSecond: 50, advance, draw, reset, speeds: [0.1, 1, 20],
    unit: "sample" });
  reset();
  addSection(draw);
}
