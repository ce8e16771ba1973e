// Rewards, returns, TD errors and GAE of an episode; a setting that is null defaults to the episode's own.
function recompute(episode, settings = {}) {
  const c = episode.tokens, own = episode.kl_coef ?? 0, charged = episode.kl_in === "reward";
  const gamma = settings.gamma ?? episode.gamma, lam = settings.lam ?? episode.lam, coef = settings.kl ?? own;
  // The recorded reward is what the learner got, scaled and shaped; another beta adds the difference.
  const reward = c.token.map((_, t) => (c.reward?.[t] ?? c.score?.[t] ?? 0)
    + (charged ? (episode.reward_scale ?? 1) * (own - coef) * (c.kl?.[t] ?? 0) : 0));
  const delta = reward.map((r, t) => r + gamma * (c.next_value?.[t] ?? 0) - (c.value?.[t] ?? 0));
  const advantage = [...delta], toGo = [...reward];
  for (let t = delta.length - 2; t >= 0; t--) {
    advantage[t] += gamma * lam * advantage[t + 1];
    toGo[t] += gamma * toGo[t + 1];
  }
  return { reward, delta, advantage, toGo, gamma, lam, coef };
}
