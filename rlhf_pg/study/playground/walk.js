// A random walk over five states, started in the middle: reward 1 beyond the right end, 0 elsewhere
// (Sutton and Barto, Reinforcement Learning, example 6.2). The policy goes either way with probability 1/2.
const walk = {
  states: 5,
  values(gamma) { // the true V, from V = r + gamma P V
    const n = this.states;
    const system = Array.from({ length: n }, (_, s) => Array.from({ length: n }, (_, x) =>
      (s === x ? 1 : 0) - (Math.abs(s - x) === 1 ? gamma / 2 : 0)));
    return solve(system, Array.from({ length: n }, (_, s) => (s === n - 1 ? 0.5 : 0)));
  },
  // True advantage of the first action, going right from the middle.
  advantage(gamma) { const V = this.values(gamma); return gamma * V[3] - V[2]; },
  critic(gamma, error) { // a critic that is wrong by `error`, up in one state and down in the next
    return this.values(gamma).map((v, s) => v + error * [1, -1, 1, -1, 1][s]);
  },
  episode(draw) { // states visited and rewards, after a first step to the right
    const states = [2, 3], rewards = [0];
    for (;;) {
      const next = states.at(-1) + (draw() < 0.5 ? 1 : -1), over = next < 0 || next >= this.states;
      rewards.push(next >= this.states ? 1 : 0);
      if (over) return { states, rewards };
      states.push(next);
    }
  },
  estimate({ states, rewards }, V, gamma, lam) { // GAE of the first action
    const values = states.map((s) => V[s]);
    return gae(rewards, values, [...values.slice(1), 0], gamma, lam)[0];
  },
};
