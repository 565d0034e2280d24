/** The page: one state, from which run, pictures and words follow. */

import * as analysis from "./analysis.js";
import * as chart from "./chart.js";
import * as controls from "./controls.js";
import * as distance from "./distance.js";
import * as editor from "./editor.js";
import * as flowmap from "./flowmap.js";
import * as mixture from "./mixture.js";
import * as paths from "./paths.js";
import * as process from "./process.js";
import * as random from "./random.js";
import * as report from "./report.js";
import * as scene from "./scene.js";
import * as setups from "./setups.js";
import * as triangle from "./triangle.js";
import * as words from "./words.js";

const REFERENCE_SEED = 987654321;
const find = (id) => document.getElementById(id);
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

let state = {...setups.initial};
let model, run, results = [], references, playing = null;

/** Points of one width as a mixture of equal weights. */
function mixtureOf({points, width}) {
  return {weights: points.map(() => 1), means: points,
    covariances: points.map(() => [[width * width, 0], [0, width * width]])};
}

/** Noise of a step: its own stream, so that it stays when other settings change. */
const noiseOf = (seed, i, n) => random.generator(1000 * seed + i + 1).normals(2 * n);

function settingsOf(now) {
  return {
    process: now.process, path: now.path, eta: now.eta, schedule: now.schedule, steps: now.steps,
    method: now.method, grid: now.grid, rhoMin: now.width / 20,
    rhoMax: controls.valueOf(now, "rhoMax"), rho: controls.valueOf(now, "rho"),
    budget: controls.valueOf(now, "budget"), mixture: model,
  };
}

function start(first) {
  const n = state.particles, source = random.generator(1000 * state.seed);
  const data = mixture.sample(model, source, n), noise = source.normals(2 * n);
  const bare = state.start === "gaussian" && state.process !== "forward";
  const x = data.map((v, i) =>
    first.scale * ((bare ? 0 : first.alpha * v) + first.sigma * noise[i]));
  return state.start === "spot" ? x.map((_, i) => x[i % 2]) : x;
}

function compute() {
  model = mixtureOf(state);
  const settings = settingsOf(state), n = state.particles;
  run = process.run({...settings, initial: start(process.plan(settings)[0]),
    noise: (i) => noiseOf(state.seed, i, n)});
  state.time = Math.min(state.time, state.steps);
  const known = JSON.stringify([state.points, state.width, n]);
  if (!references || references.known !== known) {
    references = {known, ...distance.references(model, n, REFERENCE_SEED)};
  }
  results = analysis.measure(run, references, () => state.time, showDistances);
}

/**
 * {level, x, moved}: the chosen particle at unit scale at the moment that is shown, or at the
 * nearest whose ℓ is finite; of data and noise alone, at noise.
 */
function chosen() {
  const near = run.levels.map(({ell}, i) => Number.isFinite(ell) ? Math.abs(i - state.time)
    : ell < 0 ? run.levels.length : Infinity);
  const i = near.indexOf(Math.min(...near)), level = run.levels[i], j = 2 * (state.particle - 1);
  return {level, moved: i !== state.time,
    x: [run.states[i][j] / level.scale, run.states[i][j + 1] / level.scale]};
}

function ladder({level, x, moved}) {
  const source = random.generator(7777777 + 1000 * state.seed + state.particle);
  const pairs = () => Array.from({length: state.rungs}, () => [source.normal(), source.normal()]);
  return {moved, ...triangle.ladder({
    path: paths.paths[state.path], model, ell: level.ell, length: state.length, eta: state.eta, x,
    rungs: state.rungs, up: pairs(), down: pairs(),
  })};
}

function showDistances() {
  report.far(results[state.time]);
  chart.distances(find("chart"), results, state.steps, state.time);
  const found = results.filter(Boolean), beyond = found.filter(({value, high}) => value > high);
  find("chart").setAttribute("aria-label", "Distance to the exact marginal at each step: above "
    + `the band of exact draws at ${beyond.length} of ${found.length} measured steps.`);
}

function showMoment() {
  const said = report.moment(state, run, controls.valueOf(state, "budget"));
  const particle = chosen(), found = ladder(particle);
  const half = scene.show(find("plane"), state, model, run, found);
  const shown = {forward: "forward process", langevin: "Langevin dynamics",
    reverse: "reverse process"}[state.process];
  find("plane").setAttribute("aria-label",
    `${state.particles} particles of the ${shown} along the ${paths.paths[state.path].title} path, `
    + `${said}; window ±${words.brief(half)}`);
  report.triangle(found, state, found.moved);
  report.flowMap(state, model, particle);
  showDistances();
}

