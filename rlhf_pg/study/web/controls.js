// Sliders and choices.
// A range with its number beside it; returns a function that sets both without calling `input`.
function slider(host, id, label, low, high, step, value, input) {
  const range = h("input", { type: "range", id, min: low, max: high, step });
  const box = h("input", { type: "number", min: low, max: high, step: "any", "aria-label": `${label}, as a number` });
  const set = (v) => { range.value = v; box.value = Number(Number(v).toPrecision(6)); };
  range.addEventListener("input", () => { box.value = range.value; input(Number(range.value)); });
  box.addEventListener("change", () => {
    if (box.value === "") return set(range.value);
    set(clamp(Number(box.value), low, high));
    input(Number(box.value));
  });
  host.append(h("div.slider", h("label", { for: id }, label), range, box));
  set(value);
  return set;
}
function choice(host, label, options, value, input) {
  const select = h("select", { onchange: () => input(select.value) },
    options.map(([v, text]) => h("option", { value: v }, text)));
  select.value = value;
  host.append(h("label", label, select));
  return select;
}
// A button that turns light and dark, starting from what the reader's system asks for.
function themeButton(button) {
  const reader = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const other = () => ((root.dataset.theme ?? (reader.matches ? "dark" : "light")) === "dark" ? "light" : "dark");
  const name = () => { button.textContent = other() === "dark" ? "Dark" : "Light"; };
  const turned = () => { name(); dispatchEvent(new Event("themechange")); };
  button.addEventListener("click", () => { root.dataset.theme = other(); turned(); });
  reader.addEventListener("change", turned);
  name();
}
// Calls `redraw` after the window's width has changed.
function onWidth(redraw) {
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    if (innerWidth !== width) waiting = setTimeout(() => { width = innerWidth; redraw(); }, 150);
  });
}
