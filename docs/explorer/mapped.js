/** The flow of one particle to the data as a drawing: its curve, one arrow, and a solver's steps. */

import * as diagram from "./diagram.js";

const SIZE = 460, EDGE = 26;

/** `flow` and `solved` are states [n + 1][2] at unit scale, from one state to clean data. */
export function show(svg, points, flow, solved) {
  const all = [...points, ...flow, ...solved];
  const range = [0, 1].map((j) => all.map((at) => at[j])).map((v) => [Math.min(...v), Math.max(...v)]);
  const extent = Math.max(...range.map(([low, high]) => high - low), 1e-3);
  const place = (at) => ({
    x: SIZE / 2 + (SIZE - 2 * EDGE) * (at[0] - (range[0][0] + range[0][1]) / 2) / extent,
    y: SIZE / 2 - (SIZE - 2 * EDGE) * (at[1] - (range[1][0] + range[1][1]) / 2) / extent});
  const title = svg.querySelector("title");
  svg.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  svg.replaceChildren(title);
  const circle = (kind, at, r) => {
    const {x, y} = place(at);
    diagram.element(svg, "circle", {class: kind, cx: x, cy: y, r});
  };
  for (const point of points) circle("node", point, 5);
  diagram.element(svg, "polyline", {class: "flow", points: flow.map(place)
    .map(({x, y}) => `${x},${y}`).join(" ")});
  for (let k = 0; k + 1 < solved.length; k++) {
    diagram.arrow(svg, "forward", place(solved[k]), place(solved[k + 1]), 0);
    circle("stop", solved[k + 1], 3);
  }
  diagram.arrow(svg, "reverse", place(flow[0]), place(flow[flow.length - 1]), 0);
  circle("start", flow[0], 5);
}
