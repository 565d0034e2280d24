"""Three identities of the average denoiser, each a target for training (docs/flow_maps.md).

Losses work in the frame of rectified flow, r = (1 − s) x₀ + s ε with s = 1/(1 + λ), where the mean
velocity ū = ε̄ − D̄ = (s − s′)⁻¹ ∫ v ds is bounded at both ends:

| | in λ | in s |
|---|---|---|
| `semigroup` | (λ″−λ) D̄(λ→λ″) = (λ′−λ) D̄(λ→λ′) + (λ″−λ′) D̄(λ′→λ″) | the same with s, ū |
| `eulerian` | D̄ = D + (λ′−λ) dD̄/dλ | ū = v − (s − s′) dū/ds |
| `lagrangian` | D̄ = D(x′, λ′) − (λ′−λ) ∂D̄/∂λ′ | ū = v(r′, s′) + (s − s′) ∂ū/∂s′ |

On the diagonal ℓ′ = ℓ each is ū = v, the ordinary loss. v is ε − x₀ of the data, or a teacher's.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax.flow_maps.pairs import Pairs, uniform

__all__ = ["Identity", "Stop", "eulerian", "lagrangian", "semigroup"]

Stop = Literal["target", "velocity", "none"]
Mean = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Models(NamedTuple):
  """(r, ell, ell_s) → ū, trained and of the target, and (r, ell) → v of the target."""

  online: Mean
  frozen: Mean
  velocity: Callable[[jax.Array, jax.Array], jax.Array]


class Identity(NamedTuple):
  """An identity as a loss.

  Attributes:
    target: (models, r, ell, ell_s, v) → (ū, what the identity says that it is), off the diagonal.
    pairs: the density of (ℓ, ℓ′).
    adaptive: p ≥ 0; each error e = ‖Δū‖² (mean over dimensions) is weighed by (e + 10⁻³)^{−p}, a
      constant in the gradient.
    averaged: whether the target is of an average of the parameters (`corrupted_loss`: `frozen`).
    omega, kappa: guidance of v inside the target, see `eulerian`. A name is that of a condition.
  """

  target: Callable[..., tuple[jax.Array, jax.Array]]
  pairs: Pairs
  adaptive: float = 0.0
  averaged: bool = False
  omega: float | str = 1.0
  kappa: float = 0.0

  @property
  def is_guided(self) -> bool:
    """Whether the target needs the model without a condition."""
    return self.omega != 1.0 or self.kappa != 0.0


def semigroup(
    pairs: Pairs | None = None, *, fraction: float = 0.5,
    first: Literal["average", "velocity"] = "average", stop: Stop = "target",
    adaptive: float = 0.0, averaged: bool = False,
) -> Identity:
  """Two steps are one: ū(s→s′) = f ū(s→m) + (1 − f) ū(m→s′), m = s − f (s − s′).

  It is the composition law of STEP, with two more calls and no derivative. Its limit s′ → s is the
  diagonal: errors at short lengths add up to those at long ones.

  Shortcut models (Frans et al. 2025) are `semigroup(dyadic())`. With `first="velocity"`, discrete
  consistency models (Song et al. 2023) are `ordered(diagonal=0, to_data=1)` with a small fraction,
  and CTM (Kim et al. 2024) is `ordered()` with a teacher.

  Args:
    pairs: the density of (ℓ, ℓ′); `uniform()` if None.
    fraction: f ∈ (0, 1).
    first: the first piece is the "average" ū, or "velocity", one DDIM step with v. Then the
      minimiser has the error of a solver, which vanishes with f.
    stop: "target" keeps the gradient out of the two pieces, "velocity" out of v, "none" in all.
    adaptive, averaged: as in `Identity`.

  Raises:
    ValueError: fraction outside (0, 1), adaptive < 0, an unknown word.
  """
  if not 0.0 < fraction < 1.0:
    raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
  if first not in ("average", "velocity"):
    raise ValueError(f"first must be average or velocity, got {first!r}")

  def target(models, r, ell, ell_s, v):
    s, s_s = _time(ell, r), _time(ell_s, r)
    length = fraction * (s - s_s)
    middle = (s - length).reshape(ell.shape)
    # s′ < m < s, so ℓ is finite but where s = 1 and s′ = 0 in rounding.
    ell_m = jnp.log1p(-middle) - jnp.log(middle)
    one = models.frozen(r, ell, ell_m) if first == "average" else _stopped(v, stop, "velocity")
    two = models.frozen(r - length * one, ell_m, ell_s)
    return models.online(r, ell, ell_s), _stopped(fraction * one + (1.0 - fraction) * two, stop)

  return _identity(target, pairs, stop, adaptive, averaged)


def eulerian(
    pairs: Pairs | None = None, *, velocity: Literal["data", "diagonal"] = "data",
    stop: Stop = "target", adaptive: float = 0.0, averaged: bool = False, omega: float | str = 1.0,
    kappa: float = 0.0,
) -> Identity:
  """The start moves along the flow: ū = v − (s − s′) dū/ds, dū/ds = ∂ū/∂s + v·∂ū/∂r.

  One forward derivative of the network. With "data" v is ε − x₀ of the example. The target is then
  linear in v, so that with `stop="target"` the fixed point is the exact map; with "none" it is not,
  because the square of v·∂ū/∂r has a variance.

  MeanFlow (Geng et al. 2025) is `eulerian(ordered(diagonal=0.75, to_data=0), adaptive=1)`, and
  continuous consistency models (Song et al. 2023; Lu & Song 2025) are `ordered(diagonal=0,
  to_data=1)`. Eulerian map distillation (Boffi et al. 2025) is `stop="none"` with a teacher, and
  Eulerian self-distillation `velocity="diagonal"` with `stop="velocity"`.

  With `stop="target"` the gradient is that of no function: errors rotate while they shrink.
  Momentum makes rotating errors grow from a lower learning rate on (docs/flow_maps.md).

  Args:
    pairs: the density of (ℓ, ℓ′); `uniform(diagonal=0.75)` if None, where errors rotate less.
    velocity: v of "data" (or of a teacher), or of the network's own "diagonal".
    stop: "target" keeps the gradient out of v and the derivative, "velocity" out of v, "none" in
      both.
    adaptive, averaged: as in `Identity`. MeanFlow has adaptive=1 and the weight flow_matching.
    omega, kappa: v ← ω v + κ v(x, c) + (1 − ω − κ) v(x), the last two of the network's diagonal
      with and without the condition: guidance of weight ω/(1 − κ) at no extra call when sampling.
      omega may be the name of a condition (n,) of real numbers, the ω of each example, or 1 where
      it is not given: one network for all weights (Meng et al. 2023).

  Raises:
    ValueError: adaptive < 0, κ outside [0, 1), ω that is not finite, an unknown word.
  """
  if velocity not in ("data", "diagonal"):
    raise ValueError(f"velocity must be data or diagonal, got {velocity!r}")
  if not 0.0 <= kappa < 1.0:
    raise ValueError(f"kappa must lie in [0, 1), got {kappa}")
  if not isinstance(omega, str) and not math.isfinite(omega):
    raise ValueError(f"omega must be finite, got {omega}")

  def target(models, r, ell, ell_s, v):
    v = _stopped(models.velocity(r, ell) if velocity == "diagonal" else v, stop, "velocity")
    gap = _time(ell, r) - _time(ell_s, r)
    # ds = −s (1 − s) dℓ
    speed = -gap.reshape(ell.shape) / (jax.nn.sigmoid(ell) * jax.nn.sigmoid(-ell))
    mean, change = jax.jvp(
        lambda r, ell: models.frozen(r, ell, ell_s), (r, ell), (gap * v, speed))
    mean = mean if models.frozen is models.online else models.online(r, ell, ell_s)
    return mean, _stopped(v - change, stop)

  pairs = uniform(diagonal=0.75) if pairs is None else pairs
  return _identity(target, pairs, stop, adaptive, averaged)._replace(omega=omega, kappa=kappa)


def lagrangian(
    pairs: Pairs | None = None, *, stop: Stop = "velocity", adaptive: float = 0.0,
    averaged: bool = False,
) -> Identity:
  """The end moves along the flow: ū = v(r′, s′) + (s − s′) ∂ū/∂s′, r′ = r − (s − s′) ū.

  One forward derivative in s′ and one call more. v at the end is the teacher's, or that of the
  network's own diagonal, which the diagonal pairs train: data enter there alone.

  No data enter off the diagonal, so the gradient may pass the derivative. With `stop="target"` a
  step costs less, and may diverge. An error of ū comes back in v(r′, s′), multiplied by
  −(s − s′) ∂v/∂r′. Where that is above 1 it grows, as it may before v is learned: so three quarters
  of the default pairs are on the diagonal. With `stop="none"` the loss is a sum of squares, which a
  small step always lowers; it costs more and learns more slowly.

  Lagrangian map distillation (Boffi et al. 2025) is `stop="none"` with a teacher, Lagrangian
  self-distillation the default, and terminal velocity matching (Zhou et al. 2025) the same with an
  average of the parameters in v.

  Args:
    pairs: the density of (ℓ, ℓ′); `uniform(diagonal=0.75)` if None. ℓ′ = ∞ is taken at ρ = 10⁻⁴,
      where the derivative of ℓ is finite.
    stop: "none" passes the gradient through v, r′ and the derivative, "velocity" keeps it out of
      v(r′, s′), "target" out of all.
    adaptive, averaged: as in `Identity`.

  Raises:
    ValueError: adaptive < 0, an unknown word.
  """
  def target(models, r, ell, ell_s, v):
    del v
    ell_s = jnp.maximum(jnp.minimum(ell_s, _CLEAN), ell)
    gap = _time(ell, r) - _time(ell_s, r)
    speed = -gap.reshape(ell.shape) / (jax.nn.sigmoid(ell_s) * jax.nn.sigmoid(-ell_s))
    mean, change = jax.jvp(lambda ell_s: models.online(r, ell, ell_s), (ell_s,), (speed,))
    end = models.velocity(_stopped(r - gap * mean, stop, "velocity"), ell_s)
    return mean, _stopped(_stopped(end, stop, "velocity") + change, stop)

  pairs = uniform(diagonal=0.75) if pairs is None else pairs
  return _identity(target, pairs, stop, adaptive, averaged)


_CLEAN = 9.21  # ρ = 10⁻⁴


def _time(ell: jax.Array, r: jax.Array) -> jax.Array:
  """s = sigmoid(−ℓ) of a batch, in as many axes as r."""
  return jax.nn.sigmoid(-ell).reshape(-1, *[1] * (r.ndim - 1))


def _stopped(value: jax.Array, stop: Stop, *others: Stop) -> jax.Array:
  return jax.lax.stop_gradient(value) if stop in ("target", *others) else value


def _identity(
    target: Callable, pairs: Pairs | None, stop: Stop, adaptive: float, averaged: bool
) -> Identity:
  if stop not in ("target", "velocity", "none"):
    raise ValueError(f"stop must be target, velocity or none, got {stop!r}")
  if not adaptive >= 0.0:
    raise ValueError(f"adaptive must be >= 0, got {adaptive}")
  return Identity(target, uniform() if pairs is None else pairs, adaptive, averaged)
