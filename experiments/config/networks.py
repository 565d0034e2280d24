"""Networks that a config may call, besides a user's own (`adapters`)."""

import math
from collections.abc import Callable
from typing import Literal

import jax

from experiments.config.adapters import Kinds, Network, example_condition, linen
from langevin_jax import networks

# Blocks that can be traced in some seconds.
_DEEPEST = 1000
Dtype = Literal["float32", "bfloat16"]
Resampling = Literal["convolution", "filter", "block"]
Constrain = Callable[[jax.Array], jax.Array]


def mlp(
    shape: tuple[int, ...], num_classes: int, conditions: Kinds, constrain: Constrain,
    second_level: bool = False, *, width: int = 128, depth: int = 4, dtype: Dtype = "float32",
) -> Network:
  """A residual perceptron for vectors (n, d), and for sequences (n, T, c) as T·c numbers."""
  _check(width=width, depth=depth)
  if len(shape) not in (1, 2):
    raise ValueError(f"it takes vectors (n, d) or sequences (n, T, c), the data have examples of "
                     f"shape {shape}")
  module = networks.MLP(width=width, depth=depth, num_classes=num_classes, dtype=dtype,
                        classes=_classes(conditions), constrain=constrain,
                        second_level=second_level)
  return linen(module, (math.prod(shape),), example_condition(conditions))


def dit(
    shape: tuple[int, ...], num_classes: int, conditions: Kinds, constrain: Constrain,
    second_level: bool = False, *, width: int = 128, depth: int = 4, heads: int = 4,
    patch_size: int = 2, dtype: Dtype = "float32", unroll: int = 8, remat: bool = False,
    norm: Literal["layer", "rms"] = "layer", qk_norm: bool = False,
    mlp: Literal["gelu", "swiglu"] = "gelu",
    positions: Literal["learned", "fixed", "none"] = "learned", rotary: bool = False,
    bottleneck: int | None = None, stem: int = 1, tied: bool = False,
    level: networks.Level | None = None,
) -> Network:
  """A diffusion transformer (Peebles & Xie 2023) for sequences, images or volumes (n, …, c).

  Args:
    width, depth, heads: channels, blocks, and heads of attention.
    patch_size: pixels a side, or steps of a sequence, that make a token.
    dtype: of the computation; parameters are float32.
    unroll: blocks an iteration of the scan over blocks; 1 compiles fastest.
    remat: recompute a block in the gradient rather than keep its activations.
    norm: layer normalisation without parameters, or "rms" with a gain.
    qk_norm: normalise the queries and keys of each head.
    mlp: "swiglu" multiplies two layers with ⅔ as many hidden units.
    positions: what is added to the tokens. "learned" begins as "fixed", sines and cosines.
    rotary: rotate queries and keys by the places of their tokens.
    bottleneck: channels of a linear layer before the tokens, for large patches.
    stem: patches along each side of the window that a token is made of, an odd number.
    tied: the output layer is the transpose of the first one: for tokens.
    level: how the noise level is seen: none, or a call such as flow_time() or unseen().
  """
  _check(width=width, depth=depth, heads=heads, patch_size=patch_size, unroll=unroll)
  if len(shape) < 2:
    raise ValueError(f"it takes sequences (n, T, c), images (n, h, w, c) or volumes, the data have "
                     f"examples of shape {shape}")
  module = networks.DiT(
      patch_size=patch_size, width=width, depth=depth, heads=heads, num_classes=num_classes,
      classes=_classes(conditions), dtype=dtype, unroll=unroll, remat=remat, constrain=constrain,
      second_level=second_level, norm=norm, qk_norm=qk_norm, mlp=mlp, positions=positions,
      rotary=rotary, bottleneck=bottleneck, stem=stem, tied=tied, level=level or networks.Level())
  module.check((1, *shape))
  return linen(module, shape, example_condition(conditions))


