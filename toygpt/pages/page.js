"use strict";
// What the pages share. Text is only ever set as text, never as markup.

const found = JSON.parse(document.getElementById("findings").textContent);
const byId = (id) => document.getElementById(id);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const count = (number) => number.toLocaleString("en");

function percent(share) {
  if (share === 1) return "100\u00a0%";
  if (share >= 0.995) return ">\u00a099\u00a0%";
  if (share < 0.00095) return "<\u00a00.1\u00a0%";
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}\u00a0%`;
}

// A colour behind text, from nothing (0) to the strongest that text can bear (1).
const tint = (hue, strength) =>
  `color-mix(in srgb, var(--${hue}-fill) ${Math.round(62 * Math.min(1, strength))}%, transparent)`;

// An element: `el("a", { href: "#x", style: { color } }, "text", child)`.
function el(tag, settings = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(settings)) {
    if (key === "style") Object.assign(node.style, value);
    else if (key in node && !key.startsWith("aria")) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

function svg(tag, settings = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(settings)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Put new content into an element; what takes the place of what had the focus gets it.
function draw(id, ...children) {
  const stops = () => [...byId(id).querySelectorAll("a, button, [tabindex]")];
  const focused = stops().indexOf(document.activeElement);
  byId(id).replaceChildren(...children);
  if (focused >= 0) stops()[focused]?.focus({ preventScroll: true });
}

// A token, by its label.
const chip = (label, kind = "") => el("span", { className: `token ${kind}`, title: label }, label);

// A table: heads and cells are text or elements; the columns `numbers` are aligned at the right.
function table(heads, rows, numbers = []) {
  const cell = (tag, content, column) =>
    el(content === "" ? "td" : tag, { className: numbers.includes(column) ? "n" : "" }, content);
  const line = (tag, cells) => el("tr", {}, ...cells.map((content, i) => cell(tag, content, i)));
  return el("table", {}, el("thead", {}, line("th", heads)),
    el("tbody", {}, ...rows.map((cells) => line("td", cells))));
}

// Axes from the first to the last tick, and on them what `marks(toX, toY)` returns.
function chart({ title, width = 640, height = 300, scale = (x) => x, ...axes }) {
  const { ticksX, ticksY, labelX, labelY, marks } = axes;
  const [left, right, top, bottom] = [54, 14, 10, 44];
  const between = (value, ticks) => (value - ticks[0]) / (ticks.at(-1) - ticks[0]);
  const toX = (x) => left + between(scale(x), ticksX.map(scale)) * (width - left - right);
  const toY = (y) => height - bottom - between(y, ticksY) * (height - top - bottom);
  const text = (x, y, anchor, label, turn = 0) => svg("text",
    { transform: `translate(${x} ${y}) rotate(${turn})`, "text-anchor": anchor }, `${label}`);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": title },
    ...ticksY.map((y) => svg("path", { class: "grid", d: `M${left} ${toY(y)}H${width - right}` })),
    ...ticksY.map((y) => text(left - 8, toY(y) + 4, "end", y)),
    ...ticksX.map((x) => text(toX(x), height - bottom + 18, "middle", x)),
    text((left + width - right) / 2, height - 6, "middle", labelX),
    text(14, (top + height - bottom) / 2, "middle", labelY, -90),
    ...marks(toX, toY));
}
const polyline = (kind, points) => svg("polyline", { class: kind, points: points.join(" ") });

// In a frame, as trackers show pages, a link to "#part" would leave the page: scroll instead.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  const part = byId(link.hash.slice(1));
  part.scrollIntoView();
  part.tabIndex = -1; // so that it can have the focus
  part.focus({ preventScroll: true });
});
