"""The calls of autoencoders: their network, and the objective that trains it."""

from typing import Literal

import jax

from experiments.config.adapters import Network
from experiments.pretrained import vgg
from langevin_jax import networks, training


def autoencoder(
    shape: tuple[int, ...], *, channels: int = 128, multipliers: tuple[int, ...] = (1, 2, 4, 4),
    blocks: int = 2, latent_channels: int = 4, groups: int = 32,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Network:
  """A convolutional autoencoder with a Gaussian posterior; Stable Diffusion's by default.

  It is trained with objective.autoencoder, and encodes data by `experiments.encode`.

  Args:
    channels: of the first level, a multiple of `groups`, the groups of its normalisations.
    multipliers: channels of each level, in units of `channels`; a level has half the sides of the
      one before.
    blocks: residual blocks of a level of the encoder; the decoder has one more.
    latent_channels: of a latent, whose sides are those of the last level.
    dtype: of the computation; parameters are float32.
  """
  if len(shape) < 2:
    raise ValueError(f"it takes sequences (n, T, c), images (n, h, w, c) or volumes, the data have "
                     f"examples of shape {shape}")
  module = networks.Autoencoder(tuple(shape), channels, multipliers, blocks, latent_channels,
                                groups, dtype)
  module.check()
  init = lambda key: module.init(key, jax.numpy.zeros((1, *shape)))["params"]

  def apply(params, x, how, *condition):
    """Encodes or decodes if `how` says so; of a noise level and a condition it reconstructs x."""
    method = how if isinstance(how, str) else None
    return module.apply({"params": params}, x, method=method)

  return Network(init, apply)


NETWORKS = {"autoencoder": autoencoder}


def reconstruction(
    encode, decode, *, kl: float = 1e-6, perceptual: float = 0.0
) -> training.Loss:
  """The mean absolute error of the reconstruction, and the posterior's divergence from N(0, I).

  Args:
    kl: weight of the divergence, in nats per number of an example.
    perceptual: weight of the distance of VGG16's features (the extra `vgg`), for images of 1 or 3
      channels. The features are of images in standard units.
  """
  features = vgg.unit_layers(vgg.read()) if perceptual else None
  return training.autoencoder_loss(encode, decode, kl=kl, perceptual=perceptual, features=features)
