/** Distances of a whole run to its exact marginals, a few levels at a time to keep it quick. */

import * as distance from "./distance.js";

const BATCH = 10;  // milliseconds

let job = 0;

/**
 * Measures `run`, the step `first()` first and then the others, and calls told() now and then.
 * A later call ends an earlier one. Returns the results so far, {value, low, middle, high} by step.
 */
export function measure(run, references, first, told) {
  const mine = ++job, results = [];
  const pending = () => {
    const wanted = Math.min(first(), run.states.length - 1);
    return results[wanted] ? run.states.findIndex((_, k) => !results[k]) : wanted;
  };
  const next = () => {
    if (mine !== job) return;
    const end = performance.now() + BATCH;
    let i = pending();
    for (; i >= 0; i = pending()) {
      const band = distance.nullBand(references, run.levels[i]), {low, middle, high} = band;
      results[i] = {value: distance.toExact(run.states[i], run.levels[i], band),
        low, middle, high};
      if (performance.now() > end) break;
    }
    told();
    if (i >= 0) setTimeout(next, 0);
  };
  setTimeout(next, 0);
  return results;
}
