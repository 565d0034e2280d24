"""Errata of the paper (theory.md#errata) that concern a limit of time, noise level or domain."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.paper import cells, comparison, laws, part, printed, symbolic
from experiments.paper.errata import Row, cell_of, failing, formula
from langevin_jax import langevin, predictions, splitting

sp = symbolic.sp
a, s, sigma, x, value = printed.a, printed.s, printed.sigma, printed.x, printed.value
tau, delta, variance = sp.symbols("tau delta v", positive=True)


def independence(setting: part.Setting):
  """5: a Langevin run of finite time gives a correlated sample."""
  del setting
  n = sp.Symbol("n", positive=True)
  # What the library's step of size δ on N(0, v) keeps of the state; n of them take the time τ.
  kept = symbolic.of(lambda q: langevin.unadjusted(0.0, q[0], -q[0] / q[1], q[2]) / q[0],
                     (x, variance, delta), at={x: 0.3, variance: 1.0, delta: 0.1})
  correlation = sp.limit(sp.simplify(kept).subs(delta, tau / n) ** n, n, sp.oo)
  last = sp.limit(correlation, tau, sp.oo)
  rows = [Row("§2", "a sample of p becomes “a new, independent sample”", "on N(0, v) the samples "
              "before and after a Langevin time τ are correlated", correlation,
              "one law at every τ; independent only as τ → ∞", last)]
  return rows, [
      part.claim("A Langevin run as long as the variance of a Gaussian target makes its sample "
                 "independent of the one it started from (their correlation).",
                 correlation.subs(tau, variance), near=0.0, tolerance=comparison.ROUNDING,
                 source="§2", by="paper"),
      part.claim(
          "A Langevin run makes its sample independent as it grows without end (the limit of the "
          "correlation).", last, near=0.0, tolerance=0.0, source="theory.md#errata, 5")]


def ends(setting: part.Setting):
  """7: the tables' coefficients at the ends of their domains."""
  del setting
  rf = printed.PATHS["rf"]
  below_1 = lambda e: sp.limit(sp.together(e), s, 1, "-")
  drift = comparison.derived("rf", lambda q: rf.drift(q.t))
  noise = comparison.derived("rf", lambda q: rf.diffusion(q.t) ** 2)
  factor = lambda given, wanted: comparison.shortest(comparison.derived(
      given, lambda q: cells.crossed(given, wanted)(q._replace(x=0.0 * q.x))) / value)
  table_5 = [("VE noise to VP score, σ → 0", ("ve", 1), sp.limit(factor("ve", "vp"), sigma, 0)),
             ("RF velocity to VP score, s → 0", ("rf", 1), sp.limit(factor("rf", "vp"), s, 0)),
             ("VP score to RF velocity, α → 0", ("vp", 3), sp.limit(factor("vp", "rf"), a, 0))]
  grows = sp.limit(comparison.derived("ve", lambda q: printed.PATHS["ve"].sigma(q.t)), sigma, sp.oo)
  # On N(m, v) the score is known, and with it what v = −(s·s_r + r)/(1 − s) tends to.
  m, r = sp.symbols("m r", real=True)
  score = -(r - (1 - s) * m) / ((1 - s) ** 2 * variance + s**2)
  top, bottom = below_1(s * score + r), below_1(1 - s)
  velocity = comparison.derived("rf", cells.predicted("rf", "score", "velocity", "score"))
  limit = below_1(velocity.subs({printed.score: score, x: r}))
  by_denoiser = symbolic.of(lambda q: predictions.convert(
      q[0], q[1], 1.0, rf, source="x0", target="velocity"), (m, r), at={m: 0.2, r: 0.3})
  weights = lambda *numbers: [float(w) for w in splitting.weights(
      *(jnp.asarray(number) for number in numbers))]
  first, last = weights(0.0, 1.0, 0.1, 0.9, jnp.inf), weights(0.9, 0.1, 1.0, 0.0, jnp.inf)
  frames = [float(v) for ell in (-jnp.inf, jnp.inf) for v in predictions.unit_frame(ell)[:2]]
  said = lambda numbers: ", ".join(
      f"{n} = {part.number(v)}" for n, v in zip("abc", numbers, strict=True))
  largest = lambda numbers: f"≤ {part.number(max(map(abs, numbers)))}"
  step = "x′ = a x + b D + c ξ at η = 1"
  differs = sp.simplify(limit - by_denoiser)
  rows = [
      Row("Table 1, drift of rectified flow, s → 1", formula(r"-\frac{1}{1-s}"), "it diverges",
          below_1(drift), f"the library's step from s = 1 to .9, {step}: {said(first)}",
          largest(first)),
      Row("Table 1, g² of rectified flow, s → 1", formula(r"\frac{2s}{1-s}"), "it diverges",
          below_1(noise), f"the library's step from s = .1 to 0, {step}: {said(last)}",
          largest(last)),
      Row("Table 4, velocity at s = 1", cell_of(4, "rf-ode", 2),
          "numerator and denominator vanish", f"{top}/{bottom}", by_denoiser, differs),
      *(Row(f"Table 5, {where}", cell_of(5, *which), "the factor of the prediction diverges", at,
            "the frame of networks, α² + σ² = 1, at both ends: (α, σ) = " + " and ".join(
                f"({part.number(u)}, {part.number(w)})" for u, w in (frames[:2], frames[2:])),
            largest(frames)) for where, which, at in table_5),
      Row("§4 and eq. 14, VE", "p_T “converges to a simple Gaussian distribution”",
          "the deviation of VE's law grows without end", grows,
          "at unit scale z/√(1 + σ²) it converges, to N(0, 1): (α, σ) = "
          f"({part.number(frames[0])}, {part.number(frames[1])})", largest(frames[:2]))]
  at_ends = (below_1(drift), below_1(noise), *(at for *_, at in table_5))
  diverging = [v for v in at_ends if not v.is_finite]
  return rows, [
      part.claim("The coefficients of Tables 1 and 5 are finite on their closed domains (how many "
                 "that diverge were found).", len(diverging), below=1, source="Tables 1 and 5",
                 by="paper"),
      part.claim("What the library computes with at both ends, the numbers of its step and the "
                 "frame of its networks, is finite (how many are not).",
                 sum(not np.isfinite(v) for v in (*first, *last, *frames)), below=1,
                 source="theory.md#step, theory.md#predictions"),
      part.claim(
          "At pure noise the velocity tends to r − E[x₀], which the library makes of D there (how "
          "many of such limits differ).", failing(differs), below=1,
          source="theory.md#predictions")]


