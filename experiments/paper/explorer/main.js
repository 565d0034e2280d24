/** The page: one state, from which run, pictures and words follow. */

import * as analysis from "./analysis.js";
import * as chart from "./chart.js";
import * as controls from "./controls.js";
import * as diagram from "./diagram.js";
import * as distance from "./distance.js";
import * as draw from "./draw.js";
import * as editor from "./editor.js";
import * as levels from "./levels.js";
import * as mixture from "./mixture.js";
import * as paths from "./paths.js";
import * as process from "./process.js";
import * as random from "./random.js";
import * as setups from "./setups.js";
import * as triangle from "./triangle.js";

const find = (id) => document.getElementById(id);
const {brief} = controls;

let state = {...setups.initial};
let model, result, results = [], sets, playing = null;

const STORIES = {
  forward: "Forward adds noise: each step shrinks a state towards 0 and adds a fresh Gaussian, "
    + "exactly, however long the step. It needs no score, and it forgets the data.",
  langevin: "Langevin stays at one noise level: each step follows the score and adds noise. Single "
    + "particles move, their distribution stays: the identity on distributions.",
  reverse: "Reverse takes noise away: it is Langevin minus forward, and needs the score. η says how "
    + "much fresh noise it adds on the way: 0 none, an ODE; 1 as much as the forward SDE.",
};
const PATHS = {
  vp: "Variance preserving: α = e<sup>−t/2</sup>, σ² = 1 − e<sup>−t</sup>, time t from 0 to 10.",
  ve: "Variance exploding (Karras): α = 1, and time is σ itself, from 0 to 80.",
  rectified_flow: "Rectified flow: α = 1 − s, σ = s, time s from 0 to 1.",
  cosine: "Cosine: α = cos(πt/2), σ = sin(πt/2), time t from 0 to 1.",
};

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
    method: now.method, grid: now.grid, rhoMin: now.width / 20, rhoMax: controls.valueOf(now, "rhoMax"),
    rho: controls.valueOf(now, "rho"), budget: controls.valueOf(now, "budget"), mixture: model,
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
  result = process.run({...settings, initial: start(process.plan(settings)[0]),
    noise: (i) => noiseOf(state.seed, i, n)});
  state.time = Math.min(state.time, state.steps);
  const known = JSON.stringify([state.points, state.width, n]);
  if (!sets || sets.known !== known) sets = {known, all: distance.references(model, n, 987654321)};
  results = analysis.measure(result, sets.all, () => state.time, () => {
    showChart();
    showDistance();
  });
}

/** Half the width of the window in the path's own units. */
function reach() {
  const extent = Math.max(...state.points.map(([x, y]) => Math.hypot(x, y))) + 3 * state.width;
  const of = ({alpha, sigma, scale}) => scale * Math.hypot(alpha * (extent + 0.3), 3.1 * sigma);
  return state.window === "follow" ? of(result.levels[state.time])
    : Math.max(...result.levels.map(of));
}

/** The level and state that the triangle stands on: the shown one, or the nearest with noise. */
function ladder() {
  let i = state.time;
  const bad = (k) => !Number.isFinite(result.levels[k].ell);
  while (bad(i)) i += i > 0 && !bad(i - 1) ? -1 : i < state.steps ? 1 : -1;
  const level = result.levels[i], j = 2 * (state.particle - 1);
  const source = random.generator(7777777 + 1000 * state.seed + state.particle);
  const pairs = () => Array.from({length: state.rungs}, () => [source.normal(), source.normal()]);
  return triangle.ladder({
    path: paths.paths[state.path], model, ell: level.ell, length: state.length, eta: state.eta,
    x: [result.states[i][j] / level.scale, result.states[i][j + 1] / level.scale],
    rungs: state.rungs, up: pairs(), down: pairs(),
  });
}

