/** What the page starts from, the examples of data, and the experiments that its text proposes. */

const ring = Array.from({length: 8}, (_, k) =>
  [Math.cos, Math.sin].map((part) => Math.round(150 * part(k * Math.PI / 4)) / 100));

export const presets = {
  one: {points: [[0.5, 0.3]], width: 0.4},
  two: {points: [[-1.2, -0.4], [1.2, 0.4]], width: 0.15},
  ring: {points: ring, width: 0.12},
  paper: {points: [[1.3, 0.9]], width: 0.02},
};

/** Sliders of ratios hold the logarithm to base 10: rhoMax, rho, budget. */
export const initial = {
  ...presets.ring,
  process: "reverse", path: "vp", eta: 1, schedule: "constant", method: "step", steps: 60,
  grid: "karras", rhoMax: 1.3, rho: -0.4, budget: -0.7, start: "exact", particles: 400, seed: 1,
  seeDensity: true, seeScore: true, seeTrails: true, seeDots: true, seeTriangle: false,
  window: "whole", length: 0.5, rungs: 1, particle: 1, mapSteps: 4,
  time: 40,
};

const {time, ...rest} = initial;

export const experiments = {
  identity: {...rest, process: "langevin", steps: 60, seeScore: false, time: 30},
  forward: {...rest, ...presets.two, process: "forward", steps: 40, time: 26, seeScore: false},
  triangle: {...rest, ...presets.two, process: "reverse", steps: 40, time: 24, seeTriangle: true,
    seeTrails: false, window: "follow"},
  straight: {...rest, ...presets.paper, eta: 0, method: "multistep", steps: 80, time: 80,
    seeScore: false, seeDensity: false, rhoMax: 1},
  map: {...rest, eta: 0, steps: 60, time: 0},
  unified: {...rest, eta: 0.5, method: "multistep", steps: 40, time: 40},
  fail: {...rest, method: "euler_maruyama", grid: "uniform_time", eta: 0, steps: 2, time: 2},
};
