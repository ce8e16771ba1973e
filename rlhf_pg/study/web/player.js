// Play, Step, Reset and a speed, for something that moves one step at a time.
// advance() makes a step and returns whether another one is possible; draw() shows the state; reset() goes back.
function player(host, { id, perSecond, advance, draw, reset, speeds = [0.25, 1, 4], unit: name = "step" }) {
  let running = false, due = 0, before = 0, speed = 1;
  const play = h("button.play", { type: "button", id: `${id}-play` }, "Play");
  const one = h("button", { type: "button", id: `${id}-step` }, "Step");
  const back = h("button", { type: "button", id: `${id}-reset` }, "Reset");
  const pace = h("select", { id: `${id}-speed`, "aria-label": "Speed" }, speeds.map((x) =>
    h("option", { value: x, selected: x === 1 }, `${short(x * perSecond)} ${name}s/s`)));
  const set = (on) => {
    running = on;
    play.textContent = on ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(on));
  };
  const tick = (now) => {
    if (!running) return;
    due += Math.min(now - before, 200) / 1000 * perSecond * speed;
    before = now;
    let more = true, moved = false;
    for (; due >= 1 && more; due -= 1) { more = advance(); moved = true; }
    if (moved) draw();
    if (more) requestAnimationFrame(tick); else set(false);
  };
  play.addEventListener("click", () => {
    set(!running);
    if (running) { before = performance.now(); due = 1; requestAnimationFrame(tick); }
  });
  one.addEventListener("click", () => { set(false); advance(); draw(); });
  back.addEventListener("click", () => { set(false); reset(); draw(); });
  pace.addEventListener("change", () => { speed = Number(pace.value); });
  host.append(h("div.player", play, one, back, pace));
  return { stop: () => set(false) };
}