function showPlane() {
  const {pen, width: size} = draw.sheet(find("plane")), colour = draw.colours();
  const half = reach(), at = draw.frame(size, half), level = result.levels[state.time];
  const here = mixture.at(model, level.alpha, level.sigma);
  if (state.seeDensity) draw.density(pen, size, half, here, level.scale, colour.muted);
  if (state.seeScore) {
    const spread = Math.hypot(level.sigma, level.alpha * state.width);
    draw.scores(pen, size, half, here, level.scale, spread, colour.second);
  }
  const states = result.states[state.time];
  if (state.seeTrails) {
    // Rough ways hide each other sooner than smooth ones.
    const rough = state.process !== "reverse" || state.eta > 0;
    draw.trails(pen, at, result.states, state.time, rough ? 12 : 60, colour.accent);
  }
  if (state.seeDots) draw.dots(pen, at, states, colour.accent, colour.panel);
  pen.strokeStyle = colour.ink;
  pen.lineWidth = 1.5;
  for (const [x, y] of state.points) {
    const shrink = level.alpha * level.scale;
    pen.beginPath();
    pen.arc(at.x(shrink * x), at.y(shrink * y), 5, 0, 2 * Math.PI);
    pen.stroke();
  }
  if (state.seeTriangle) showArrows(pen, at, colour);
  draw.rulers(pen, size, at, half, colour.muted, colour.panel);
  const shown = {forward: "forward process", langevin: "Langevin dynamics",
    reverse: "reverse process"}[state.process];
  find("plane").setAttribute("aria-label",
    `${state.particles} particles of the ${shown} along the ${paths.paths[state.path].title} path, `
    + `${find("time-said").textContent}; window ±${brief(half)}`);
}

function showArrows(pen, at, colour) {
  const {nodes, going, coming} = ladder();
  const px = (x, k) => [at.x(x[0] * nodes[k].scale), at.y(x[1] * nodes[k].scale)];
  pen.lineWidth = 2;
  for (let k = 0; k + 1 < going.length; k++) {
    pen.strokeStyle = colour.second;
    draw.arrow(pen, ...px(going[k], k), ...px(going[k + 1], k + 1), 8);
    pen.strokeStyle = colour.accent;
    draw.arrow(pen, ...px(coming[k + 1], k + 1), ...px(coming[k], k), 8);
    pen.strokeStyle = colour.ink;
    pen.setLineDash([6, 4]);
    draw.arrow(pen, ...px(going[k], k), ...px(coming[k], k), 8);
    pen.setLineDash([]);
  }
}

function showTriangle() {
  const found = ladder(), {nodes, going, coming, rows} = found, {length, eta, rungs} = state;
  const {timeName} = paths.paths[state.path];
  const kick = brief(eta * eta * length);
  diagram.show(find("diagram"), found, {
    times: nodes.map((level) => `${timeName} = ${brief(level.t)}`), length: brief(length), kick,
    budgets: rows.map((row) => brief(row.budget)),
  });
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.id = "diagram-title";
  title.textContent = `Triangle: ${rungs} forward step${rungs > 1 ? "s" : ""} of h = −${
    brief(length)}, as many reverse ones of h = +${brief(length)}, and the Langevin steps at each `
    + "level that they amount to.";
  find("diagram").prepend(title);
  const spot = (x, k) => `(${x.map((v) => fixed(v * nodes[k].scale)).join(", ")})`;
  const lines = [];
  const word = (k, prime = "") => `x${String.fromCharCode(0x2080 + k)}${prime}`;
  for (let k = 0; k < rungs; k++) {
    lines.push(["forward", `forward ${word(k)} → ${word(k + 1)}`, `−${brief(length)}`,
      brief(length), spot(going[k + 1], k + 1)]);
  }
  for (let k = rungs; k > 0; k--) {
    lines.push(["reverse", `reverse ${word(k, k < rungs ? "′" : "")} → ${word(k - 1, "′")}`,
      `+${brief(length)}`, kick, spot(coming[k - 1], k - 1)]);
  }
  for (let k = rungs - 1; k >= 0; k--) {
    lines.push(["", `Langevin ${word(k)} → ${word(k, "′")}`, "0", brief(rows[k].budget),
      spot(rows[k].state, k)]);
  }
  find("rows").replaceChildren(...lines.map(([kind, ...cells]) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text, i) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (i === 0 && kind) cell.className = kind;
      return cell;
    }));
    return row;
  }));
  const error = Math.max(...rows.map((row) => row.error));
  const apart = Math.hypot(found.fresh[0] - coming[0][0], found.fresh[1] - coming[0][1]);
  find("gap").textContent = `The way round and the one Langevin step land ${
    brief(error)} apart: rounding. The Λ add up, ${rungs > 1 ? "row by row, " : ""}d + η²d = (1 + η²)d. `
    + `With D taken anew before each step, as samplers do, the way round ends ${brief(apart)} `
    + "elsewhere; this gap is the error of a finite step, and shrinks faster than d. All at unit scale.";
}