def prior(setting: part.Setting):
  """8: at a finite end the prior term KL(p_T‖q_T), dropped from eq. 14, is not 0."""
  grid = laws.nodes(setting.density.line)

  def term(path, t, spread):
    """KL of the diffused density, of moments 0 and 1, from N(0, spread²) at unit scale, nats."""
    normal = jnp.exp(-0.5 * (grid / spread) ** 2) / (spread * jnp.sqrt(2.0 * jnp.pi))
    return laws.kl(setting.density.line, path.half_log_snr(t), laws.fresh(grid, normal))

  vp, ve = printed.PATHS["vp"], printed.PATHS["ve"]
  sigma_max = ve.t_max
  # VE's prior N(0, σ²) has the deviation σ/√(1 + σ²) at unit scale; with the data's moments, 1.
  plain = term(ve, sigma_max, float(predictions.unit_frame(ve.half_log_snr(sigma_max)).sigma))
  matched = term(ve, sigma_max, 1.0)
  early, late = term(vp, 0.1 * vp.t_max, 1.0), term(vp, vp.t_max, 1.0)
  gaussian = (1 / sigma**2 - sp.log(1 + 1 / sigma**2)) / 2
  least = float(gaussian.subs(sigma, sigma_max))
  name = f"on the density {setting.density.name}"
  rows = [
      Row("eq. 14, VP", "KL(p_∞‖q_∞) = 0", f"runs end at a finite T: {name}, nats at T = "
          f"{part.number(0.1 * vp.t_max)}", part.number(early), f"nats at the library's T = "
          f"{part.number(vp.t_max)}", part.number(late)),
      Row("eq. 14, VE", "KL(p_∞‖q_∞) = 0", f"{name}, nats at σ_max = {part.number(sigma_max)}",
          part.number(plain), "nats of the prior with the data's moments, N(αm, α²S + σ²)",
          part.number(matched)),
      Row("eq. 14, VE on N(0, 1)", "0", "the term in closed form", gaussian,
          "it falls as 1/(4σ⁴): limit of term · 4σ⁴ − 1",
          sp.limit(gaussian * 4 * sigma**4 - 1, sigma, sp.oo))]
  # Rounding of the sum, and what lies beyond the six deviations that the nodes reach: of the
  # term's integrand, φ(x)(x² − 1)²/(4σ⁴) on N(0, 1), about P(|x| > 6)·6⁴/2 of the whole.
  missed = len(grid) * float(np.finfo(float).eps) / least + math.erfc(6.0 / math.sqrt(2.0)) * 648.0
  return rows, [
      part.claim(
          "At VE's own σ_max the prior term that eq. 14 drops is nothing (nats).", plain, near=0.0,
          tolerance=float(np.finfo(float).eps), source="eq. 14", by="paper"),
      part.claim(
          "The dropped prior term is at least that of a Gaussian of the same variance, known in "
          "closed form (relative excess).", plain / least - 1.0, above=-missed,
          source="theory.md#initial-noise"),
      part.claim("A prior with the data's mean and variance lowers the dropped term (ratio of the "
                 "two).",
                 matched / plain, below=1.0, source="theory.md#initial-noise")]


def towards_the_end() -> tuple[dict[str, Any], str]:
  """Rectified flow near pure noise, and the numbers of STEP over a tenth of the time from there."""
  rf = printed.PATHS["rf"]
  left = np.geomspace(1e-4, 0.9, 80)
  t = jnp.asarray(1.0 - left)
  there = 0.9 * t
  budget = rf.half_log_snr(there) - rf.half_log_snr(t)
  numbers = splitting.weights(rf.alpha(t), rf.sigma(t), rf.alpha(there), rf.sigma(there), budget)
  caption = (
      "Rectified flow towards its noisy end. Left: the drift f and the noise g² of the forward SDE "
      "of Table 1, and the factor of the state in Table 4's velocity, −1/(1 − s), grow without "
      "bound as s → 1. Right: the three numbers of the finite step x′ = a x + b D + c ξ from s to "
      "s′ = 0.9 s at η = 1, with which the library samples, stay between 0 and 1.")
  return {"left": left, "f": np.abs(np.asarray(rf.drift(t))),
          "g_squared": np.asarray(rf.diffusion(t)) ** 2,
          **dict(zip("abc", numbers, strict=True))}, caption
