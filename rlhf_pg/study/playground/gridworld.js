// The 4 by 3 world of Russell and Norvig: a wall at (2, 2), +1 at (4, 3), -1 at (4, 2), -0.04 for each step.
// A move goes where it points with probability 0.8, and to either side with 0.1 each. Three learners walk in it.
const MOVES = { up: [0, 1], down: [0, -1], left: [-1, 0], right: [1, 0] };
const grid = (() => {
  const ends = { "4,3": 1, "4,2": -1 }, open = [];
  for (const y of [1, 2, 3]) for (const x of [1, 2, 3, 4]) if (!(`${x},${y}` in ends)
    && `${x},${y}` !== "2,2") open.push([x, y]);
  const index = (x, y) => open.findIndex(([a, b]) => a === x && b === y);
  const outcomes = open.map(([x, y]) =>
    Object.values(MOVES).map(([dx, dy]) => // [probability, next state or -1, reward]
    [[0.8, dx, dy], [0.1, dy, dx], [0.1, -dy, -dx]].map(([chance, ex, ey]) => {
      const at = `${x + ex},${y + ey}`, next = index(x + ex, y + ey);
      if (at in ends) return [chance, -1, -0.04 + ends[at]];
      return [chance, next < 0 ? index(x, y) : next, -0.04];
    })));
  return { ends, open, outcomes, start: index(1, 1) };
})();
const backup = (s, a, V, gamma) =>
  sum(grid.outcomes[s][a].map(([p, next, r]) => p * (r + (next < 0 ? 0 : gamma * V[next]))));
const gridworld = {
  // J, V and the exact gradient by the logits[s][a] of a softmax policy.
  exact(logits, gamma = 1) {
    const pi = logits.map(softmax), n = grid.open.length, following = pi.map(() => Array(n).fill(0));
    const reward = pi.map((row, s) => sum(row.map((p, a) => p * sum(grid.outcomes[s][a].map(([chance, next, r]) => {
      if (next >= 0) following[s][next] += p * chance;
      return chance * r;
    })))));
    const unit = (i, j) => (i === j ? 1 : 0), all = pi.map((_, i) => i);
    const V = solve(all.map((i) => all.map((j) => unit(i, j) - gamma * following[i][j])), reward);
    const visits = solve(all.map((i) => all.map((j) => unit(i, j) - gamma * following[j][i])),
      all.map((i) => unit(i, grid.start)));
    const gradient = pi.map((row, s) => row.map((p, a) => visits[s] * p * (backup(s, a, V, gamma) - V[s])));
    return { J: V[grid.start], V, pi, gradient };
  },
  optimum(gamma = 1) { // V* by value iteration
    let V = grid.open.map(() => 0);
    for (let i = 0; i < 500; i++) V = V.map((_, s) =>
      Math.max(...Object.keys(MOVES).map((_, a) => backup(s, a, V, gamma))));
    return { V, J: V[grid.start] };
  },
  episode(draw, logits, longest = 200) {
    const steps = [];
    for (let s = grid.start; s >= 0 && steps.length < longest;) {
      const a = choose(draw, softmax(logits[s])),
        [, next, r] = grid.outcomes[s][a][choose(draw, [0.8, 0.1, 0.1])] ?? grid.outcomes[s][a][2];
      steps.push({ s, a, r, next });
      s = next;
    }
    return steps;
  },
  // The weights of an episode's scores under each method; V is the learner's table.
  weights(method, steps, V, gamma = 1) {
    const rewards = steps.map((step) => step.r), values = steps.map((step) => V[step.s]);
    const next = steps.map((step) => (step.next < 0 ? 0 : V[step.next])), toGo = discountedSum(rewards, gamma);
    if (method === "reinforce") return toGo;
    return method === "baseline" ? along(toGo, values, -1) : tdErrors(rewards, values, next, gamma);
  },
  // sum_t weight_t * d log pi(a_t|s_t), by the logits[s][a].
  gradient(logits, steps, weights) {
    const total = logits.map((row) => row.map(() => 0));
    steps.forEach(({ s, a }, t) =>
      softmax(logits[s]).forEach((p, k) => { total[s][k] += weights[t] * ((k === a ? 1 : 0) - p); }));
    return total;
  },
};
// A learner of a method: logits, a table V, and update(steps) with an episode.
function gridLearner(method, seed) {
  const draw = random(seed), learner = { method, logits: grid.open.map(() => [0, 0, 0, 0]), V: grid.open.map(() => 0) };
  learner.learn = ({ rate, valueRate, gamma }) => {
    const steps = gridworld.episode(draw, learner.logits), { logits, V } = learner;
    const weights = gridworld.weights(method, steps, V, gamma), up = gridworld.gradient(logits, steps, weights);
    learner.logits = logits.map((row, s) => along(row, up[s], rate));
    if (method !== "reinforce") { // towards the return, or towards r + gamma V': one pass over the episode
      const toGo = discountedSum(steps.map((step) => step.r), gamma);
      steps.forEach(({ s, r, next }, t) => {
        const target = method === "baseline" ? toGo[t] : r + (next < 0 ? 0 : gamma * V[next]);
        V[s] += valueRate * (target - V[s]);
      });
    }
    return sum(steps.map((step) => step.r));
  };
  return learner;
}