const fixed = (v) => (Math.abs(v) < 100 ? v.toFixed(3) : v.toFixed(1)).replace("-", "−");

function showTime() {
  const level = result.levels[state.time], path = paths.paths[state.path];
  const time = find("time");
  time.max = String(state.steps);
  time.value = String(state.time);
  const langevin = state.process === "langevin"
    ? ` · Langevin time Σ Λ = ${brief(state.time * controls.valueOf(state, "budget"))} σ²` : "";
  const said = `step ${state.time} of ${state.steps} · ${path.timeName} = ${brief(level.t)} · ℓ = ${
    brief(level.ell)} · ρ = ${brief(Math.exp(-level.ell))}${langevin}`;
  find("time-said").textContent = said;
  time.setAttribute("aria-valuetext", said);
  find("coefficients").textContent =
    `${brief(path.alpha(level.t))}, ${brief(path.sigma(level.t))}`;
}

function showDistance() {
  const found = results[state.time], verdict = find("verdict");
  find("distance").textContent = found ? brief(found.value) : "…";
  verdict.textContent = verdict.className = "";
  verdict.className = "verdict";
  if (!found) {
    find("band").textContent = "being measured";
    return;
  }
  const {value, low, high} = found;
  const says = value > high ? ["outside", "too far"] : value < low
    ? ["inside", "nearer than most exact draws"] : ["inside", "within noise"];
  verdict.classList.add(says[0]);
  verdict.textContent = says[1];
  find("band").textContent =
    `Exact draws in the particles’ place: ${brief(low)} to ${brief(high)}, 19 times of 20.`;
}

function showChart() {
  chart.distances(find("chart"), results, state.steps, state.time);
  const found = results.filter(Boolean), beyond = found.filter(({value, high}) => value > high);
  find("chart").setAttribute("aria-label", `Distance to the exact marginal at each step: above `
    + `the band of exact draws at ${beyond.length} of ${found.length} measured steps.`);
}

function showRun() {
  find("story").textContent = STORIES[state.process];
  find("path-said").innerHTML = PATHS[state.path];
  find("calls").textContent = String(result.calls);
  find("detour").textContent = brief(distance.detour(result.states));
}

function showMoment() {
  showTime();
  showPlane();
  showTriangle();
  showDistance();
  showChart();
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
      showRun();
    }
    controls.show(state);
    showMoment();
  });
}

const LOOKS = new Set(["seeDensity", "seeScore", "seeTrails", "seeDots", "seeTriangle", "window",
  "length", "rungs", "particle", "time"]);

function change(patch) {
  if ("steps" in patch && !("time" in patch)) {
    patch = {...patch, time: Math.round(state.time / state.steps * patch.steps)};
  }
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
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  playing = setInterval(() => {
    if (state.time >= state.steps) play(false);
    else change({time: state.time + 1});
  }, calm ? 600 : Math.max(40, 5000 / state.steps));
}

const say = (text) => { find("say").textContent = text; };
const pad = editor.attach(find("pad"), () => state.points, (points) => {
  state = {...state, points};
  model = mixtureOf(state);
  pad.show(model);
  refresh(true);
}, say);

controls.attach(change);
find("time").addEventListener("input", (event) => {
  play(false);
  change({time: Number(event.target.value)});
});
find("play").addEventListener("click", () => play(!playing));
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
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const {offsetTop} = document.querySelector(".play");
    window.scrollTo({top: offsetTop - 8, behavior: calm ? "auto" : "smooth"});
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
  /** {t, states}: times (n + 1) and states [n + 1][particles][2], given initial states and noise. */
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
  paths: Object.keys(paths.paths), grids: Object.keys(levels.grids),
};

compute();
pad.show(model);
showRun();
controls.show(state);
showMoment();
