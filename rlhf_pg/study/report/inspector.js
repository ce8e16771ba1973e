// The selected token: its numbers, and how its advantage is computed.
const BASELINES = { // of runs without a critic: the equation of the advantage, and what its parts are
  none: ["G", "G: the return from here on, nothing subtracted"],
  "moving-average": ["G − b", "G: the return from here on; b: a moving average of earlier scores"],
  optimal: ["G − b", "G: the return from here on; b: the constant of least variance"],
  "batch-mean": ["G − b", "G: the return from here on; b: the mean score of the batch"],
  "leave-one-out": ["G₀ − b", "G₀: the return of the whole; b: the mean of the others in its group"],
  "group-centred": ["G₀ − b", "G₀: the return of the whole; b: the mean of its group"],
  group: ["(G₀ − mean) / std", "G₀: the return of the whole; mean and std: of its group"],
};
function inspectToken() { // all numbers of the selected token, and the computation of its advantage
  const e = episodes[chosen.e], t = chosen.t, host = $("inspector");
  if (!e?.tokens.token.length) return host.replaceChildren(h("p.quiet", `No ${unit} to show.`));
  const c = e.tokens, r = now[chosen.e], get = (name) => c[name]?.[t], name = isGae ? "A" : "GAE",
    next = r.advantage[t + 1] ?? 0;
  const equation = (left, words, numbers, result) =>
    h("p", h("b", left), ` = ${words}`, h("br"), `= ${numbers} = `, h("b", signed(result)));
  const charged = hasKl && e.kl_in === "reward", gamma = short(r.gamma), critic = e.baseline === "critic";
  const se = (key) => signed(get(key)) + (get(`${key}_se`) > 0 ? ` ± ${num(get(`${key}_se`))}` : "");
  const off = advantageOf(chosen.e, t) - (get("true_advantage") ?? NaN), error = get("true_advantage_se");
  const numbers = [[control && !get("top")?.length ? "density π(a|s)" : "probability π(a|s)",
    num(Math.exp(get("logprob") ?? NaN))],
    ["log-probability log π, nats", num(get("logprob"))],
    ["log-probability of the reference", num(get("ref_logprob"))], ["KL to the reference, nats", signed(get("kl"))],
    ["entropy, nats", num(get("entropy"))],
    [control ? "raw reward of the environment" : "score", num(get("score"))],
    ["critic's value V", critic ? signed(get("value")) : "–"],
    [`critic's value V′ of the next ${unit}`, critic ? signed(get("next_value")) : "–"],
    ["probability ratio after the update", num(get("ratio")) + (get("clipped") ? ", clipped" : "")],
    ["advantage A, as recorded", signed(get("advantage"))], ["true value", se("true_value")],
    ["true advantage", se("true_advantage")],
    ["error of the advantage", isNumber(off) ? signed(off) : "–"],
    ["… in standard errors of the truth", isNumber(off) && error > 0 ? (Math.abs(off) / error).toFixed(1) : "–"],
    ["state", get("state") ? get("state").slice(0, 8).map(short).join(", ") : "–"]];
  const top = get("top") ?? [], drawn = get("token"), same = (text) => spell(text) === spell(drawn);
  const bars = top.some(([text]) => same(text)) || !top.length || !isNumber(get("logprob")) ? top
    : [...top, [drawn, Math.exp(get("logprob"))]];
  host.replaceChildren(h("h3", spell(drawn)), h("p.quiet", `${unit} ${t + 1} of ${c.token.length}, ${when(e)}`),
    h("div.equations", { id: "equations" },
      rewardEquation(e, r, t, charged, equation),
      critic && equation("δ", "r + γ·V′ − V",
        `${num(r.reward[t])} + ${gamma}·${inside(get("next_value"))} − ${inside(get("value"))}`, r.delta[t]),
      critic && equation(name, `δ + γ·λ·${name}′`, `${num(r.delta[t])} + ${gamma}·${short(r.lam)}·${inside(next)}`,
        r.advantage[t]),
      !critic && usedEquation(e, t)),
    h("p.quiet", critic ? `V′${isGae ? ", A′" : ""}: values of the next ${unit}. ±: one standard error.`
      : BASELINES[e.baseline]?.[1]),
    h("dl.numbers", numbers.filter(([, value]) => value !== "–").map(([key, value]) =>
      [h("dt", key), h("dd", value)])),
    h("div.top", bars.map(([text, p]) => [h("span", spell(text)), h("i", { class: same(text) ? "on" : null, "--m": p }),
      h("span", `${(100 * p).toFixed(p < 0.1 ? 1 : 0)}%`)])));
}
function rewardEquation(e, r, t, charged, equation) { // from the task's reward to the learner's
  const score = e.tokens.score?.[t], kl = e.tokens.kl?.[t], scale = e.reward_scale ?? 1,
    weight = e.entropy_temperature ?? 0;
  if (control && (scale !== 1 || weight)) {
    const clamped = scale !== 1 && Math.abs(scale * score) > 10, log = e.tokens.logprob?.[t];
    return equation("r", `${scale === 1 ? "" : "scale · "}raw reward${weight ? " − α·log π" : ""}`,
      `${scale === 1 ? "" : `${short(scale)}·`}${inside(score)}${clamped ? " (clamped to ±10)" : ""}`
      + (weight ? ` − ${short(weight)}·${inside(log)}` : ""), r.reward[t]);
  }
  if (!charged) return null;
  const words = "score − β·KL", numbers = `${num(score)} − ${short(r.coef)}·${inside(kl)}`;
  return scale === 1 ? equation("r", words, numbers, r.reward[t])
    : equation("r", `${words}, whitened over the batch`, `${numbers}, whitened`, r.reward[t]);
}
function usedEquation(e, t) { // the advantage of a learner without a critic
  const A = e.tokens.advantage?.[t], whole = recompute(e).toGo, [equation] = BASELINES[e.baseline] ?? ["?"];
  const G = equation.startsWith("G₀") ? whole[0] : whole[t];
  const numbers = e.baseline === "none" ? "" : e.baseline === "group" ? `G₀ = ${num(whole[0])}`
    : `${num(G)} − ${inside(G - A)}`;
  return h("p", h("b", "A"), ` = ${equation}`, h("br"), numbers, numbers && (e.baseline === "group" ? "; A = " : " = "),
    h("b", signed(A)));
}
