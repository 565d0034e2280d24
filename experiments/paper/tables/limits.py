"""Errata of the paper (theory.md#errata) that concern a limit of time, noise level or domain."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.paper.exact import laws
from experiments.paper.setting import Setting
from experiments.paper.tables import cells, comparison, printed, symbolic
from experiments.paper.tables.errata import failing, shown
from langevin_jax import langevin, predictions, splitting

sp = symbolic.sp
a, s, sigma, x, value = printed.a, printed.s, printed.sigma, printed.x, printed.value
tau, delta, variance = sp.symbols("tau delta v", positive=True)


def correlation() -> Any:
  """The correlation of samples of N(0, v) before and after Langevin dynamics of time τ."""
  n = sp.Symbol("n", positive=True)
  # The factor of the state in a step of size δ; n steps take the time τ.
  kept = symbolic.of(lambda q: langevin.unadjusted(0.0, q[0], -q[0] / q[1], q[2]) / q[0],
                     (x, variance, delta), at={x: 0.3, variance: 1.0, delta: 0.1})
  return sp.limit(sp.simplify(kept).subs(delta, tau / n) ** n, n, sp.oo)


def independence(_: Setting) -> dict[str, Any]:
  """5: a Langevin run of finite time gives a correlated sample."""
  found = correlation()
  last = sp.limit(found, tau, sp.oo)
  return {"residual": shown(found), "left": shown(last),
          "wrong": float(found.subs(tau, variance)), "right": float(last)}


def ends(_: Setting) -> dict[str, Any]:
  """7: the coefficients of the tables at the ends of their domains."""
  rf = printed.PATHS["rf"]
  below_1 = lambda e: sp.limit(sp.together(e), s, 1, "-")
  drift = below_1(comparison.derived("rf", lambda q: rf.drift(q.t)))
  noise = below_1(comparison.derived("rf", lambda q: rf.diffusion(q.t) ** 2))
  factor = lambda given, wanted: comparison.shortest(comparison.derived(
      given, lambda q: cells.crossed(given, wanted)(q._replace(x=0.0 * q.x))) / value)
  table_5 = [sp.limit(factor("ve", "vp"), sigma, 0), sp.limit(factor("rf", "vp"), s, 0),
             sp.limit(factor("vp", "rf"), a, 0)]
  grows = sp.limit(comparison.derived("ve", lambda q: printed.PATHS["ve"].sigma(q.t)), sigma, sp.oo)
  # On N(m, v) the score is known, and with it the limit of v = −(s·s_r + r)/(1 − s).
  m, r = sp.symbols("m r", real=True)
  score = -(r - (1 - s) * m) / ((1 - s) ** 2 * variance + s**2)
  velocity = comparison.derived("rf", cells.predicted("rf", "score", "velocity", "score"))
  limit = below_1(velocity.subs({printed.score: score, x: r}))
  by_denoiser = symbolic.of(lambda q: predictions.convert(
      q[0], q[1], 1.0, rf, source="x0", target="velocity"), (m, r), at={m: 0.2, r: 0.3})
  differs = sp.simplify(limit - by_denoiser)
  weights = lambda *numbers: [float(w) for w in splitting.weights(
      *(jnp.asarray(number) for number in numbers))]
  first, last = weights(0.0, 1.0, 0.1, 0.9, jnp.inf), weights(0.9, 0.1, 1.0, 0.0, jnp.inf)
  frames = [[float(v) for v in predictions.unit_frame(ell)[:2]] for ell in (-jnp.inf, jnp.inf)]
  return {
      "drift": shown(drift), "noise": shown(noise), "table_5": [shown(v) for v in table_5],
      "grows": shown(grows),
      "quotient": shown(below_1(s * score + r)) + "/" + shown(below_1(1 - s)),
      "velocity": shown(by_denoiser), "left": shown(differs), "first": first, "last": last,
      "frames": frames, "diverging": sum(not v.is_finite for v in (drift, noise, *table_5)),
      "infinite": sum(not np.isfinite(v) for v in (*first, *last, *frames[0], *frames[1])),
      "failing": failing(differs)}


def prior(setting: Setting) -> dict[str, Any]:
  """8: at a finite end the prior term KL(p_T‖q_T), dropped from eq. 14, is not 0."""
  grid = laws.nodes(setting.density.line)

  def term(path, t, spread):
    """KL of the diffused density, of moments 0 and 1, from N(0, spread²) at unit scale, nats."""
    normal = jnp.exp(-0.5 * (grid / spread) ** 2) / (spread * jnp.sqrt(2.0 * jnp.pi))
    return laws.kl(setting.density.line, path.half_log_snr(t), laws.fresh(grid, normal))

  vp, ve = printed.PATHS["vp"], printed.PATHS["ve"]
  gaussian = (1 / sigma**2 - sp.log(1 + 1 / sigma**2)) / 2
  least = float(gaussian.subs(sigma, ve.t_max))
  # The rounding error of the sum, and the part beyond six deviations: of the integrand
  # φ(x)(x² − 1)²/(4σ⁴) on N(0, 1) about P(|x| > 6)·6⁴/2.
  missed = len(grid) * float(np.finfo(float).eps) / least + math.erfc(6.0 / math.sqrt(2.0)) * 648.0
  return {
      "times": [0.1 * vp.t_max, vp.t_max], "sigma_max": ve.t_max,
      "early": term(vp, 0.1 * vp.t_max, 1.0), "late": term(vp, vp.t_max, 1.0),
      # VE's prior N(0, σ²) has the deviation σ/√(1 + σ²) at unit scale; with the data's moments, 1.
      "plain": term(ve, ve.t_max, float(predictions.unit_frame(ve.half_log_snr(ve.t_max)).sigma)),
      "matched": term(ve, ve.t_max, 1.0), "least": least, "missed": missed,
      "gaussian": shown(gaussian),
      "left": shown(sp.limit(gaussian * 4 * sigma**4 - 1, sigma, sp.oo))}


def towards_the_end() -> dict[str, Any]:
  """Rectified flow near pure noise, and the numbers of STEP over a tenth of the time."""
  rf = printed.PATHS["rf"]
  left = np.geomspace(1e-4, 0.9, 80)
  t = jnp.asarray(1.0 - left)
  there = 0.9 * t
  budget = rf.half_log_snr(there) - rf.half_log_snr(t)
  numbers = splitting.weights(rf.alpha(t), rf.sigma(t), rf.alpha(there), rf.sigma(there), budget)
  return {"left": left, "f": np.abs(np.asarray(rf.drift(t))),
          "g_squared": np.asarray(rf.diffusion(t)) ** 2, **dict(zip("abc", numbers, strict=True))}
