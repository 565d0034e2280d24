/** The plane: density, score, particles, their ways and the triangle of one of them. */

import * as draw from "./draw.js";
import * as mixture from "./mixture.js";

/** Half the width of the window, in the path's own units. */
export function reach({points, width, window, time}, run) {
  const extent = Math.max(...points.map(([x, y]) => Math.hypot(x, y))) + 3 * width;
  const of = ({alpha, sigma, scale}) => scale * Math.hypot(alpha * (extent + 0.3), 3.1 * sigma);
  return window === "follow" ? of(run.levels[time]) : Math.max(...run.levels.map(of));
}

export function show(canvas, state, model, run, ladder) {
  const {pen, width: size} = draw.sheet(canvas), colour = draw.colours();
  const half = reach(state, run), at = draw.frame(size, half), level = run.levels[state.time];
  const here = mixture.at(model, level.alpha, level.sigma);
  if (state.seeDensity) draw.density(pen, size, half, here, level.scale, colour.muted);
  if (state.seeScore) {
    const spread = Math.hypot(level.sigma, level.alpha * state.width);
    draw.scores(pen, size, half, here, level.scale, spread, colour.second);
  }
  if (state.seeTrails) {
    // Rough ways hide each other sooner than smooth ones.
    const rough = state.process !== "reverse" || state.eta > 0;
    draw.trails(pen, at, run.states, state.time, rough ? 12 : 60, colour.accent);
  }
  if (state.seeDots) draw.dots(pen, at, run.states[state.time], colour.accent, colour.panel);
  const shrink = level.alpha * level.scale;
  draw.rings(pen, at, state.points.map(([x, y]) => [shrink * x, shrink * y]), 5, colour.ink);
  if (state.seeTriangle) arrows(pen, at, colour, ladder);
  draw.rulers(pen, size, at, half, colour.muted, colour.panel);
  return half;
}

function arrows(pen, at, colour, {nodes, going, coming}) {
  const own = (x, k) => x.map((v) => v * nodes[k].scale);
  const arrow = (from, k, to, j, style) => {
    const [a, b] = [own(from, k), own(to, j)];
    pen.strokeStyle = style;
    draw.arrow(pen, at.x(a[0]), at.y(a[1]), at.x(b[0]), at.y(b[1]), 8);
  };
  pen.lineWidth = 2;
  for (let k = 0; k + 1 < going.length; k++) {
    arrow(going[k], k, going[k + 1], k + 1, colour.second);
    arrow(coming[k + 1], k + 1, coming[k], k, colour.accent);
    pen.setLineDash([6, 4]);
    arrow(going[k], k, coming[k], k, colour.ink);
    pen.setLineDash([]);
  }
  draw.rings(pen, at, [own(going[0], 0)], 4, colour.second);
}

/** The number, from 1, of the particle nearest to a place of the canvas. */
export function nearest(canvas, state, run, px, py) {
  const at = draw.frame(canvas.clientWidth, reach(state, run));
  const states = run.states[Math.min(state.time, run.states.length - 1)];
  const x = at.backX(px), y = at.backY(py);
  let best = 0;
  for (let i = 0; i < states.length; i += 2) {
    const apart = (k) => Math.hypot(states[k] - x, states[k + 1] - y);
    if (apart(i) < apart(best)) best = i;
  }
  return best / 2 + 1;
}
