"""Flax modules, and nothing else of this library: `apply({"params": p}, x, ell, labels)` → as x.

x is (batch, *shape) at unit scale, x/√(α² + σ²); ell = log(α/σ), a scalar or (batch,), ±∞ allowed;
labels (batch,) are 0 … num_classes − 1, and num_classes for "no label". The output is float32 of
x's shape, whatever the dtype of the products. `VAE` is another model altogether, to compare with:
an encoder and a decoder, without a noise level.
"""

from langevin_jax.networks.dit import DiT
from langevin_jax.networks.mlp import MLP
from langevin_jax.networks.vae import VAE

__all__ = ["MLP", "VAE", "DiT"]
