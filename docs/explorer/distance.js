/**
 * How far particles are from the exact marginal, and how far exact draws are from it themselves.
 *
 * The number is the sliced W₂ distance of two sets of equal size n,
 *   SW₂² = mean over directions θ of ∫₀¹ (F⁻¹_θ·x(u) − F⁻¹_θ·y(u))² du,
 * in root mean square over reference sets y of fresh exact draws. Its null band is what the same
 * number is for each reference set in the particles' place, against the other ones.
 */

import * as mixture from "./mixture.js";
import * as random from "./random.js";

const DIRECTIONS = 20;
const SETS = 40;
const MOST_BANDS = 320;  // remembered; more than two runs have levels, and some 50 MB of 1000 states

/** Reference sets of n draws, data and noise to be put together at any level; bands so far. */
export function references(model, n, seed) {
  const source = random.generator(seed);
  const sets = Array.from({length: SETS}, () => ({
    data: mixture.sample(model, source, n), noise: source.normals(2 * n)}));
  return {sets, bands: new Map()};
}

/** Quantile functions: a set's projections on all directions, each sorted, one after the other. */
function quantiles(states) {
  const n = states.length / 2, all = new Float64Array(DIRECTIONS * n);
  for (let j = 0; j < DIRECTIONS; j++) {
    const angle = Math.PI * (j + 0.5) / DIRECTIONS, u = Math.cos(angle), v = Math.sin(angle);
    const line = all.subarray(j * n, (j + 1) * n);
    for (let i = 0; i < n; i++) line[i] = u * states[2 * i] + v * states[2 * i + 1];
    line.sort();
  }
  return all;
}

/** SW₂² of two sets by their quantiles. */
function squared(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += (one[i] - other[i]) ** 2;
  return sum / one.length;
}

/**
 * The null band {low, middle, high} at a level, at unit scale, with what `toExact` needs: the mean
 * of the reference sets' quantiles and their spread about it. The mean of SW₂² to all sets is SW₂²
 * to that mean, plus the spread.
 */
export function nullBand({sets, bands}, level) {
  if (bands.has(level.ell)) return bands.get(level.ell);
  const all = sets.map(({data, noise}) =>
    quantiles(data.map((v, i) => level.alpha * v + level.sigma * noise[i])));
  const mean = new Float64Array(all[0].length);
  for (const one of all) for (let i = 0; i < mean.length; i++) mean[i] += one[i] / SETS;
  const gaps = all.map((one) => squared(one, mean));
  const spread = gaps.reduce((sum, gap) => sum + gap, 0) / SETS;
  // Its own distance of 0 does not count.
  const sorted = gaps.map((gap) => Math.sqrt((gap + spread) * SETS / (SETS - 1)))
    .sort((a, b) => a - b);
  // 95 %: one of the 40 is left out on either side.
  const band = {mean, spread, low: sorted[1], middle: sorted[SETS / 2], high: sorted[SETS - 2]};
  if (bands.size >= MOST_BANDS) bands.delete(bands.keys().next().value);
  bands.set(level.ell, band);
  return band;
}

/** The distance of states (in a path's own scale) to the law of their level, at unit scale. */
export function toExact(states, level, band) {
  const here = quantiles(states.map((v) => v / level.scale));
  return Math.sqrt(squared(here, band.mean) + band.spread);
}

/** Length of all ways ÷ that of the straight lines between their ends; 1 is straight. */
export function detour(states) {
  const apart = (a, b, i) => Math.hypot(b[i] - a[i], b[i + 1] - a[i + 1]);
  let lengths = 0, chords = 0;
  for (let i = 0; i < states[0].length; i += 2) {
    for (let k = 0; k + 1 < states.length; k++) lengths += apart(states[k], states[k + 1], i);
    chords += apart(states[0], states[states.length - 1], i);
  }
  return lengths / chords;
}
