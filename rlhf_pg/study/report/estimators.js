// Estimates of the gradient: their histograms along the true gradient.
const choices = { task: 0, lam: 0.95, critic: null, extra: "" };
function drawEstimators() {
  const tasks = data.estimators, task = tasks[choices.task];
  $("estimators-none").hidden = tasks.length > 0;
  $("estimators-intro").hidden = $("estimators-body").hidden = !tasks.length;
  if (!tasks.length) return;
  const gae = task.methods.filter((m) => m.family === "gae"), critics = [...new Set(gae.map((m) => m.critic))];
  if (!critics.includes(choices.critic)) choices.critic = critics.includes(task.critic) ? task.critic : critics[0];
  const grid = [...new Set(gae.filter((m) => m.critic === choices.critic).map((m) => m.lam))].sort((a, b) => a - b);
  const rest = task.methods.filter((m) => m.family !== "gae").map((m) => m.name);
  if (!rest.includes(choices.extra)) choices.extra = "";
  const host = $("estimator-choices");
  host.replaceChildren();
  if (grid.length) {
    choices.lam = grid[nearest(grid, choices.lam)];
    const range = h("input", { type: "range", id: "estimator-lam", min: 0, max: grid.length - 1,
      value: grid.indexOf(choices.lam) });
    const out = h("output", short(choices.lam));
    range.addEventListener("input", () => {
      choices.lam = grid[range.value];
      out.textContent = short(choices.lam);
      range.setAttribute("aria-valuetext", `lambda ${choices.lam}`);
      drawRidges(task);
    });
    host.append(h("div.slider", h("label", { for: "estimator-lam" }, "λ of GAE (measured values)"), range, out));
  }
  const ask = (key, label, options) => { // a change redraws the section and keeps the focus
    const answer = (value) => { choices[key] = value; drawEstimators(); $(`estimator-${key}`).focus(); };
    choice(host, label, options, choices[key], answer).id = `estimator-${key}`;
  };
  if (tasks.length > 1) ask("task", "Task", tasks.map((one, k) => [k, one.task]));
  if (critics.length > 1) ask("critic", "Critic of GAE", critics.map((c) => [c, c]));
  ask("extra", "Also show", [["", "none"], ...rest.map((name) => [name, name])]);
  drawRidges(task);
}
function drawRidges(task) {
  const first = (family) => task.methods.find((m) => m.family === family);
  const gae = task.methods.find((m) => m.family === "gae" && m.lam === choices.lam && m.critic === choices.critic);
  const fair = task.methods.find((m) => m.family === "baseline" && m.bias < 0.01) ?? first("baseline");
  const extra = task.methods.find((m) => m.name === choices.extra);
  const shown = [first("reinforce"), first("reward-to-go"), fair, gae, extra];
  const rows = [...new Set(shown.filter(Boolean))].map((m) => ({ ...m, drawn: m.projections.filter(isNumber) }));
  const reached = rows.flatMap((m) => [quantile(m.drawn, 0.01), quantile(m.drawn, 0.99)]);
  const range = span([...reached, 0, 1].filter(isNumber), 0.04);
  const room = $("ridges").clientWidth, width = Math.max(280, room > 600 ? room - 252 : room);
  const ridges = rows.map((m, k) => {
    const last = k === rows.length - 1, bins = 48, wide = (range[1] - range[0]) / bins, counts = Array(bins).fill(0);
    for (const v of m.drawn) counts[clamp(Math.floor((v - range[0]) / wide), 0, bins - 1)]++; // outliers go to the edge
    const plot = frame(`${m.name}: estimates projected on the true gradient`, width, last ? 86 : 62, range,
      [0, Math.max(...counts)], { left: 4, right: 4, top: 4, bottom: last ? 26 : 2, yAbout: 0, xAbout: last ? 7 : 0 });
    const kind = m.family === "gae" ? "pos" : m.family === "reinforce" ? "neg" : "third", foot = plot.y(0);
    counts.forEach((n, b) => plot.svg.append(s(`rect.fill-${kind}`, { opacity: 0.75, x: plot.x(range[0] + b * wide),
      y: plot.y(n), width: Math.max(1, (width - 8) / bins - 0.7), height: foot - plot.y(n) })));
    plot.svg.append(s("line.line-ink", { "stroke-width": 1.4, x1: plot.x(1), x2: plot.x(1), y1: 0, y2: foot }));
    const at = plot.x(clamp(m.drawn.length ? mean(m.drawn) : 1, ...range));
    plot.svg.append(s("path.fill-ink", { d: `M${at} ${foot - 9} l5 9 h-10 z` }));
    return [h("div", h("b", m.family === "gae" ? `GAE, λ = ${short(m.lam)}` : m.name),
      `bias ${fixed(m.bias)}${m.expected_exactly ? " (exact)" : ` ± ${fixed(m.bias_se)}`}`, h("br"),
      `variance ${fixed(m.variance)} · cosine ${fixed(m.cosine)}`), plot.svg];
  });
  const { how, episodes: count, norm, relative_error: error } = task.truth;
  const about = [how, isNumber(count) && `${count} episodes`,
    error > 0 && `relative error ${(100 * error).toFixed(1)}%`];
  $("ridges").replaceChildren(h("div.ridge", ridges), h("p.quiet",
    `Line at 1: the true gradient (${about.filter(Boolean).join(", ")}), of norm ${num(norm)}. Triangle: `,
    `the mean of ${task.estimates} estimates from ${task.batch} episodes each.`,
    task.critic && ` Critics: ${task.critic}.`));
  const heads = ["method", "λ", "critic", "bias", "± SE", "variance", "mse", "cosine", "cosine of one",
    "signal / noise", "note"];
  const note = (m) => [m.expected_exactly && "exact", m.rescaled && "rescaled"].filter(Boolean).join(", ");
  const cells = (m) => [m.name, isNumber(m.lam) ? short(m.lam) : "", m.critic ?? "", m.bias, m.bias_se, m.variance,
    m.mse, m.cosine, m.cosine_single, m.snr, note(m)];
  $("methods").replaceChildren(scrollable(table(heads, task.methods.map(cells), task.methods.indexOf(gae))));
}
