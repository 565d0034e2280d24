/**
 * The paper's triangle at finite steps: forward and then reverse is Langevin (Figures 4, 6 and 7).
 *
 * With the denoiser D of one state held fixed, STEP(−d, d) and then STEP(d, η²d) is exactly
 * STEP(0, (1 + η²)d). A ladder takes `rungs` steps up and as many down again; each of its rows is a
 * Langevin step too, of (1 + η²)d for each rung above it.
 */

import * as levels from "./levels.js";
import * as methods from "./methods.js";
import * as mixture from "./mixture.js";

function step(x, denoised, here, after, budget, xi) {
  const [a, b, c] = methods.stepWeights(here, after, budget);
  return [0, 1].map((j) => a * x[j] + b * denoised[j] + c * xi[j]);
}

const apart = (x, y) => Math.hypot(x[0] - y[0], x[1] - y[1]);

/**
 * The ladder above a state x at the half log-SNR ell, all at unit scale.
 *
 * `up` and `down` are standard normals ξ [rungs][2] of the steps. Returns the levels, the states
 * going up (rungs + 1) and coming down again (the same, by level), the rows {budget, state, error}
 * with the state that one Langevin step of the same noise leads to, and `fresh`, where the bottom
 * row ends if D is taken anew before each step, as samplers do.
 */
export function ladder({path, model, x, ell, length, eta, rungs, up, down}) {
  const nodes = Array.from({length: rungs + 1}, (_, k) => levels.levelAt(path, ell - k * length));
  const denoiser = (at, level) => {
    const found = mixture.evaluate(mixture.at(model, level.alpha, level.sigma), at[0], at[1]);
    return [found.dx, found.dy];
  };
  const denoised = denoiser(x, nodes[0]), kick = eta * eta * length;
  const walk = (start, first, choose) => {
    const going = [start], coming = [];
    for (let k = first; k < rungs; k++) {
      const at = going[going.length - 1];
      going.push(step(at, denoised, nodes[k], nodes[k + 1], length, up[k]));
    }
    let at = going[going.length - 1];
    coming[rungs] = at;
    for (let k = rungs; k > first; k--) {
      at = step(at, choose(at, nodes[k]), nodes[k], nodes[k - 1], kick, down[k - 1]);
      coming[k - 1] = at;
    }
    return {going, coming};
  };
  const held = () => denoised;
  const {going, coming} = walk(x, 0, held);
  const rows = nodes.slice(0, rungs).map((level, k) => {
    const budget = (1 + eta * eta) * length * (rungs - k);
    // All noise of the way, as one ξ: where a state without deviation from αD is led.
    const centre = denoised.map((v) => level.alpha * v);
    const end = walk(centre, k, held).coming[k];
    const size = level.sigma * Math.sqrt(-Math.expm1(-2 * budget));
    const xi = [0, 1].map((j) => (end[j] - centre[j]) / size);
    const state = step(going[k], denoised, level, level, budget, xi);
    return {budget, state, error: apart(state, coming[k])};
  });
  return {nodes, denoised, going, coming, rows, fresh: walk(x, 0, denoiser).coming[0]};
}
