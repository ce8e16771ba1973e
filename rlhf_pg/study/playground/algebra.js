// Small vectors and matrices, and the functions that several tasks share.
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const logit = (p) => Math.log(p / (1 - p));
const dot = (a, b) => sum(a.map((x, i) => x * b[i]));
const along = (x, direction, k) => x.map((v, i) => v + k * direction[i]); // x + k * direction
const variance = (xs) => { const m = mean(xs); return sum(xs.map((x) => (x - m) ** 2)) / (xs.length - 1); };
function softmax(logits) {
  const most = Math.max(...logits), weights = logits.map((x) => Math.exp(x - most)), total = sum(weights);
  return weights.map((w) => w / total);
}
function solve(matrix, right) { // x with matrix x = right, by Gaussian elimination with row pivots
  const rows = matrix.map((row, i) => [...row, right[i]]), n = rows.length;
  for (let k = 0; k < n; k++) {
    let best = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[best][k])) best = i;
    [rows[k], rows[best]] = [rows[best], rows[k]];
    for (let i = k + 1; i < n; i++) {
      const factor = rows[i][k] / rows[k][k];
      if (factor) for (let j = k; j <= n; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  const x = Array(n).fill(0);
  for (let k = n - 1; k >= 0; k--) {
    x[k] = (rows[k][n] - sum(rows[k].slice(k + 1, n).map((v, j) => v * x[k + 1 + j]))) / rows[k][k];
  }
  return x;
}
// y_t = x_t + decay * y_{t+1}: rewards-to-go with decay gamma, GAE of TD errors with decay gamma * lambda.
function discountedSum(x, decay) {
  const y = [...x];
  for (let t = y.length - 2; t >= 0; t--) y[t] += decay * y[t + 1];
  return y;
}
const tdErrors = (rewards, values, next, gamma) => rewards.map((r, t) => r + gamma * next[t] - values[t]);
const gae = (rewards, values, next, gamma, lam) => discountedSum(tdErrors(rewards, values, next, gamma), gamma * lam);
