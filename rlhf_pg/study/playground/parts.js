// What the five sections share: histograms, lists of numbers, and redrawing when something changes.
const redraws = []; // every section adds its function
function addSection(draw) { redraws.push(draw); draw(); }
const roomOf = (host, most = 620) => Math.min(most, Math.max(280, host.clientWidth));
// Counts of values between low and high as bars; values outside go to the ends. `marks`: [value, class, text].
function histogram(host, label, values, range, { kind = "pos", marks = [], height = 130, xText, bins = 41 } = {}) {
  const [low, high] = range, counts = Array(bins).fill(0), width = roomOf(host), wide = (high - low) / bins;
  for (const v of values) counts[clamp(Math.floor((v - low) / wide), 0, bins - 1)]++;
  const plot = frame(label, width, height, range, [0, Math.max(1, ...counts)],
    { left: 8, right: 8, top: 18, bottom: xText ? 34 : 20, yAbout: 0, xAbout: 7, xText });
  counts.forEach((n, b) => n && plot.svg.append(s(`rect.fill-${kind}`, { opacity: 0.75, x: plot.x(low + b * wide),
    y: plot.y(n), width: Math.max(1, plot.x(low + wide) - plot.x(low) - 0.7), height: plot.y(0) - plot.y(n) })));
  const shown = marks.filter(([value]) => isNumber(value)).sort((a, b) => a[0] - b[0]);
  shown.forEach(([value, name, text], k) => { // the left one has its text on the left
    const x = plot.x(clamp(value, low, high)), left = shown.length > 1 && !k;
    plot.svg.append(s(`line.${name}`, { "stroke-width": 1.6, x1: x, x2: x, y1: 8, y2: plot.y(0) }),
      s("text", { x: x + (left ? -4 : 4), y: 12, "text-anchor": left ? "end" : "start" }, text));
  });
  host.replaceChildren(plot.svg);
}
// Curves of [x, y] points, each [points, class, name], with their names above.
function curves(host, label, lines, xs, ys, options = {}) {
  const width = roomOf(host, options.most), plot = frame(label, width, options.height ?? 220, xs, ys,
    { left: 46, bottom: 36, top: 34, xAbout: 5, ...options });
  const far = lines.reduce((left, [points, kind, name]) => {
    plot.line(points, kind);
    if (!name) return left;
    plot.svg.append(s("line", { class: `curve ${kind}`, x1: left, x2: left + 16, y1: 22, y2: 22 }),
      s("text", { x: left + 20, y: 26 }, name));
    return left + 34 + 6.3 * name.length;
  }, 46);
  host.replaceChildren(plot.svg);
  return { ...plot, far };
}
const facts = (host, rows) => host.replaceChildren(...rows.map(([name, value]) => h("div", h("b", value), name)));
const pair = (x) => `(${signed(x[0])}, ${signed(x[1])})`;
