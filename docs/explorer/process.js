/**
 * The three processes of the paper, run for many particles at once.
 *
 *   forward   the exact noising kernel from level to level, STEP(−d, d)
 *   langevin  the identity at one level, STEP(0, Λ)
 *   reverse   a method of methods.js along a grid of levels
 *
 * run(settings) returns {levels, states, lengths, budgets, calls}: a level and the states (in the
 * path's own scale) for the start and after each step, h and Λ of each step, and how many times the
 * denoiser was called for each particle. Nothing is drawn here: settings.initial are the first
 * states, and settings.noise(i) the standard normals ξ of step i, Float64Arrays x₀ y₀ x₁ y₁ …
 */

import * as mixture from "./mixture.js";
import * as levels from "./levels.js";
import * as methods from "./methods.js";
import * as paths from "./paths.js";

/** The levels that a run visits, its first one included. */
export function plan({process, path, grid, steps, rhoMin, rhoMax, rho}) {
  const along = paths.paths[path];
  if (process === "langevin") {
    return Array(steps + 1).fill(levels.levelAt(along, -Math.log(rho)));
  }
  const nodes = levels.lay(along, grid, steps, rhoMin, rhoMax);
  return process === "forward" ? nodes.reverse() : nodes;
}

export function run(settings) {
  const {process, path, initial, noise, steps} = settings;
  const nodes = plan(settings);
  const scaled = (states, by) => states.map((v) => v * by);
  const states = [initial.slice()];
  let x = scaled(initial, 1 / nodes[0].scale), calls = 0;
  const lengths = nodes.slice(1).map((after, i) =>
    process === "langevin" ? 0 : after.ell - nodes[i].ell);
  const keep = (i) => states.push(scaled(x, nodes[i + 1].scale));

  if (process === "forward") {
    for (let i = 0; i < steps; i++) {
      const [here, after] = [nodes[i], nodes[i + 1]];
      const spread = after.sigma * Math.sqrt(-Math.expm1(2 * lengths[i])), xi = noise(i);
      x = x.map((v, j) => after.alpha / here.alpha * v + spread * xi[j]);
      keep(i);
    }
    return {levels: nodes, states, lengths, budgets: lengths.map((h) => -h), calls};
  }

  const model = (level, at) => {
    calls += 1;
    return mixture.denoise(mixture.at(settings.mixture, level.alpha, level.sigma), at);
  };
  if (process === "langevin") {
    const level = nodes[0];
    const [a, b, e] = methods.stepWeights(level, level, settings.budget);
    for (let i = 0; i < steps; i++) {
      const denoised = model(level, x), xi = noise(i);
      x = x.map((v, j) => a * v + b * denoised[j] + e * xi[j]);
      keep(i);
    }
    return {levels: nodes, states, lengths, budgets: Array(steps).fill(settings.budget), calls};
  }

  const eta = levels.schedules[settings.schedule ?? "constant"](settings.eta);
  const planned = methods.methods[settings.method](paths.paths[path], nodes, eta);
  let before = null;
  planned.forEach((step, i) => {
    const xi = step.c > 0 || step.e > 0 ? noise(i) : null;
    const hat = step.c > 0 || step.m !== 1
      ? x.map((v, j) => step.m * v + (step.c > 0 ? step.c * xi[j] : 0)) : x;
    const known = [];
    for (const {level, a, b} of step.stages) {
      known.push(model(level, x = known.length ? x : hat));
      const slopes = step.lag ? [known[0], before] : known;
      x = hat.map((v, j) => {
        let sum = a * v;
        for (let k = 0; k < b.length; k++) sum += b[k] * slopes[k][j];
        return sum;
      });
    }
    if (step.e > 0) x = x.map((v, j) => v + step.e * xi[j]);
    before = known[0];
    keep(i);
  });
  return {levels: nodes, states, lengths, budgets: levels.budgets(nodes, eta), calls};
}
