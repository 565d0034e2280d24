/**
 * Forward processes x_t = α x₀ + σ ε (Tables 1–2), named as in langevin_jax/paths/named.py.
 *
 * ℓ = log(α/σ) is `halfLogSnr`, `time` its inverse, g `diffusion`; alphaDot and sigmaDot are
 * derivatives in the path's own time, which runs from 0 (data) to tMax (noise).
 */

const softplus = (u) => Math.max(u, 0) + Math.log1p(Math.exp(-Math.abs(u)));
const quarter = 0.5 * Math.PI;

export const paths = {
  vp: {
    title: "VP", timeName: "t", tMax: 10,
    alpha: (t) => Math.exp(-0.5 * t),
    sigma: (t) => Math.sqrt(-Math.expm1(-t)),
    alphaDot: (t) => -0.5 * Math.exp(-0.5 * t),
    sigmaDot: (t) => 0.5 * Math.exp(-t) / Math.sqrt(-Math.expm1(-t)),
    halfLogSnr: (t) => -0.5 * t - 0.5 * Math.log(-Math.expm1(-t)),
    time: (ell) => softplus(-2 * ell),
    diffusion: () => 1,
  },
  ve: {
    title: "VE", timeName: "σ", tMax: 80,
    alpha: () => 1,
    sigma: (t) => t,
    alphaDot: () => 0,
    sigmaDot: () => 1,
    halfLogSnr: (t) => -Math.log(t),
    time: (ell) => Math.exp(-ell),
    diffusion: (t) => Math.sqrt(2 * t),
  },
  rectified_flow: {
    title: "RF", timeName: "s", tMax: 1,
    alpha: (s) => 1 - s,
    sigma: (s) => s,
    alphaDot: () => -1,
    sigmaDot: () => 1,
    halfLogSnr: (s) => Math.log1p(-s) - Math.log(s),
    time: (ell) => 1 / (1 + Math.exp(ell)),
    diffusion: (s) => Math.sqrt(2 * s / (1 - s)),
  },
  cosine: {
    title: "cosine", timeName: "t", tMax: 1,
    // sin(π(1 − t)/2) is exactly 0 at t = 1, where a rounded cos(π/2) is not.
    alpha: (t) => Math.sin(quarter * (1 - t)),
    sigma: (t) => Math.sin(quarter * t),
    alphaDot: (t) => -quarter * Math.cos(quarter * (1 - t)),
    sigmaDot: (t) => quarter * Math.cos(quarter * t),
    halfLogSnr: (t) => Math.log(Math.sin(quarter * (1 - t))) - Math.log(Math.sin(quarter * t)),
    time: (ell) => Math.min(Math.atan(Math.exp(-ell)) / quarter, 1),
    diffusion: (t) => Math.sqrt(Math.PI * Math.sin(quarter * t) / Math.sin(quarter * (1 - t))),
  },
};
