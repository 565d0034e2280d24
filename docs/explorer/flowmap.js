/**
 * The exact flow map of a mixture, and solvers of n steps beside it, all at unit scale.
 *
 * The flow is integrated in the frame of rectified flow, r = (1 − s) x₀ + s ε, dr/ds = ε̂ − D, which
 * is bounded from noise, s = 1, to data, s = 0. The map to clean data is one step with the average
 * denoiser D̄ in the place of D, and ends at D̄.
 */

import * as levels from "./levels.js";
import * as mixture from "./mixture.js";
import * as paths from "./paths.js";
import * as process from "./process.js";

const STEPS = 200;

/**
 * [STEPS + 1][2]: the states x at unit scale on the exact flow from the half log-SNR ell to data.
 * Runge–Kutta of order 4, with steps equal in p = log((ρ + δ)/(ρ + Δ)): δ and Δ are the smallest
 * and the largest scale of the data.
 */
export function flow(model, x, ell) {
  const delta = Math.sqrt(Math.min(...model.covariances.flatMap(([[a], [, d]]) => [a, d])));
  const size = Math.max(2 * delta, ...model.means.map(([u, v]) => Math.hypot(u, v)));
  const placeOf = (s) => Math.log((s + delta * (1 - s)) / (s + size * (1 - s)));
  const slope = ([u, v], p) => {
    const ratio = Math.exp(p), below = 1 - delta - ratio * (1 - size);
    const s = (ratio * size - delta) / below, rate = ratio * (size - delta) / (below * below);
    const {sx, sy, dx, dy} = mixture.evaluate(mixture.at(model, 1 - s, s), u, v);
    return [rate * (-s * sx - dx), rate * (-s * sy - dy)];
  };
  const from = 1 / (1 + Math.exp(ell)), start = placeOf(from), h = (placeOf(0) - start) / STEPS;
  const unit = (s) => Math.hypot(1 - s, s);
  const add = (r, k, by) => [r[0] + by * k[0], r[1] + by * k[1]];
  const timeOf = (p) => (Math.exp(p) * size - delta) / (1 - delta - Math.exp(p) * (1 - size));
  let r = x.map((v) => v * unit(from));
  const states = [x];
  for (let i = 0; i < STEPS; i++) {
    const p = start + i * h, one = slope(r, p), two = slope(add(r, one, h / 2), p + h / 2);
    const three = slope(add(r, two, h / 2), p + h / 2), four = slope(add(r, three, h), p + h);
    r = r.map((v, j) => v + h / 6 * (one[j] + 2 * two[j] + 2 * three[j] + four[j]));
    const s = i === STEPS - 1 ? 0 : timeOf(p + h);
    states.push(r.map((v) => v / unit(s)));
  }
  return states;
}

/** What stands for noise alone, ρ = ∞, where a solver's grid begins. */
const NOISE = 100;

/** {states: [n + 1][2], calls}: n steps of a method from ell to data, with η = 0. */
export function solve({path, model, x, ell: given, method, rhoMin, steps}) {
  const ell = Math.max(given, -Math.log(NOISE));
  const {states, levels: nodes, calls} = process.run({
    process: "reverse", path, eta: 0, steps, method, grid: "karras", mixture: model, noise: null,
    rhoMax: Math.exp(-ell), rhoMin: Math.min(rhoMin, Math.exp(-ell) / 2),
    initial: Float64Array.from(x.map((v) => v * levels.levelAt(paths.paths[path], ell).scale))});
  return {calls, states: states.map((at, i) => [...at].map((v) => v / nodes[i].scale))};
}
