// Numbers as text, and small statistics.
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const minus = (text) => text.replace("-", "−");
const short = (x) => minus(String(Number(x.toPrecision(4))));
function num(x) {
  if (!isNumber(x)) return "–";
  const size = Math.abs(x) < 1e-12 ? 0 : Math.abs(x);
  const text = size && size < 0.0005 ? size.toExponential(1)
    : size.toFixed(size < 10 ? 3 : size < 100 ? 2 : size < 1000 ? 1 : 0);
  return (x < 0 && size ? "−" : "") + minus(text);
}
const fixed = (x) => (isNumber(x) ? minus(x.toFixed(3)) : "–");
const signed = (x) => (x >= 1e-12 ? "+" : "") + num(x);
const inside = (x) => (x < 0 ? `(${num(x)})` : num(x));
const percent = (x) => (isNumber(x) ? `${(100 * x).toFixed(1)}%` : "–");
const sum = (xs) => xs.reduce((a, b) => a + b, 0);
const mean = (xs) => sum(xs) / xs.length;
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const nearest = (xs, x) => xs.reduce((best, v, i) => (Math.abs(v - x) < Math.abs(xs[best] - x) ? i : best), 0);
const quantile = (xs, q) => [...xs].sort((a, b) => a - b)[Math.round(q * (xs.length - 1))];
function correlation(xs, ys) {
  const [a, b] = [mean(xs), mean(ys)], square = (v, m) => sum(v.map((x) => (x - m) ** 2));
  return sum(xs.map((x, i) => (x - a) * (ys[i] - b))) / Math.sqrt(square(xs, a) * square(ys, b));
}
