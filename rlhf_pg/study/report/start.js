// Draws the page. Tests call `window.report`.
function start() {
  $("left-out").append(...data.left_out.map((text) => h("p.note", text)));
  $("config").lastElementChild.append(table(["option", "value"], data.config));
  $("agreement-estimate").textContent = isGae ? "its advantage estimated by GAE with the slider values"
    : "the advantage that the learner used";
  if (control) {
    $("to-tokens").textContent = $("tokens-name").textContent = "Steps";
    $("unit").textContent = $("unit-asked").textContent = unit;
    $("skip").textContent = "Skip to the steps";
    $("inspector").setAttribute("aria-label", "Selected step");
  }
  themeButton($("theme"));
  const there = { overview: data.metrics.iteration, tokens: episodes, agreement: episodes };
  for (const [id, rows] of Object.entries(there)) // hide sections without data, and their links
    $(id).hidden = document.querySelector(`nav a[href="#${id}"]`).hidden = !rows?.length;
  drawOverview();
  drawControls();
  listEpisodes();
  drawAgreement();
  drawEstimators();
  onWidth(() => [paint, drawAgreement, drawEstimators].forEach((draw) => draw()));
}
addEventListener("DOMContentLoaded", start);

window.report = {
  // {reward, delta, advantage, ...} of each embedded episode: lists with one number per token.
  recompute: (gamma, lam, kl) => episodes.map((e) => recompute(e, { gamma, lam, kl })),
};
