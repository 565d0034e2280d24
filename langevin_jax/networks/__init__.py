"""Flax networks. They do not depend on the rest of the library.

Diffusion networks are called as `apply({"params": p}, x, ell, labels)`:

| argument | shape | |
|---|---|---|
| x | (batch, *shape) | the state at unit scale, x/√(α² + σ²) |
| ell | () or (batch,) | ℓ = log(α/σ), ±∞ allowed |
| labels | (batch,) | 0 … num_classes − 1, or num_classes for "no label" |
| output | (batch, *shape) | float32, for every dtype of the products |

`VAE` is an encoder and a decoder without a noise level, for comparison.

Reading order: `mlp`, `dit`, `vae`, `_embeddings` (noise level and label), `_products` (dense layers
in bfloat16).
"""

from langevin_jax.networks.dit import DiT
from langevin_jax.networks.mlp import MLP
from langevin_jax.networks.vae import VAE

__all__ = ["MLP", "VAE", "DiT"]
