/** The paper's triangle (Figures 4, 6, 7) as a drawing: rows are noise levels, arrows are steps. */

import * as words from "./words.js";

const NAMESPACE = "http://www.w3.org/2000/svg";

/** A new SVG element in `parent`. */
export function element(parent, name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

/** An arrow between two circles of radius `gap`. */
export function arrow(parent, kind, from, to, gap) {
  const length = Math.hypot(to.x - from.x, to.y - from.y);
  if (length <= 2 * gap) return;
  const ux = (to.x - from.x) / length, uy = (to.y - from.y) / length;
  const end = {x: to.x - ux * gap, y: to.y - uy * gap};
  const start = {x: from.x + ux * gap, y: from.y + uy * gap};
  const wing = (side) => `${end.x - 9 * ux + side * 4.5 * uy},${end.y - 9 * uy - side * 4.5 * ux}`;
  element(parent, "line", {class: `edge ${kind}`, x1: start.x, y1: start.y,
    x2: end.x - 6 * ux, y2: end.y - 6 * uy});
  element(parent, "polygon", {class: `tip ${kind}`,
    points: `${end.x},${end.y} ${wing(1)} ${wing(-1)}`});
}

/**
 * Draws a triangle of `rungs` steps. `said` are {times: of each level, length: d, kick: η²d,
 * budget: of the whole, title} as text; the table beside it says the same.
 */
export function show(svg, rungs, said) {
  const width = 490, step = rungs === 1 ? 190 : 400 / (rungs + 1);
  const height = 92 + rungs * step;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  element(svg, "title", {id: "diagram-title"}, said.title);
  const gap = 17;
  const place = (k, side) => {
    const share = (rungs - k) / rungs;
    return {x: 240 + side * 130 * share, y: height - 50 - k * step};
  };
  for (let k = 0; k <= rungs; k++) {
    const {y} = place(k, 0);
    element(svg, "line", {class: "row", x1: 0, x2: width, y1: y, y2: y});
  }
  for (let k = 0; k < rungs; k++) {
    arrow(svg, "forward", place(k, -1), place(k + 1, -1), gap);
    arrow(svg, "reverse", place(k + 1, 1), place(k, 1), gap);
    arrow(svg, "langevin", place(k, -1), place(k, 1), gap);
  }
  for (let k = 0; k <= rungs; k++) {
    for (const side of k === rungs ? [0] : [-1, 1]) {
      const {x, y} = place(k, side);
      element(svg, "circle", {class: "node", cx: x, cy: y, r: gap});
      element(svg, "text", {class: "name", x, y: y + 5}, words.node(k, side > 0 ? "′" : ""));
    }
    element(svg, "text", {class: "level", x: 2, y: place(k, 0).y - 5}, said.times[k]);
  }
  const label = (k, side, dx, anchor, kind, text) => {
    const from = place(k, side), to = place(k + 1, side);
    text.forEach((line, i) => element(svg, "text", {class: i ? "numbers" : `word ${kind}`,
      x: (from.x + to.x) / 2 + dx, y: (from.y + to.y) / 2 - 12 + 17 * i, "text-anchor": anchor},
    line));
  };
  label(0, -1, -26, "end", "forward", ["forward", `h −${said.length}`, `Λ ${said.length}`]);
  label(0, 1, 26, "start", "reverse", ["reverse", `h +${said.length}`, `Λ ${said.kick}`]);
  const bottom = place(0, 0);
  element(svg, "text", {class: "word langevin", x: 240, y: bottom.y + 21,
    "text-anchor": "middle"}, "Langevin: the identity");
  element(svg, "text", {class: "numbers", x: 240, y: bottom.y + 39, "text-anchor": "middle"},
    `h 0, Λ ${said.budget}`);
}
