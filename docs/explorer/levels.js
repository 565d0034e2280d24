/**
 * Noise levels: grids of ρ = σ/α = e^(−ℓ), and where they lie on a path.
 *
 * A level is {t, ell, alpha, sigma, scale}. States are computed at unit scale, x_t/√(α² + σ²), with
 * α = 1/√(1 + ρ²) and σ = ρ/√(1 + ρ²): there all paths are one. `scale` makes them the path's own.
 */

/** The ratio ρ at a path's noisy end, or rhoMax where that comes sooner. */
const top = (path, rhoMax) => Math.min(rhoMax, Math.exp(-path.halfLogSnr(path.tMax)));

const evenly = (first, last, n) => Array.from({length: n}, (_, i) =>
  i === n - 1 && n > 1 ? last : first + i * (last - first) / Math.max(n - 1, 1));

/** n falling ratios ρ; the clean end, ρ = 0, is added by `lay`. */
export const grids = {
  karras(path, n, rhoMin, rhoMax) {
    const first = top(path, rhoMax) ** (1 / 7), last = rhoMin ** (1 / 7);
    return evenly(first, last, n).map((root) => root ** 7);
  },
  uniform_half_log_snr(path, n, rhoMin, rhoMax) {
    const first = Math.log(top(path, rhoMax)), last = Math.log(rhoMin);
    return evenly(first, last, n).map(Math.exp);
  },
  uniform_time(path, n) {
    return evenly(path.tMax, 0, n + 1).slice(0, n).map((t) => Math.exp(-path.halfLogSnr(t)));
  },
  cosine(path, n) {
    const first = 2 / Math.PI * Math.atan(top(path, Infinity));
    return evenly(first, 0, n + 1).slice(0, n)
      .map((u) => u === 1 ? Infinity : Math.tan(0.5 * Math.PI * u));
  },
};

/** The level at ℓ on a path. ℓ = −∞ is pure noise. */
export function levelAt(path, ell) {
  const rho = Math.exp(-ell), size = Math.hypot(1, rho), t = path.time(ell);
  return {
    t, ell, alpha: 1 / size, sigma: rho === Infinity ? 1 : rho / size,
    scale: Math.hypot(path.alpha(t), path.sigma(t)),
  };
}

/** The data itself: no noise, at scale 1. */
export const clean = () => ({t: 0, ell: Infinity, alpha: 1, sigma: 0, scale: 1});

/** The n + 1 levels of a reverse run, from noise to the data. */
export function lay(path, grid, n, rhoMin, rhoMax) {
  const ratios = grids[grid](path, n, rhoMin, rhoMax);
  return [...ratios.map((rho) => levelAt(path, -Math.log(rho))), clean()];
}

/** Stochasticity η as a function of ℓ; a number where it is constant. */
export const schedules = {
  constant: (eta) => eta,
  early: (eta) => eta === 0 ? 0 : (ell) => eta / (1 + Math.exp(2 * ell)),
  middle: (eta) => eta === 0 ? 0 : (ell) => eta * Math.exp(-0.5 * ell * ell),
};

/**
 * Langevin budgets Λ = ∫η² dℓ of the steps between levels, by 16-point Gauss–Legendre.
 *
 * An infinite step has Λ = ∞, or 0 where η vanishes at its finite end.
 */
export function budgets(levels, stochasticity) {
  return levels.slice(1).map((after, i) => {
    const low = levels[i].ell, high = after.ell, h = high - low;
    if (typeof stochasticity === "number") {
      return stochasticity === 0 ? 0 : stochasticity ** 2 * h;
    }
    if (!Number.isFinite(h)) {
      const end = Number.isFinite(low) ? low : Number.isFinite(high) ? high : 0;
      return stochasticity(end) > 0 ? Infinity : 0;
    }
    const middle = 0.5 * (low + high), half = 0.5 * h;
    return half * legendre.reduce(
      (sum, [node, weight]) => sum + weight * stochasticity(middle + half * node) ** 2, 0);
  });
}

/** Nodes and weights of Gauss–Legendre on [−1, 1]: the roots of P₁₆, by Newton's method. */
const legendre = (() => {
  const n = 16;
  return Array.from({length: n}, (_, i) => {
    let x = Math.cos(Math.PI * (i + 0.75) / (n + 0.5)), slope = 1;
    for (let iteration = 0; iteration < 20; iteration++) {
      let before = 1, value = x;
      for (let k = 2; k <= n; k++) {
        [before, value] = [value, ((2 * k - 1) * x * value - (k - 1) * before) / k];
      }
      slope = n * (x * value - before) / (x * x - 1);
      x -= value / slope;
    }
    return [x, 2 / ((1 - x * x) * slope * slope)];
  });
})();
