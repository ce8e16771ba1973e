// A Gaussian policy a = mu + sigma * eps with a reward f(a): two estimates of the gradient of J = E[f(a)].
const HILL = { f: (a) => 2 - (a - 1) ** 2 / 2, slope: (a) => 1 - a };
const STEP = { // a smooth step: almost flat far from it, where the slope says nothing
  f: (a) => 2 * sigmoid(6 * (a - 1)), slope: (a) => { const p = sigmoid(6 * (a - 1)); return 12 * p * (1 - p); } };
const REWARDS = { hill: HILL, step: STEP };
const gaussianPolicy = {
  // Of one noise eps: the score function's estimate and the reparameterised one, each (d/d mu, d/d sigma).
  score: (mu, sigma, eps, { f }, baseline = 0) => {
    const weight = f(mu + sigma * eps) - baseline;
    return [weight * eps / sigma, weight * (eps * eps - 1) / sigma];
  },
  reparameterised: (mu, sigma, eps, { slope }) => { const d = slope(mu + sigma * eps); return [d, d * eps]; },
  // J, its gradient, and the variance of each estimate, summed over mu and sigma: integrals over eps.
  exact(mu, sigma, reward, baseline = 0) {
    const step = 0.01, points = Array.from({ length: 2001 }, (_, i) => (i - 1000) * step);
    const weights = points.map((eps) => Math.exp(-eps * eps / 2) * step / Math.sqrt(2 * Math.PI));
    const expected = (g) => sum(points.map((eps, i) => weights[i] * g(eps)));
    const moments = (estimate) => {
      const average = [0, 1].map((k) => expected((eps) => estimate(eps)[k]));
      return { mean: average, variance: expected((eps) => sum(estimate(eps).map((x) => x * x))) - dot(average,
        average) };
    };
    const score = moments((eps) => this.score(mu, sigma, eps, reward, baseline));
    const reparameterised = moments((eps) => this.reparameterised(mu, sigma, eps, reward));
    return { J: expected((eps) => reward.f(mu + sigma * eps)), gradient: reparameterised.mean, score, reparameterised };
  },
};
