"""The loss of a flow map on a batch: an identity off the diagonal, the ordinary loss on it.

The error of every row of (D̄, ε̄) at ℓ is a multiple of δε̄, as in `objectives.losses`. So the loss
is w(ℓ) ‖δε̄‖² for every row, computed as w(ℓ)/(1 + ρ)² ‖δū‖².
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from langevin_jax import objectives, predictions
from langevin_jax.flow_maps.identities import Identity, Mean, Models
from langevin_jax.flow_maps.maps import Average

__all__ = ["Corruption", "corrupted_loss", "corruption", "velocity"]

# The noisiest level that is drawn, ρ = 10⁴: there derivatives of ℓ and weights are still finite.
_NOISIEST = -9.21
Velocity = Callable[[jax.Array, jax.Array], jax.Array]


class Corruption(NamedTuple):
  """The random numbers of a batch: levels ℓ, (n,), and ℓ′ ≥ ℓ, (m,), noise ε, (n, *shape).

  ℓ′ is of the last m examples. The others are on the diagonal.
  """

  half_log_snr: jax.Array
  half_log_snr_s: jax.Array
  eps: jax.Array


def corruption(
    key: jax.Array, x_0: jax.Array, density: objectives.Density, identity: Identity
) -> Corruption:
  """Draws the diagonal from π(ℓ), the pairs of `identity.pairs`, and standard normal noise."""
  key_ell, key_pairs, key_eps = jax.random.split(key, 3)
  n = len(x_0)
  pairs = identity.pairs.off_diagonal(n)
  same = objectives.stratified(key_ell, n - pairs, density) if pairs < n else jnp.zeros(0)
  ell, ell_s = identity.pairs.draw(key_pairs, pairs, density)
  ell = jnp.maximum(ell, _NOISIEST)
  return Corruption(jnp.concatenate([jnp.maximum(same, _NOISIEST), ell]).astype(x_0.dtype),
                    jnp.maximum(ell, ell_s).astype(x_0.dtype),
                    jax.random.normal(key_eps, x_0.shape, x_0.dtype))


def corrupted_loss(
    network: Average, x_0: jax.Array, drawn: Corruption, *, identity: Identity,
    weight: objectives.Weight, prediction: str | predictions.Row, frozen: Average | None = None,
    free: Average | None = None, teacher: Velocity | None = None, omega: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`objectives.corrupted_loss` of a flow map: w(ℓ) ‖ε̄ − ε̄_target‖², its target by the identity.

  Args:
    network: (x (n, *shape), ell (n,), ell_s (n,)) → row values (n, *shape).
    x_0: clean data at unit scale, (n, *shape).
    drawn: with m = n, or with m = 0 for the diagonal, whose loss is the ordinary one.
      `training.flow_map_loss` adds both parts of a batch.
    identity: `semigroup()`, `eulerian()` or `lagrangian()`.
    weight: w(ℓ), at the first level. `objectives.flow_matching` is 1 on ‖ū − ū_target‖².
    prediction: the row of (D̄, ε̄) that the network predicts, or its name.
    frozen: the network of the target, `network` if None. An average of the parameters is a
      consistency model's.
    free: the network without labels, for `identity.omega` and `kappa`.
    teacher: (x, ell (n,)) → ε̂ − D of a trained model (`velocity`), in the place of the data's
      ε − x₀ everywhere.
    omega: (n,), ω of each example, where `identity.omega` is a name.

  Returns:
    The mean loss, and a dict of per-example `half_log_snr` and `eps_error` (mean of (δε̄)² over the
    dimensions, unweighted), each (n,).

  Raises:
    ValueError: as `objectives.loss`, an `identity` with guidance and no `free` or `omega`, or
      another m.
  """
  if not isinstance(identity, Identity):
    raise ValueError(f"identity must be a call such as flow_maps.eulerian(), got {identity!r}")
  row = predictions.named(prediction)
  ell, ell_s, eps = drawn
  if len(ell_s) not in (0, len(ell)):
    raise ValueError(f"drawn must have pairs for all examples or none, got {len(ell_s)} for "
                     f"{len(ell)}")
  s = _like(jax.nn.sigmoid(-ell), eps)
  r = (1.0 - s) * x_0 + s * eps
  online = _mean(network, row)
  target_of = online if frozen is None else _mean(frozen, row)
  diagonal = lambda r, ell: target_of(r, ell, ell)
  v = eps - x_0 if teacher is None else teacher(r * _scale(ell, r), ell)
  models = Models(online, target_of,
                  diagonal if teacher is None else lambda r, ell: teacher(r * _scale(ell, r), ell))
  v = jax.lax.stop_gradient(_guided(
      v, identity, omega, diagonal, free, row, r, ell))
  if len(ell_s):
    mean, target = identity.target(models, r, ell, ell_s, v)
    target = jnp.where(_like(ell == ell_s, r), v, target)
  else:
    mean, target = online(r, ell, ell), v
  error = jnp.mean((mean - target) ** 2, axis=tuple(range(1, r.ndim)))
  eps_error = error * jax.nn.sigmoid(ell) ** 2  # 1/(1 + ρ)²
  w = jax.vmap(weight)(ell)
  if identity.adaptive:
    w = w * jax.lax.stop_gradient(error + 1e-3) ** -identity.adaptive
  return jnp.mean(w * eps_error), {"half_log_snr": ell, "eps_error": eps_error}


def velocity(network: Velocity, *, prediction: str | predictions.Row) -> Velocity:
  """A network (x, ell (n,)) → a row of Table 5 as (x, ell) → ε̂ − D: the teacher of a loss."""
  mean = _mean(lambda x, ell, ell_s: network(x, ell), predictions.named(prediction))
  return lambda x, ell: mean(x / _scale(ell, x), ell, ell)


def _guided(v, identity, omega, diagonal, free, row, r, ell):
  """ω v + κ v(x, c) + (1 − ω − κ) v(x)."""
  if not identity.is_guided:
    return v
  if free is None:
    raise ValueError("omega and kappa guide towards a label: they need a network with conditions")
  kappa = identity.kappa
  if isinstance(identity.omega, str) and omega is None:
    raise ValueError(f"identity has the omega of a condition {identity.omega!r}: pass omega (n,)")
  omega = _like(omega, r) if isinstance(identity.omega, str) else identity.omega
  v = omega * v + (1.0 - omega - kappa) * _mean(free, row)(r, ell, ell)
  return v + kappa * diagonal(r, ell) if kappa else v


def _mean(network: Average, row: predictions.Row) -> Mean:
  """A network at unit scale as (r, ell, ell_s) → ū in the frame of rectified flow."""
  def mean(r, ell, ell_s):
    x = r * _scale(ell, r)
    value = predictions.like_state(network(x, ell, ell_s), x, "network")
    frame = predictions.unit_frame(ell)
    a, b = row(frame)
    # The row (−1, 1) of x and y = a D̄ + b ε̄, as in `predictions.convert`.
    size = frame.alpha * b - frame.sigma * a
    return _like((frame.alpha + frame.sigma) / size, r) * value - _like((a + b) / size, r) * x

  return mean


def _scale(ell: jax.Array, r: jax.Array) -> jax.Array:
  """x/r = 1/√((1 − s)² + s²), from the frame of rectified flow to unit scale."""
  return _like(jax.lax.rsqrt(jax.nn.sigmoid(ell) ** 2 + jax.nn.sigmoid(-ell) ** 2), r)


def _like(values: jax.Array, r: jax.Array) -> jax.Array:
  """(n,) in as many axes as r."""
  return values.reshape(-1, *[1] * (r.ndim - 1))