def unet(
    shape: tuple[int, ...], num_classes: int, conditions: Kinds, constrain: Constrain,
    second_level: bool = False, *, channels: int = 128, multipliers: tuple[int, ...] = (1, 2, 2, 2),
    blocks: int = 2, attention: tuple[int, ...] = (16,), attend_last: bool = False,
    head_channels: int | None = None, groups: int = 32, scale_shift: bool = False,
    resampling: Resampling = "convolution", taps: tuple[float, ...] = (1.0, 1.0),
    project_skip: bool = False, input_pyramid: bool = False, skip_scale: float = 1.0,
    epsilon: float = 1e-6, centred: bool = False, dropout: float = 0.0, heads: int = 1,
    level: networks.Level | None = None,
    dtype: Dtype = "float32", remat: bool = False,
) -> Network:
  """A U-Net for sequences (n, T, c), images (n, h, w, c) or volumes: DDPM's by default.

  The numbers of DDPM++, NCSN++ and ADM are in the table of `langevin_jax.networks.UNet`.

  Args:
    channels: of the first layer, a multiple of `groups`, the groups of its normalisations.
    multipliers: channels of each level, in units of `channels`; a level has half the sides of the
      one before.
    blocks: residual blocks of a level on the way down, and one more on the way up.
    attention: the longest sides of the levels with attention. attend_last: on the way up, only
      after the last block of a level. head_channels: of an attention head; None is as many heads
      as `heads` at every level.
    scale_shift: whether the conditioning scales and shifts, or is added.
    resampling: by convolutions, a filter without parameters, or residual blocks. taps: of the
      filter. project_skip: a product in the skips of these blocks.
    input_pyramid: add the input, halved by convolutions, to each level.
    skip_scale: multiplies the sum of each residual connection.
    epsilon: of the normalisations. centred: convolutions of stride 2 have a padding of 1 on both
      sides. dropout: the probability in training, before a block's last product.
    level: how the noise level is seen: none, or a call such as timesteps().
    dtype, remat: as in `dit`.
  """
  _check(channels=channels, blocks=blocks, groups=groups, depth=blocks * len(multipliers))
  if len(shape) < 2:
    raise ValueError(f"it takes sequences (n, T, c), images (n, h, w, c) or volumes, the data have "
                     f"examples of shape {shape}")
  module = networks.UNet(
      channels=channels, multipliers=multipliers, blocks=blocks, attention=attention,
      attend_last=attend_last, head_channels=head_channels, groups=groups, scale_shift=scale_shift,
      resampling=resampling, taps=taps, project_skip=project_skip, input_pyramid=input_pyramid,
      skip_scale=skip_scale, epsilon=epsilon, centred=centred, dropout=dropout, heads=heads,
      level=level or networks.Level(), num_classes=num_classes, classes=_classes(conditions),
      dtype=dtype, remat=remat, constrain=constrain, second_level=second_level)
  module.check((1, *shape))
  return linen(module, shape, example_condition(conditions))


def unet_edm2(
    shape: tuple[int, ...], num_classes: int, conditions: Kinds, constrain: Constrain,
    second_level: bool = False, *, channels: int = 192, multipliers: tuple[int, ...] = (1, 2, 3, 4),
    blocks: int = 3, attention: tuple[int, ...] = (16, 8), head_channels: int = 64,
    dtype: Dtype = "float32", remat: bool = False,
) -> Network:
  """EDM2's magnitude-preserving U-Net (Karras et al. 2024), for the optimizer unit_weight_adam.

  Args:
    channels, multipliers, blocks, attention, head_channels: as in `unet`; channels=128, 192, 256,
      320, 384 and 448 are EDM2-XS, S, M, L, XL and XXL.
    dtype, remat: as in `dit`.
  """
  _check(channels=channels, blocks=blocks, depth=blocks * len(multipliers))
  if len(shape) < 2:
    raise ValueError(f"it takes sequences (n, T, c), images (n, h, w, c) or volumes, the data have "
                     f"examples of shape {shape}")
  module = networks.UNetEDM2(
      channels=channels, multipliers=multipliers, blocks=blocks, attention=attention,
      head_channels=head_channels, num_classes=num_classes, classes=_classes(conditions),
      dtype=dtype, remat=remat, constrain=constrain, second_level=second_level)
  module.check((1, *shape))
  return linen(module, shape, example_condition(conditions))


NETWORKS = {"mlp": mlp, "dit": dit, "unet": unet, "unet_edm2": unet_edm2}


def _classes(conditions: Kinds) -> dict[str, int]:
  return {name: kind.classes for name, kind in conditions.items() if kind.classes}


def _check(**values: int) -> None:
  for name, value in values.items():
    if not 1 <= value < 2**31:
      raise ValueError(f"{name} must be at least 1, got {value}")
  if values["depth"] > _DEEPEST:
    name = "blocks times levels" if "blocks" in values else "depth"
    raise ValueError(f"{name} must be at most {_DEEPEST:,}, got {values['depth']}")
