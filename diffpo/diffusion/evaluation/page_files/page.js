"use strict";

const byId = (id) => document.getElementById(id);
const numbers = JSON.parse(byId("numbers").textContent);
const pictures = JSON.parse(byId("pictures").textContent);
const { models, scorers, rows } = numbers;
const PAGE = 24;
const PIXELATED_BELOW = 128;
const COLORS = 8;
const SVG = "http://www.w3.org/2000/svg";

const count = models.length;
const FAINT = Math.min(0.14, 0.5 / count);
const state = {
  scorer: 0,
  first: count - 1,
  second: 0,
  sort: "order",
  descending: true,
  filter: "",
  order: [],
  shown: 0,
};

/* Elements. Text goes in as text, never as markup. */

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const drawn = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const color = (model) => `--color: var(--model-${model % COLORS})`;
const again = (model) => (model < COLORS ? "" : "again");
const named = (model) =>
  element("b", { class: `model ${again(model)}`, style: color(model) }, element("bdi", {}, models[model]));

/* Numbers. */

const isNumber = (value) => value !== null;
const percent = (fraction) => `${(100 * fraction).toFixed(1)}\u00a0%`;
const interval = (low, high) => `[${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
const minus = (text) => text.replace("-", "\u2212");
const score = (value, scorer) => (value === null ? "–" : minus(value.toFixed(scorers[scorer].decimals)));
const pictureOf = (row, model) => pictures[row * count + model];
const isTiny = (found) => found === null || Math.max(found.width, found.height) < PIXELATED_BELOW;
const scoresOf = (scorer, model) => numbers.scores[scorers[scorer].name][model];
