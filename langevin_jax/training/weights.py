"""Constraints on the weights of a network, as the last link of its optimizer."""

import jax
import optax

from langevin_jax.networks.unet_edm2 import unit_magnitude

__all__ = ["forced_weight_normalization"]


def forced_weight_normalization() -> optax.GradientTransformation:
  """After an optimizer's update, gives the weights of `UNetEDM2` magnitude 1 again.

    update′ = unit(w + update) − w   for the parameters named "weight"; others are left alone

  (Karras et al. 2024, eq. 66.) So the relative size of an update is that of the learning rate
  throughout training. It is the last of a chain, such as
  `optax.chain(optax.adam(0.01), forced_weight_normalization())`.
  """
  def update(updates, state, params=None):
    if params is None:
      raise ValueError("forced_weight_normalization needs params: call update(updates, state, "
                       "params)")

    def force(path, u, w):
      return unit_magnitude(w + u) - w if path[-1].key == "weight" else u

    return jax.tree_util.tree_map_with_path(force, updates, params), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
