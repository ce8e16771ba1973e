// (c) What gamma and lambda do: the advantage of one action, estimated from many episodes.
function walkSection() {
  const at = { gamma: 1, lam: 0.9, error: 0.2 }, seen = {};
  const lambdas = Array.from({ length: 21 }, (_, i) => i / 20);
  const reset = () => Object.assign(seen, { draw: random(3), episodes: [] });
  const advance = () => seen.episodes.push(walk.episode(seen.draw)) < 3000;
  const knobs = { gamma: ["discount γ", 0.5, 1, 0.01], lam: ["λ of GAE: 0 trusts the critic, 1 the return", 0, 1, 0.05],
    error: ["error of the critic", 0, 0.5, 0.01] };
  for (const [key, knob] of Object.entries(knobs)) {
    slider($("walk-sliders"), `walk-${key}`, ...knob, at[key], (v) => { at[key] = v; draw(); });
  }
  function draw() {
    const truth = walk.advantage(at.gamma), V = walk.critic(at.gamma, at.error), n = seen.episodes.length;
    const estimates = (lam) => seen.episodes.map((one) => walk.estimate(one, V, at.gamma, lam));
    const now = estimates(at.lam), average = n ? mean(now) : NaN, spread = n > 1 ? variance(now) : NaN;
    histogram($("walk-histogram"), "estimates of the advantage of one action", now, [-1.6, 1.6],
      { height: 200, xText: "GAE of the first step",
      marks: [[truth, "line-ink", "true advantage"], [average, "line-neg", "mean"]] });
    facts($("walk-facts"), [["true advantage", num(truth)], ["mean of the estimates", num(average)],
      ["bias", n ? `${signed(average - truth)} ± ${num(Math.sqrt(spread / n))}` : "–"], ["variance", num(spread)],
        ["episodes", String(n)]]);
    const parts = n > 1 ? lambdas.map((lam) => { const x = estimates(lam),
      m = mean(x); return [lam, (m - truth) ** 2, variance(x)]; }) : [];
    const most = Math.max(0.05, ...parts.map(([, b, v]) => b + v));
    const plot = curves($("walk-by-lambda"), "squared bias, variance and their sum for each lambda", [
      [parts.map(([lam, b]) => [lam, b]), "line-neg", "bias²"], [parts.map(([lam, , v]) => [lam, v]), "line-pos",
        "variance"],
      [parts.map(([lam, b, v]) => [lam, b + v]), "line-ink", "sum"]], [0, 1], [0, most], { xText: "λ", height: 200 });
    plot.svg.append(s("line.cursor", { x1: plot.x(at.lam), x2: plot.x(at.lam), y1: 34, y2: plot.y(0) }));
    drawChain(V);
  }
  function drawChain(V) { // the five states, with V and the critic
    const width = roomOf($("walk-chain")), true_ = walk.values(at.gamma), x = (i) => (i + 1.3) * width / 7;
    const svg = s("svg", { viewBox: `0 0 ${width} 78`, width, height: 78, role: "img",
      "aria-label": "the walk, its values and the critic's" });
    svg.append(s("line.grid", { x1: x(0), x2: x(5) + width / 14, y1: 26, y2: 26 }));
    const below = (px, y, text, anchor = "middle") => svg.append(s("text", { x: px, y, "text-anchor": anchor }, text));
    V.forEach((v, i) => {
      svg.append(s(i === 2 ? "circle.fill-pos" : "circle.fill-quiet", { cx: x(i), cy: 26, r: 12 }));
      below(x(i), 54, minus(true_[i].toFixed(2)));
      below(x(i), 70, minus(v.toFixed(2)));
    });
    below(0, 54, "true V", "start");
    below(0, 70, "critic", "start");
    svg.append(s("text", { x: x(5), y: 30, "text-anchor": "middle" }, "+1"),
      s("text", { x: x(2), y: 10, "text-anchor": "middle" }, "start, step right"));
    $("walk-chain").replaceChildren(svg);
  }
  reset();
  player($("walk-player"), { id: "walk", perSecond: 60, advance, draw, reset, speeds: [0.1, 1, 10], unit: "episode" });
  addSection(draw);
}
