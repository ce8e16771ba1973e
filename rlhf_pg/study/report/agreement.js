// The advantages beside the true ones.
let agreementDrawn = false;
const estimate = isGae ? "GAE" : "advantage used"; // the advantage that is compared
function drawAgreement() {
  const points = episodes.flatMap((e, i) => (e.tokens.true_advantage ?? []).map((y, t) =>
    ({ i, t, x: advantageOf(i, t), y, se: e.tokens.true_advantage_se?.[t] ?? 0 })))
    .filter((p) => isNumber(p.x) && isNumber(p.y));
  $("agreement-body").hidden = !points.length;
  $("agreement-intro").hidden = !points.length;
  $("agreement-none").hidden = points.length > 0;
  if (!points.length) return;
  if (!agreementDrawn && data.agreement) drawMeasured(data.agreement);
  agreementDrawn = true;
  if (isGae && !$("agreement-lam")) {
    const set = slider($("agreement-slider"), "agreement-lam", "λ of GAE (the same slider as above)", 0, 1, 0.005,
      episodes.at(-1).lam, (v) => change("lam", v));
    followers.push((name, v) => { if (name === "lam") set(v); });
  }
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y), off = xs.map((x, k) => x - ys[k]);
  const clear = points.filter((p) => Math.abs(p.y) > 2 * p.se), noise = mean(points.map((p) => p.se ** 2));
  // A group's standard deviation, or whitening, leaves other units: then errors have no meaning.
  const sameUnits = episodes.every((e) => e.baseline !== "group" && (e.reward_scale ?? 1) === 1);
  const facts = { "correlation; 1 is perfect": num(correlation(xs, ys)),
    "right sign, where the true one is clear; 50% is chance": percent(mean(clear.map((p) => Number(p.x * p.y > 0)))),
    ...(sameUnits ? {
      "root mean squared error, measurement noise removed": num(Math.sqrt(Math.max(0,
        mean(off.map((d) => d * d)) - noise))),
      "mean error; 0 is unbiased": signed(mean(off)) } : {}),
        [`${unit}s, ${clear.length} with a clear sign`]: points.length };
  $("agreement-facts").replaceChildren(...Object.entries(facts).map(([name, value]) =>
    h("div", h("b", String(value)), name)));
  const width = Math.max(280, $("scatter").clientWidth),
    range = span([...ys, ...points.map((p) => CHANNELS.advantage[0](episodes[p.i], asRun[p.i], p.t))]);
  const plot = frame(`${estimate} against the true advantage`, width, Math.min(width, 420), range, range,
    { left: 46, bottom: 36, top: 18, xAbout: 6, yAbout: 6, xText: estimate, yText: "true advantage" });
  plot.line([[range[0], range[0]], [range[1], range[1]]], "line-ink dashed thin");
  for (const p of points.filter((_, k) => k % Math.ceil(points.length / 1200) === 0)) {
    const kind = !clear.includes(p) ? "quiet" : p.x * p.y > 0 ? "pos" : "neg", x = plot.x(clamp(p.x, ...range));
    const truth = `true ${signed(p.y)} ± ${num(p.se)}`;
    const said = `${spell(episodes[p.i].tokens.token[p.t])}: ${estimate} ${signed(p.x)}, ${truth}`;
    const onclick = () => showToken(p.i, p.t);
    plot.svg.append(s(`line.thin.line-${kind}`, { opacity: 0.4, x1: x, x2: x, y1: plot.y(p.y - p.se),
      y2: plot.y(p.y + p.se) }),
      s(`circle.fill-${kind}`, { opacity: 0.75, r: 3, cx: x, cy: plot.y(p.y), onclick }, s("title", said)));
  }
  $("scatter").replaceChildren(plot.svg);
}
function drawMeasured(measured) { // the agreement that `study credit` saved
  const used = measured.advantage, gae = measured.gae ?? [];
  const rowOf = (name, row) => [name, row.correlation, row.corrected_correlation, percent(row.sign_agreement),
    row.rmse];
  const listed = gae.length ? gae.map((row) => rowOf(short(row.lam), row)) : used ? [rowOf("used", used)] : [];
  $("agreement-table").append(scrollable(table(
    [gae.length ? "λ" : "advantage", "correlation", "corrected for noise", "right sign", "error (rmse)"], listed,
    gae.findIndex((row) => row.lam === measured.lam))));
  $("agreement-grid").textContent = gae.length ? "For each λ" : "The advantage that the learner used";
  const how = measured.exact ? "exact, by enumeration"
    : `means over ${measured.continuations} continuations of every prefix`;
  $("agreement-how").textContent = `${measured.completions} ${whole}s, ${measured.tokens} ${unit}s; ` +
    `the true values are ${how}.` + (isNumber(measured.value_correlation)
    ? ` Correlation of the critic's V with the true V: ${num(measured.value_correlation)}.` : "");
  const rows = (measured.by_position ?? []).filter((row) => row.tokens >= 4);
  $("by-position").parentElement.hidden = rows.length < 2;
  $("measured").hidden = false;
  if (rows.length < 2) return;
  const width = Math.max(280, $("by-position").clientWidth),
    all = rows.flatMap((row) => [row.rmse, row.bias, row.noise, 0]);
  const plot = frame("Error of the advantage by position", width, Math.min(width, 420), [0, rows.at(-1).position],
    span(all.filter(isNumber)),
    { left: 46, bottom: 36, top: 18, xAbout: 6, yAbout: 6, xText: `position of the ${unit}`,
      yText: "advantage − true advantage" });
  for (const [key, kind] of [["rmse", "line-pos"], ["bias", "line-neg"], ["noise", "line-ink dashed thin"]]) {
    plot.line(rows.map((row) => [row.position, row[key]]), kind);
  }
  $("by-position").append(plot.svg);
}
function showToken(i, t) { // select a token, also one that the filters hide
  if (!cards.has(i)) {
    $("filters").reset();
    Object.assign(view, { ...EVERYTHING, limit: 9999 });
    listEpisodes();
  }
  select(i, t, true);
}
