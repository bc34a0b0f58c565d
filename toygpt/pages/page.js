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
