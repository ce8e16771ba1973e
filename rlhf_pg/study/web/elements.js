// Elements of a page. Text is inserted only as text nodes.
const $ = (id) => document.getElementById(id);
// h("p.quiet", {title: "..."}, children) makes an element, s(...) the same in SVG. A key "on..." adds a listener,
// "--..." sets a CSS variable.
const maker = (create) => (tag, ...children) => {
  const [name, ...classes] = tag.split("."), node = create(name);
  const attributes = children[0]?.constructor === Object ? children.shift() : {};
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) node.style.setProperty(key, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
const h = maker((name) => document.createElement(name));
const s = maker((name) => document.createElementNS("http://www.w3.org/2000/svg", name));

function table(heads, rows, on = -1) { // all numbers of a column get the same decimals
  const decimals = heads.map((_, k) => {
    const most = Math.max(...rows.map((row) => (isNumber(row[k]) ? Math.abs(row[k]) : 0)));
    return most >= 100 ? 1 : most >= 10 ? 2 : 3;
  });
  const cell = (value, k) => (isNumber(value) ? minus((value || 0).toFixed(decimals[k])) : value ?? "–");
  return h("table", h("thead", h("tr", heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", rows.map((row, i) => h("tr", { class: i === on ? "on" : null },
      row.map((v, k) => h("td", cell(v, k)))))));
}
// Content that may scroll sideways, with a line below that says so while there is more to the right.
function scrollable(...content) {
  const region = h("div.scroll", content), hint = h("p.hint", { hidden: true }, "Scroll sideways for more →");
  const look = () => {
    const wide = region.scrollWidth > region.clientWidth + 2;
    hint.hidden = !wide || region.scrollLeft + region.clientWidth > region.scrollWidth - 4;
    region.classList.toggle("more", !hint.hidden);
    if (wide) region.setAttribute("tabindex", 0); else region.removeAttribute("tabindex");
  };
  region.addEventListener("scroll", look);
  new ResizeObserver(look).observe(region);
  return h("div.scroller", region, hint);
}
const attribute = (node, values) => Object.entries(values).forEach(([key, value]) => node.setAttribute(key, value));
