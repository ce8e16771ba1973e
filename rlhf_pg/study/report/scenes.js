// Gymnasium's classic environments, drawn from the observations of a recorded episode.
// Each: frames per second, and the shapes for a state and an action's name, in a view of 320 by 150.
const HAND = { left: -1, right: 1, "torque −1": -1, "torque +1": 1 };
function push(action, x, y) { // an arrow in the action's direction; none if it has none
  const way = HAND[action] ?? Math.sign(Number(action));
  return way ? s("path.scene-force",
    { d: `M${x + way * 4} ${y}h${way * 22}m${-way * 7} -5l${way * 7} 5l${-way * 7} 5` }) : null;
}
const rod = (x, y, toX, toY) => s("line.scene-rod", { x1: x, y1: y, x2: toX, y2: toY });
const joint = (x, y) => s("circle.scene-joint", { cx: x, cy: y, r: 4 });
const SCENES = {
  "CartPole-v1": { rate: 50, about: "The pole falls at ±12°, the track ends at ±2.4.", draw([x, , angle], action) {
    const at = 160 + x / 2.4 * 140, top = 112;
    return [s("line.grid", { x1: 20, x2: 300, y1: 132, y2: 132 }),
      s("path.scene-limit", { d: "M20 124v16M300 124v16" }),
      s("rect.scene-body", { x: at - 20, y: top, width: 40, height: 20, rx: 4 }),
      rod(at, top, at + 84 * Math.sin(angle), top - 84 * Math.cos(angle)), joint(at, top),
      push(action, at + 22 * (HAND[action] ?? 0), 122)];
  } },
  "Acrobot-v1": { rate: 15, about: "The goal: the lower end above the line.", draw([c1, s1, c2, s2], action) {
    const [x1, y1] = [160 + 34 * s1, 72 + 34 * c1], both = Math.atan2(s1, c1) + Math.atan2(s2, c2);
    const [x2, y2] = [x1 + 34 * Math.sin(both), y1 + 34 * Math.cos(both)];
    return [s("line.scene-limit.dashed", { x1: 60, x2: 260, y1: 38, y2: 38 }), rod(160, 72, x1, y1),
      rod(x1, y1, x2, y2),
      joint(160, 72), joint(x1, y1), push(action, x1, y1 - 12)];
  } },
  "MountainCar-v0": { rate: 30, about: "The goal: the flag on the right.", draw: ([x], action) =>
    hill(x, action, 0.5) },
  "MountainCarContinuous-v0": { rate: 30, about: "The goal: the flag on the right.",
    draw: ([x], action) => hill(x, action, 0.45) },
  "Pendulum-v1": { rate: 20, about: "The goal: upright, with little torque.", draw([cos, sin], action) {
    const torque = Number(action.replace("−", "-")) || 0;
    return [s("circle.scene-limit", { cx: 160, cy: 75, r: 62, fill: "none" }),
      rod(160, 75, 160 - 62 * sin, 75 - 62 * cos),
      joint(160, 75), torque ? push(torque, 160, 140) : null];
  } },
};
function hill(position, action, goal) {
  const px = (x) => 20 + (x + 1.2) / 1.8 * 280, py = (x) => 134 - (Math.sin(3 * x) * 0.45 + 0.55) * 105;
  const ground = Array.from({ length: 61 }, (_, i) => -1.2 + i * 0.03).map((x) => `${px(x)},${py(x)}`).join(" ");
  return [s("polyline.scene-limit", { points: ground }),
    s("path.scene-flag", { d: `M${px(goal)} ${py(goal)}v-26l14 5l-14 5` }),
    s("circle.scene-body", { cx: px(position), cy: py(position) - 7, r: 7 }),
      push(action, px(position), py(position) - 22)];
}
// The recorded episode `e` as a picture that plays; show(t) draws a step, moved(t) tells the page that it changed.
function scene(e, id, moved) {
  const kind = SCENES[data.env], states = e.tokens.state;
  if (!kind || !states?.length || !Array.isArray(states[0])) return null;
  const svg = s("svg.scene", { viewBox: "0 0 320 150", role: "img", "aria-label": `${data.env}, drawn` });
  const said = h("p.quiet"), host = h("div.stage"), last = states.length - 1;
  let at = 0;
  const show = (t) => {
    at = t;
    svg.replaceChildren(...kind.draw(states[t], e.tokens.token[t]).filter(Boolean));
    const value = e.baseline === "critic" ? ` · V ${num(e.tokens.value?.[t])} · δ ${signed(e.tokens.delta?.[t])}` : "";
    const numbers = `${value} · A ${signed(e.tokens.advantage?.[t])}`;
    said.textContent = `step ${t + 1} of ${states.length} · ${e.tokens.token[t]}${numbers}`;
  };
  host.append(svg, said);
  player(host, { id: `scene-${id}`, perSecond: kind.rate,
    advance: () => { at = at === last ? 0 : at + 1; return at < last; },
    draw: () => moved(at), reset: () => { at = 0; } });
  host.append(h("p.quiet", kind.about));
  show(0);
  return { host, show };
}
