"""The layout of diffusers' `AutoencoderKL`: the autoencoder of Stable Diffusion."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.pretrained import layout, tables
from experiments.pretrained.diffusers import OLDER
from experiments.pretrained.layout import Imported
from experiments.pretrained.tables import Row
from experiments.pretrained.weights import Weights

RESNET = (("norm_in", "norm1"), ("hidden", "conv1"), ("norm_out", "norm2"), ("back", "conv2"),
          ("skip", "conv_shortcut"))
ENDS = (("input", "conv_in"), ("norm", "conv_norm_out"), ("output", "conv_out"))
# Attention of one head, whose outputs are in the order (3, channels).
MIDDLE = (("norm_attention", "group_norm"), ("merge", "to_out.0"),
          ("qkv", ("to_q", "to_k", "to_v"), tables.qkv("3hd", None)))
HALVES = ("encoder", "decoder")
TABLE = (
    *tables.rows([(half, half) for half in HALVES], ENDS),
    *tables.rows([(half, f"{half}.mid_block.attentions.0") for half in HALVES], MIDDLE),
    Row("encoder/down_{level}", "encoder.down_blocks.{above}.downsamplers.0.conv"),
    Row("decoder/up_{level}", "decoder.up_blocks.{from_below}.upsamplers.0.conv"),
    *tables.rows((("encoder/down_{level}_{i}", "encoder.down_blocks.{level}.resnets.{i}"),
                  ("decoder/up_{level}_{i}", "decoder.up_blocks.{from_below}.resnets.{i}"),
                  *((f"{half}/middle_{{i}}", f"{half}.mid_block.resnets.{{i}}")
                    for half in HALVES)), RESNET))
_KINDS = {"act_fn": "silu", "mid_block_add_attention": True}


def autoencoder_kl(weights: Weights, *, side: int = 0) -> Imported:
  """diffusers' AutoencoderKL: a directory with its config.json, or that of a pipeline.

  Args:
    side: of pictures; the config's sample_size if not given.
  """
  layout.check(weights, "autoencoder_kl")
  config = weights.config
  widths, channels = config["block_out_channels"], config.get("in_channels", 3)
  for name, value in _KINDS.items():
    if config.get(name, value) != value:
      raise ValueError(f"--weights: {name}={config.get(name)!r} in config.json; only {value!r} "
                       "can be imported")
  if not widths or any(width % widths[0] for width in widths) or (
      config.get("out_channels", 3) != channels):
    raise ValueError(f"--weights: block_out_channels must be multiples of the first, and in_ and "
                     f"out_channels equal, got {widths}")
  side = layout.needed_side(side, config, "sample_size", "autoencoder_kl")
  if side % 2 ** (len(widths) - 1):
    raise ValueError(f"--layout.side: must be a multiple of {2 ** (len(widths) - 1)}, got {side}")
  blocks = config.get("layers_per_block", 1)
  return Imported(
      network=layout.call(
          "autoencoder", channels=widths[0], multipliers=tuple(w // widths[0] for w in widths),
          blocks=blocks, latent_channels=config.get("latent_channels", 4),
          groups=config.get("norm_num_groups", 32)),
      prediction="", shape=(side, side, channels), older=OLDER,
      table=(*TABLE, _pointwise("moments", "quant_conv", config),
             _pointwise("latents", "post_quant_conv", config)),
      numbers=layout.unet_numbers(len(widths), blocks, side, ()))


def _pointwise(ours: str, theirs: str, config: Mapping[str, Any]) -> Row:
  """The product next to the latents; the identity where the network has none."""
  if config.get(f"use_{theirs}", True):
    return Row(ours, theirs)
  return Row(ours, (), lambda arrays, shape: np.eye(*shape) if len(shape) == 2 else np.zeros(shape))
