// (e) A Gaussian policy: two estimates of one gradient.
function gaussianSection() {
  const KINDS = { score: ["score function", "neg"], reparameterised: ["reparameterised", "pos"] };
  const at = { mu: -1, sigma: 1, count: 10, rate: 0.1, reward: "hill" }, now = {};
  let noise, last = [], steps = 0;
  const reset = () => {
    noise = random(5);
    steps = 0;
    for (const kind of Object.keys(KINDS)) now[kind] = { mu: at.mu, sigma: at.sigma,
      path: [[0, gaussianPolicy.exact(at.mu, at.sigma, REWARDS[at.reward]).J]] };
    last = Array.from({ length: Math.max(200, at.count) }, () => gaussian(noise));
  };
  const advance = () => {
    const eps = Array.from({ length: at.count }, () => gaussian(noise)), reward = REWARDS[at.reward];
    steps += 1;
    for (const [kind, one] of Object.entries(now)) {
      const drawn = eps.map((e) => gaussianPolicy[kind](one.mu, one.sigma, e, reward));
      one.mu = clamp(one.mu + at.rate * mean(drawn.map((g) => g[0])), -6, 6);
      one.sigma = clamp(one.sigma + at.rate * mean(drawn.map((g) => g[1])), 0.1, 4);
      one.path.push([steps, gaussianPolicy.exact(one.mu, one.sigma, reward).J]);
    }
    return steps < 300;
  };
  const knobs = { mu: ["start: mean μ", -4, 4, 0.1], sigma: ["start: standard deviation σ", 0.2, 3, 0.05],
    count: ["samples per step", 1, 200, 1], rate: ["learning rate", 0.01, 0.5, 0.01] };
  for (const [key, knob] of Object.entries(knobs)) {
    slider($("gauss-sliders"), `gauss-${key}`, ...knob, at[key],
      (v) => { at[key] = key === "count" ? Math.round(v) : v; reset(); draw(); });
  }
  choice($("gauss-choices"), "Reward f(a)",
    [["hill", "a hill with its top at 1"], ["step", "a step at 1: flat elsewhere"]], at.reward,
    (v) => { at.reward = v; reset(); draw(); }).id = "gauss-reward";
  function draw() {
    const reward = REWARDS[at.reward], xs = Array.from({ length: 161 }, (_, i) => -6 + i * 0.075), one = now.score;
    const density = ({ mu, sigma }) =>
      xs.map((a) => [a, 2.4 * Math.exp(-(((a - mu) / sigma) ** 2) / 2) / Math.max(sigma, 0.4) / 2.5 - 1.5]);
    curves($("gauss-policy"), "the reward and the two policies",
      [[xs.map((a) => [a, Math.max(reward.f(a), -4)]), "line-ink", "reward f(a)"],
      ...Object.entries(KINDS).map(([kind, [name, colour_]]) => [density(now[kind]), `line-${colour_}`, name])],
    [-6, 6], [-4, 3], { xText: "action a", height: 220 });
    const exact = Object.fromEntries(Object.keys(KINDS).map((kind) =>
      [kind, gaussianPolicy.exact(now[kind].mu, now[kind].sigma, reward)]));
    const drawn = Object.fromEntries(Object.keys(KINDS).map((kind) =>
      [kind, last.map((e) => gaussianPolicy[kind](one.mu, one.sigma, e, reward))]));
    const here = gaussianPolicy.exact(one.mu, one.sigma, reward);
    const reach = Math.max(1, quantile(drawn.score.map((g) => Math.abs(g[0])), 0.97)) * 1.1;
    for (const [kind, [name, colour_]] of Object.entries(KINDS)) {
      histogram($(`gauss-${kind}`), `estimates of the gradient by mu, ${name}`, drawn[kind].map((g) => g[0]),
        [-reach, reach],
        { kind: colour_, height: 120, xText: `∂J/∂μ, ${name}`, marks: [[here.gradient[0], "line-ink", "exact"]] });
    }
    $("gauss-table").replaceChildren(scrollable(table(["estimate", "mean, exact (μ, σ)", "variance, exact",
      `mean of ${last.length} samples`, "variance of them"],
      Object.entries(KINDS).map(([kind, [name, colour_]]) => [h("span", h(`i.dot.fill-${colour_}`), name),
        pair(here[kind].mean), here[kind].variance,
        pair([0, 1].map((k) => mean(drawn[kind].map((g) => g[k])))),
          sum([0, 1].map((k) => variance(drawn[kind].map((g) => g[k]))))]))));
    const most = Math.max(50, steps), all = Object.values(now).flatMap((x) => x.path.map((q) => q[1]));
    curves($("gauss-J"), "J of the two policies over the steps", Object.entries(KINDS).map(([kind, [name, colour_]]) =>
      [now[kind].path, `line-${colour_}`, name]), [0, most], span([...all, 0]), { xText: "steps", height: 220 });
    facts($("gauss-facts"), Object.entries(KINDS).map(([kind, [name]]) => [`${name}: μ, σ, J`,
      `${num(now[kind].mu)}, ${num(now[kind].sigma)}, ${num(exact[kind].J)}`]));
  }
  reset();
  player($("gauss-player"), { id: "gauss", perSecond: 5, advance, draw, reset, speeds: [0.2, 1, 6] });
  addSection(draw);
}
