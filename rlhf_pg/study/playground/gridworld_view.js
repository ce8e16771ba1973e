// (d) A gridworld, learned by three methods side by side.
function gridSection() {
  const METHODS = { reinforce: ["REINFORCE", "neg"], baseline: ["REINFORCE with baseline V", "third"],
    "actor-critic": ["actor-critic, one-step", "pos"] };
  const at = { rate: 0.2, valueRate: 0.2 }, best = gridworld.optimum();
  let learners = {};
  const reset = () => {
    learners = Object.fromEntries(Object.keys(METHODS).map((name) => [name, Object.assign(gridLearner(name, 11),
      { J: [gridworld.exact(grid.open.map(() => [0, 0, 0, 0])).J], returns: [] })]));
  };
  const advance = () => {
    for (const one of Object.values(learners)) {
      one.returns.push(one.learn({ ...at, gamma: 1 }));
      one.J.push(gridworld.exact(one.logits).J);
    }
    return learners.reinforce.J.length <= 2000;
  };
  const knobs = { rate: ["learning rate of the policy", 0.02, 1, 0.02], valueRate: ["learning rate of V", 0.02, 0.5,
    0.02] };
  for (const [key, knob] of Object.entries(knobs)) slider($("grid-sliders"), `grid-${key}`, ...knob, at[key],
    (v) => { at[key] = v; });
  function draw() {
    $("grid-worlds").replaceChildren(...Object.entries(METHODS).map(([name, [title, kind]]) => {
      const one = learners[name];
      return h("figure", h("h3", h(`i.dot.fill-${kind}`), title), drawWorld(one), h("p.quiet",
        `exact J ${num(one.J.at(-1))}, last return ${one.returns.length ? num(one.returns.at(-1)) : "–"}`));
    }));
    const n = learners.reinforce.J.length, most = Math.max(50, n);
    const thin = (values) => { const k = Math.ceil(values.length / 400); return values.map((v, i) =>
      [i, Math.max(v, -2)]).filter((_, i) => i % k === 0 || i === values.length - 1); };
    curves($("grid-J"), "exact J of the three policies over the episodes",
      [...Object.entries(METHODS).map(([name, [title, kind]]) =>
      [thin(learners[name].J), `line-${kind}`, roomOf($("grid-J"), 900) > 500 ? title : name]),
    [[[0, best.J], [most, best.J]], "line-ink dashed thin", ""]],
    [0, most], [-2, 1], { xText: "episodes", height: 230, most: 900 });
    facts($("grid-facts"), [["episodes", String(n - 1)], ["optimum, by value iteration", num(best.J)]]);
  }
  function drawWorld({ logits, V, method }) { // V as colour and number, the policy as arrows
    const cell = 74, svg = s("svg.world", { viewBox: `0 0 ${4 * cell} ${3 * cell}`, role: "img",
      "aria-label": `policy and values of ${METHODS[method][0]}` });
    const box = (x, y, kind, opacity) =>
      s(`rect.${kind}`, { x: (x - 1) * cell + 1, y: (3 - y) * cell + 1, width: cell - 2, height: cell - 2, rx: 6,
      "fill-opacity": opacity });
    svg.append(box(2, 2, "fill-quiet", 0.5));
    for (const [place, r] of Object.entries(grid.ends)) {
      const [x, y] = place.split(",").map(Number);
      svg.append(box(x, y, r > 0 ? "fill-third" : "fill-neg", 0.6),
        s("text.end", { x: (x - 0.5) * cell, y: (3.57 - y) * cell, "text-anchor": "middle" },
        signed(r).replace(".000", "")));
    }
    grid.open.forEach(([x, y], state) => {
      const pi = softmax(logits[state]), v = V[state], middle = [(x - 0.5) * cell, (3.5 - y) * cell];
      svg.append(box(x, y, v >= 0 ? "fill-pos" : "fill-neg", method === "reinforce" ? 0.06 : 0.06
        + 0.5 * Math.min(1, Math.abs(v))));
      Object.values(MOVES).forEach(([dx, dy], a) => pi[a] > 0.02 && arrow(svg, middle,
        [middle[0] + dx * pi[a] * cell * 0.44, middle[1] - dy * pi[a] * cell * 0.44], "ink", 1 + 2 * pi[a]));
      if (method !== "reinforce") svg.append(s("text", { x: (x - 1) * cell + 6, y: (4 - y) * cell - 6 },
        short(Number(v.toFixed(2)))));
    });
    return svg;
  }
  reset();
  player($("grid-player"), { id: "grid", perSecond: 10, advance, draw, reset, speeds: [0.2, 1, 10], unit: "episode" });
  addSection(draw);
}