let due = null;
/** Draws once for any number of changes before the next frame. */
function refresh(anew) {
  if (due) {
    due.anew ||= anew;
    return;
  }
  due = {anew};
  requestAnimationFrame(() => {
    const {anew: whole} = due;
    due = null;
    if (whole) {
      compute();
      pad.show(model);
      report.whole(state, run);
    }
    controls.show(state);
    showMoment();
  });
}

const LOOKS = new Set(["seeDensity", "seeScore", "seeTrails", "seeDots", "seeTriangle", "window",
  "length", "rungs", "particle", "mapSteps", "time"]);

function change(patch) {
  if ("steps" in patch && !("time" in patch)) {
    patch = {...patch, time: Math.round(state.time / state.steps * patch.steps)};
  }
  if ("points" in patch) find("points-said").textContent = "";
  state = {...state, ...patch};
  state.particle = Math.min(state.particle, state.particles);
  if (state.process === "forward" && state.start === "gaussian") state.start = "exact";
  refresh(Object.keys(patch).some((key) => !LOOKS.has(key)));
}

function play(on) {
  clearInterval(playing);
  playing = null;
  find("play").setAttribute("aria-label", on ? "Pause" : "Play the run");
  find("play").querySelector("path").setAttribute(
    "d", on ? "M4 2.5h3v11h-3z M9.5 2.5h3v11h-3z" : "M4 2.5v11l9-5.5z");
  if (!on) return;
  if (state.time === state.steps) change({time: 0});
  playing = setInterval(() => {
    if (state.time >= state.steps) play(false);
    else change({time: state.time + 1});
  }, calm() ? 600 : Math.max(40, 5000 / state.steps));
}

const say = (text) => { find("say").textContent = text; };
const pad = editor.attach(find("pad"), () => state.points, (points, moving) => {
  state = {...state, points};
  if (!moving) pad.show(mixtureOf(state));  // a new point must be there to be focused
  refresh(true);
}, (text) => { find("points-said").textContent = text; });

controls.attach(change);
find("time").addEventListener("input", (event) => {
  play(false);
  change({time: Number(event.target.value)});
});
find("play").addEventListener("click", () => play(!playing));
find("plane").addEventListener("click", ({offsetX, offsetY}) => change(
  {particle: scene.nearest(find("plane"), state, run, offsetX, offsetY)}));
find("again").addEventListener("click", () => change({seed: state.seed + 1}));
find("add").addEventListener("click", pad.addSomewhere);
find("remove").addEventListener("click", pad.remove);
for (const button of document.querySelectorAll("[data-preset]")) {
  button.addEventListener("click", () => change(setups.presets[button.dataset.preset]));
}
for (const button of document.querySelectorAll("[data-try]")) {
  button.addEventListener("click", () => {
    play(false);
    change(setups.experiments[button.dataset.try]);
    const {offsetTop} = document.querySelector(".play");
    window.scrollTo({top: offsetTop - 8, behavior: calm() ? "auto" : "smooth"});
    say(`Set up: ${button.textContent}.`);
  });
}
new ResizeObserver(() => refresh(false)).observe(find("plane"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  pad.show(model);
  refresh(false);
});

/** For tests and consoles: what the page computes with, on nested arrays. */
window.langevin = {
  /** {t: [n + 1], states: [n + 1][particles][2]}, given initial states and noise. */
  run(settings) {
    const flat = (rows) => Float64Array.from(rows.flat());
    const nested = (states) => Array.from({length: states.length / 2},
      (_, i) => [states[2 * i], states[2 * i + 1]]);
    const {levels: nodes, states, calls} = process.run(
      {...settings, initial: flat(settings.initial), noise: (i) => flat(settings.noise[i])});
    return {t: nodes.map(({t}) => t), states: states.map(nested), calls};
  },
  /** The score [n][2] at the places x [n][2] of the level (α, σ). */
  score(of, x, alpha, sigma) {
    const level = mixture.at(of, alpha, sigma);
    return x.map(([u, v]) => {
      const {sx, sy} = mixture.evaluate(level, u, v);
      return [sx, sy];
    });
  },
  /** The end of the exact flow [2] from x [2] at unit scale and the half log-SNR ell. */
  mapped: (of, x, ell) => flowmap.flow(of, x, ell).at(-1),
};

compute();
pad.show(model);
report.whole(state, run);
controls.show(state);
showMoment();
