// Axes, ticks and lines in SVG.
function ticks(low, high, about) { // round values from low to high, with their texts
  if (!about) return [];
  if (!(high > low)) return [[low, short(low)]];
  const rough = (high - low) / about, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * scale).find((x) => x >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  const text = (v) => minus(String(Number(v.toFixed(clamp(-Math.floor(Math.log10(step)), 0, 12)))));
  return Array.from({ length: last - first + 1 }, (_, i) => [(first + i) * step, text((first + i) * step)]);
}
function span(values, pad = 0.06) {
  const low = Math.min(...values), high = Math.max(...values), room = (high - low || Math.abs(high) || 1) * pad;
  return [low - room, high + room];
}
// An SVG with axes. x and y map values to pixels, back maps a pointer event to a value, line draws points.
function frame(label, width, height, xs, ys, options = {}) {
  const { left = 40, right = 8, top = 8, bottom = 20, xAbout = 4, yAbout = 4, xText, yText } = options;
  const x = (v) => left + (v - xs[0]) / (xs[1] - xs[0] || 1) * (width - left - right);
  const y = (v) => height - bottom - (v - ys[0]) / (ys[1] - ys[0] || 1) * (height - top - bottom);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  for (const [mark, text] of ticks(...ys, yAbout)) {
    const kind = Math.abs(mark) < 1e-12 ? "zero" : "grid";
    svg.append(s("line", { class: kind, x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
      s("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, text));
  }
  const below = (px, py, text) => svg.append(s("text", { x: px, y: py, "text-anchor": "middle" }, text));
  for (const [mark, text] of ticks(...xs, xAbout)) below(x(mark), height - bottom + 14, text);
  if (xText) below((left + width - right) / 2, height - 3, xText);
  if (yText) svg.append(s("text", { x: left - 32, y: 10 }, yText));
  const back = (event) => {
    const box = svg.getBoundingClientRect();
    return xs[0] + ((event.clientX - box.left) * width / box.width - left) / (width - left - right) * (xs[1] - xs[0]);
  };
  const line = (points, kind = "") => svg.append(s("polyline", { class: `curve ${kind}`, points: points
    .filter((point) => point.every(isNumber)).map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") }));
  return { svg, x, y, back, line };
}
