"""Flax networks. Of the library they use `conditions` alone.

Diffusion networks are called as `apply({"params": p}, x, ell, condition)`:

| argument | shape | |
|---|---|---|
| x | (batch, *shape) | the state at unit scale, x/√(α² + σ²) |
| ell | () or (batch,) | ℓ = log(α/σ), ±∞ allowed |
| condition | (batch,) | labels 0 … num_classes − 1, or num_classes for "no label" |
| | a dict of named arrays | vectors, tokens and images, by their axes; integers are classes |
| ell_s | as ell | ℓ′ ≥ ell, optional, of a network with `second_level=True` (`flow_maps`) |
| output | (batch, *shape) | float32, for every dtype of the products |

`Autoencoder` and `VAE` are an encoder and a decoder without a noise level: the first for diffusion
in its latents, the second for comparison.

Reading order: `mlp`, `dit`, `unet`, `unet_edm2`, `vae`, `autoencoder`, `_layers` (of U-Nets and
autoencoders), `_embeddings` (noise level and conditions), `_attention`, `_patches` (of `dit`),
`_products` (dense layers in bfloat16).
"""

from langevin_jax.networks._embeddings import Level, clock
from langevin_jax.networks.autoencoder import Autoencoder
from langevin_jax.networks.dit import DiT
from langevin_jax.networks.mlp import MLP
from langevin_jax.networks.unet import UNet
from langevin_jax.networks.unet_edm2 import UNetEDM2
from langevin_jax.networks.vae import VAE

__all__ = ["MLP", "VAE", "Autoencoder", "DiT", "Level", "UNet", "UNetEDM2", "clock"]
