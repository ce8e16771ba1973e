// Draws the page. Tests call `window.playground`.
addEventListener("DOMContentLoaded", () => {
  themeButton($("theme"));
  banditSection();
  twoStateSection();
  walkSection();
  gridSection();
  gaussianSection();
  const redraw = () => redraws.forEach((draw) => draw());
  onWidth(redraw);
  addEventListener("themechange", redraw);
});
window.playground = { bandit, twoState, walk, gridworld, gaussianPolicy, REWARDS, random, gaussian, gae, tdErrors,
  discountedSum };
