// Two states, A and B; two actions: 0 stays, 1 goes to the other; four steps from A. theta_s is the logit of going.
const HORIZON = 4, PAIR = [0, 1], STATES = ["A", "B"], ACTIONS = ["stay", "go"];
const twoState = {
  exact(theta, rewards) { // J, its gradient, state probabilities visits[t][s], V[t][s] and A[t][s][a]
    const p = theta.map(sigmoid), visits = [[1, 0]], A = [], V = [];
    V[HORIZON] = [0, 0];
    for (let t = HORIZON - 1; t >= 0; t--) {
      const Q = PAIR.map((k) => PAIR.map((a) => rewards[k][a] + V[t + 1][a ? 1 - k : k]));
      V[t] = PAIR.map((k) => (1 - p[k]) * Q[k][0] + p[k] * Q[k][1]);
      A[t] = PAIR.map((k) => Q[k].map((q) => q - V[t][k]));
    }
    for (let t = 1; t < HORIZON; t++) {
      const toB = visits[t - 1][0] * p[0] + visits[t - 1][1] * (1 - p[1]);
      visits.push([1 - toB, toB]);
    }
    const gradient = PAIR.map((k) => sum(visits.map((d, t) => d[k] * p[k] * (1 - p[k]) * (A[t][k][1] - A[t][k][0]))));
    return { J: V[0][0], gradient, visits, A, V, p };
  },
  // One trajectory: every step's score d log pi / d theta_s = a - p and its weight; their products add up to the
  // estimate of the gradient. `weigh` is "return", "to-go" or "baseline" (reward-to-go minus the exact V).
  sample(draw, { p, V }, rewards, weigh) {
    const steps = [], estimate = [0, 0];
    for (let t = 0, state = 0; t < HORIZON; t++) {
      const action = draw() < p[state] ? 1 : 0;
      steps.push({ state, action, reward: rewards[state][action] });
      state = action ? 1 - state : state;
    }
    const total = sum(steps.map((one) => one.reward));
    steps.forEach((one, t) => {
      one.score = one.action - p[one.state];
      one.weight = weigh === "return" ? total
        : sum(steps.slice(t).map((x) => x.reward)) - (weigh === "baseline" ? V[t][one.state] : 0);
      estimate[one.state] += one.score * one.weight;
    });
    return { steps, estimate, total };
  },
  // KL(old || new) of an action, averaged over the states that the old policy visits.
  divergence({ visits, p }, theta) {
    const q = theta.map(sigmoid), kl = PAIR.map((k) => p[k] * Math.log(p[k] / q[k])
      + (1 - p[k]) * Math.log((1 - p[k]) / (1 - q[k])));
    return sum(visits.map((d) => d[0] * kl[0] + d[1] * kl[1])) / HORIZON;
  },
  within(old, theta, direction, limit) { // the longest part of a step with a KL within the limit
    if (this.divergence(old, along(theta, direction, 1)) <= limit) return along(theta, direction, 1);
    let low = 0, high = 1;
    for (let i = 0; i < 50; i++) {
      const half = (low + high) / 2;
      if (this.divergence(old, along(theta, direction, half)) <= limit) low = half; else high = half;
    }
    return along(theta, direction, low);
  },
  // The natural gradient's step of length sqrt(2 limit / g F^-1 g) (Kakade 2001); F is the Fisher matrix of an action.
  natural({ visits, p }, theta, gradient, limit) {
    const fisher = PAIR.map((k) => sum(visits.map((d) => d[k])) / HORIZON * p[k] * (1 - p[k]));
    const direction = gradient.map((g, k) => g / Math.max(fisher[k], 1e-9)), size = dot(gradient, direction);
    return size > 1e-15 ? along(theta, direction, Math.sqrt(2 * limit / size)) : theta;
  },
  // `size` up PPO's clipped objective in 400 small steps; terms are {state, action, weight, chance}: a sample's
  // steps, or all of them with their probabilities.
  clipped(old, theta, terms, size, clip) {
    let at = theta;
    for (let i = 0; i < 400; i++) {
      const p = at.map(sigmoid), slope = [0, 0];
      for (const { state, action, weight, chance } of terms) {
        const before = action ? old.p[state] : 1 - old.p[state];
        const ratio = (action ? p[state] : 1 - p[state]) / before;
        if (weight > 0 ? ratio < 1 + clip : ratio > 1 - clip) {
          slope[state] += chance * weight * ratio * (action - p[state]);
        }
      }
      at = along(at, slope, size / 400);
    }
    return at;
  },
  expectedTerms: (old) => old.visits.flatMap((d, t) => PAIR.flatMap((state) => PAIR.map((action) =>
    ({ state, action, weight: old.A[t][state][action],
      chance: d[state] * (action ? old.p[state] : 1 - old.p[state]) })))),
  sampledTerms: (drawn) => drawn.flatMap(({ steps }) => steps.map((one) => ({ ...one, chance: 1 / drawn.length }))),
};
