/**
 * Reverse methods as numbers, as in langevin_jax/samplers: from level to level,
 *
 *   x̂ = m x + c ξ,   x_j = a_j x̂ + Σ_i b_ji D_i + e ξ,
 *
 * where D_i are the denoiser at the stages of this step and, for a multistep method, of the one
 * before. A step is {m, c, e, stages: [{level, a, b}], lag}; the last stage is its result.
 */

import * as levels from "./levels.js";

/**
 * STEP(h, Λ) as x′ = a x + b D + e ξ, finite at both ends:
 *   a = e^(−Λ) σ′/σ,   b = α′ − a α,   e = σ′ √(1 − e^(−2Λ)).
 */
export function stepWeights(here, after, budget) {
  const a = here.sigma > 0 ? Math.exp(-budget) * after.sigma / here.sigma : 0;
  return [a, after.alpha - a * here.alpha, after.sigma * Math.sqrt(-Math.expm1(-2 * budget))];
}

const linear = (level, a, b, e, lag = 0) => ({m: 1, c: 0, e, stages: [{level, a, b}], lag});

function viaStep(here, after, budget) {
  const [a, b, e] = stepWeights(here, after, budget);
  return linear(here, a, [b], e);
}

/** ∫₀¹ w e^(−w(1−θ)) θ^j dθ for j = 0, 1; the second by its series where w is small. */
function moments(w) {
  const zeroth = -Math.expm1(-w);
  if (w >= 2) return [zeroth, 1 - zeroth / w];
  let term = w / 2, first = term;
  for (let k = 1; k < 24; k++) {
    term *= -w / (k + 2);
    first += term;
  }
  return [zeroth, first];
}

/** Weights of D at the nodes 0 and θ, exact for a D that is linear over the step. */
function pair(w, theta) {
  const [zeroth, first] = moments(w);
  return [zeroth - first / theta, first / theta];
}

/** A step's noise first, exactly (the forward kernel by Λ), and then `ode` from there. */
function kicked(path, here, after, budget, ode) {
  // An infinite step is STEP without noise: none is left at the clean end.
  if (!Number.isFinite(after.ell - here.ell)) return viaStep(here, after, 0);
  const hat = budget === 0 ? here : levels.levelAt(path, here.ell - budget);
  const c = hat.sigma * Math.sqrt(-Math.expm1(-2 * budget));
  return {m: hat.alpha / here.alpha, c, e: 0, stages: ode(hat, after), lag: 0};
}

/** The exponential midpoint rule: D at the start and half-way in ℓ, DPM-Solver++(2S). */
function midpoint(path) {
  return (hat, after) => {
    const w = after.ell - hat.ell, inner = levels.levelAt(path, hat.ell + 0.5 * w);
    return [
      {level: hat, a: inner.sigma / hat.sigma, b: [inner.alpha * moments(0.5 * w)[0]]},
      {level: inner, a: after.sigma / hat.sigma, b: pair(w, 0.5).map((v) => after.alpha * v)},
    ];
  };
}

/** Heun's trapezoid of dz/dρ = ε̂: Euler's step, then the mean of the slopes at both ends. */
function trapezoid(hat, after) {
  const [from, to] = [hat, after].map(({ell, alpha, sigma}) =>
    ({rho: Math.exp(-ell), s: 1 / alpha, p: 1 / sigma, q: -alpha / sigma}));
  const delta = to.rho - from.rho, a = (from.s + delta * from.p) / to.s, b = delta * from.q / to.s;
  return [
    {level: hat, a, b: [b]},
    {level: after, a: (from.s + 0.5 * delta * (from.p + to.p * a)) / to.s,
      b: [0.5 * delta * (from.q + to.p * b) / to.s, 0.5 * delta * to.q / to.s]},
  ];
}

const each = (nodes, make) => nodes.slice(1).map((after, i) => make(nodes[i], after, i));

/** Methods: (path, levels, η) → steps. η is a number or a function of ℓ. */
export const methods = {
  /** STEP(h, Λ): DDIM at η = 0, DDPM at η = 1. */
  step(path, nodes, eta) {
    const budget = levels.budgets(nodes, eta);
    return each(nodes, (here, after, i) => viaStep(here, after, budget[i]));
  },

  /** Second-order multistep, DPM-Solver++(2M): D linear through this step's and the last one's. */
  multistep(path, nodes, eta) {
    const budget = levels.budgets(nodes, eta);
    let before = null;  // the length of the last step in ℓ + Λ
    return each(nodes, (here, after, i) => {
      const w = after.ell - here.ell + budget[i], last = before;
      before = Number.isFinite(w) ? w : null;
      if (last === null || before === null) return viaStep(here, after, budget[i]);
      const [a, , e] = stepWeights(here, after, budget[i]);
      return linear(here, a, pair(w, -last / w).map((v) => after.alpha * v), e, 1);
    });
  },

  /** Noise first, then a second-order step with a call half-way, DPM-Solver++(2S). */
  singlestep(path, nodes, eta) {
    const budget = levels.budgets(nodes, eta);
    return each(nodes, (here, after, i) => kicked(path, here, after, budget[i], midpoint(path)));
  },

  /** Noise first (EDM's churn), then Heun's step in ρ. */
  heun(path, nodes, eta) {
    const budget = levels.budgets(nodes, eta);
    return each(nodes, (here, after, i) => kicked(path, here, after, budget[i], trapezoid));
  },

  /**
   * Euler–Maruyama of Table 4 in the path's own time, δ = t − t′:
   *   x′ = x + δ(−f x + (1 + η²)/2 g² s) + η g √δ ξ.
   */
  euler_maruyama(path, nodes, eta) {
    const budget = levels.budgets(nodes, eta);
    return each(nodes, (here, after, i) => {
      if (!Number.isFinite(after.ell - here.ell)) return viaStep(here, after, budget[i]);
      const now = typeof eta === "number" ? eta : eta(here.ell), {t} = here, delta = t - after.t;
      const sigma = path.sigma(t), g = path.diffusion(t), shrink = here.scale / after.scale;
      const perEps = -delta * (path.sigmaDot(t) + 0.5 * now * now * g * g / sigma);
      return linear(here, shrink * (1 + perEps / sigma),
        [(-delta * path.alphaDot(t) - perEps * here.alpha / here.sigma) / after.scale],
        now * g * Math.sqrt(delta) / after.scale);
    });
  },
};
