/** The numbers of a run in words: where it stands, how far it is, what the triangle comes to. */

import * as diagram from "./diagram.js";
import * as distance from "./distance.js";
import * as flowmap from "./flowmap.js";
import * as mapped from "./mapped.js";
import * as paths from "./paths.js";
import * as words from "./words.js";

const find = (id) => document.getElementById(id);
const {brief} = words;

/** What holds for the whole run. */
export function whole(state, run) {
  const reverse = state.process === "reverse";
  find("story").textContent = words.processes[state.process];
  find("path-said").innerHTML = words.paths[state.path];
  find("method-said").textContent = words.methods[state.method];
  find("method-said").hidden = !reverse;
  find("grid-said").hidden = state.process === "langevin";
  find("eta-said").textContent = reverse ? words.eta.reverse : words.eta.other;
  find("calls").textContent = String(run.calls);
  find("detour").textContent = brief(distance.detour(run.states));
}

/** Where the run stands; the slider of time says the same. */
export function moment(state, run, budget) {
  const level = run.levels[state.time], path = paths.paths[state.path], time = find("time");
  time.max = String(state.steps);
  time.value = String(state.time);
  const passed = state.process === "langevin"
    ? ` · Langevin time Σ Λ = ${brief(state.time * budget)} σ²` : "";
  const said = `step ${state.time} of ${state.steps} · ${path.timeName} = ${brief(level.t)} · ℓ = ${
    brief(level.ell)} · ρ = ${brief(Math.exp(-level.ell))}${passed}`;
  find("time-said").textContent = said;
  time.setAttribute("aria-valuetext", said);
  find("coefficients").textContent = `${brief(path.alpha(level.t))}, ${brief(path.sigma(level.t))}`;
  return said;
}

/** The distance at the moment shown; `found` is missing while it is being measured. */
export function far(found) {
  const verdict = find("verdict");
  verdict.className = "verdict";
  verdict.textContent = "";
  find("distance").textContent = found ? brief(found.value) : "…";
  if (!found) {
    find("band").textContent = "being measured";
    return;
  }
  const {value, low, high} = found;
  verdict.classList.add(value > high ? "outside" : "inside");
  verdict.textContent = value > high ? "too far"
    : value < low ? "nearer than most exact draws" : "within noise";
  find("band").textContent =
    `Exact draws in the particles’ place: ${brief(low)} to ${brief(high)}, 19 times of 20.`;
}

/** The triangle as a drawing and as a table. `moved` says that another level had to be taken. */
export function triangle(found, state, moved) {
  const {nodes, going, coming, rows, fresh} = found, {length, eta, rungs} = state;
  const {timeName} = paths.paths[state.path], {node} = words;
  const d = brief(length), kick = brief(eta * eta * length);
  diagram.show(find("diagram"), rungs, {
    times: nodes.map((level) => `${timeName} = ${brief(level.t)}`), length: d, kick,
    budget: brief(rows[0].budget),
    title: `Triangle: ${rungs} forward step${rungs > 1 ? "s" : ""} of h = −${d}, as many reverse `
      + `ones of h = +${d}, and the Langevin steps at each level that they amount to.`,
  });
  const spot = (x, k) => `(${x.map((v) => words.place(v * nodes[k].scale)).join(", ")})`;
  const lines = [];
  for (let k = 0; k < rungs; k++) {
    lines.push(["forward", `forward ${node(k)} → ${node(k + 1)}`, `−${d}`, d,
      spot(going[k + 1], k + 1)]);
  }
  for (let k = rungs; k > 0; k--) {
    lines.push(["reverse", `reverse ${node(k, k < rungs ? "′" : "")} → ${node(k - 1, "′")}`,
      `+${d}`, kick, spot(coming[k - 1], k - 1)]);
  }
  for (let k = rungs - 1; k >= 0; k--) {
    lines.push(["", `Langevin ${node(k)} → ${node(k, "′")}`, "0", brief(rows[k].budget),
      spot(rows[k].state, k)]);
  }
  fill(find("rows"), lines);
  const error = Math.max(...rows.map((row) => row.error));
  const apart = Math.hypot(fresh[0] - coming[0][0], fresh[1] - coming[0][1]);
  find("gap").textContent = `The way round and the one Langevin step land ${
    brief(error)} apart: rounding. The Λ add up, ${
    rungs > 1 ? "row by row, " : ""}d + η²d = (1 + η²)d. With D taken anew before each step, as `
    + `samplers do, the way round ends ${brief(apart)} elsewhere; this gap is the error of a `
    + "finite step, and shrinks faster than d. Both are measured at unit scale."
    + (moved ? " The moment shown is all data or all noise: the level next to it is taken." : "");
}

const COUNTS = [1, 2, 4, 8, 16];

/** The exact map of a particle to data, and what solvers of n steps make of it. */
export function flowMap(state, model, {level, x, moved}) {
  const states = flowmap.flow(model, x, level.ell), end = states[states.length - 1];
  const solver = (steps) => flowmap.solve({path: state.path, model, x, ell: level.ell,
    method: state.method, rhoMin: state.width / 20, steps});
  const spot = (at) => `(${at.map(words.place).join(", ")})`;
  const apart = (at) => brief(Math.hypot(at[0] - end[0], at[1] - end[1]));
  mapped.show(find("mapped"), state.points, states, solver(state.mapSteps).states);
  const lines = COUNTS.map((steps) => {
    const {calls, states: solved} = solver(steps), last = solved[steps];
    return [`${steps} step${steps > 1 ? "s" : ""}`, String(calls), spot(last), apart(last)];
  });
  fill(find("map-rows"), [["reverse", "exact map", "1", spot(end), "0"],
    ...lines.map((cells) => ["", ...cells])]);
  find("map-said").textContent = `Method: ${state.method.replace("_", " ")}, η = 0, Karras levels, `
    + `from ρ = ${brief(Math.exp(-level.ell))}. Places are in units of the data.`
    + (moved ? " The moment shown is all data or all noise: the level next to it is taken." : "");
}

/** The rows of a table: [class of the first cell, text of each cell]. */
function fill(body, lines) {
  body.replaceChildren(...lines.map(([kind, ...cells]) => {
    const row = document.createElement("tr");
    row.append(...cells.map((text, i) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (i === 0 && kind) cell.className = kind;
      return cell;
    }));
    return row;
  }));
}
