// A Bernoulli bandit: action 1 with probability p = sigmoid(theta) pays `win`, action 0 pays `lose`.
// The estimate of one sample is g = (a - p) (r - b), since d log pi(a) / d theta = a - p.
const bandit = {
  estimate: (p, action, reward, baseline) => (action - p) * (reward - baseline),
  // Mean and variance of the estimate, over both actions; J and its derivative; the baseline of least variance.
  exact(p, baseline, win = 1, lose = 0) {
    const outcomes = [[p, (1 - p) * (win - baseline)], [1 - p, -p * (lose - baseline)]];
    const average = sum(outcomes.map(([chance, g]) => chance * g));
    return { J: p * win + (1 - p) * lose, gradient: p * (1 - p) * (win - lose), mean: average,
      variance: sum(outcomes.map(([chance, g]) => chance * (g - average) ** 2)), best: (1 - p) * win + p * lose };
  },
};
