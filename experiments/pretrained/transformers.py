"""The layouts of diffusion transformers: DiT and SiT as published, and DiT of diffusers."""

import numpy as np

from experiments.pretrained import layout, tables
from experiments.pretrained.diffusers import training_table
from experiments.pretrained.layout import Imported
from experiments.pretrained.tables import Row
from experiments.pretrained.weights import Weights

# Of the latents that published DiT and SiT are trained on, of Stable Diffusion's autoencoder.
LATENT_SCALE = 0.18215


def patches(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """A convolution (width, channels, p, p) of stride p as a product of rows (p, p, channels)."""
  (a,) = arrays
  return a if a.ndim == 1 else a.transpose(2, 3, 1, 0).reshape(-1, len(a))


def output(channels: int, sign: float) -> tables.How:
  """A product to (p, p, channels), without a variance of each; `sign` turns it round."""
  def how(arrays, shape):
    a = arrays[0].reshape(shape[-1] // channels, -1, *arrays[0].shape[1:])[:, :channels]
    return sign * tables.plain([a.reshape(shape[-1], *arrays[0].shape[1:])], shape)

  return how


def positions(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """(1, tokens, width) as (tokens, width)."""
  return arrays[0][0]


def waves(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """The positions of DiT, which diffusers does not save: half of the channels are of the column."""
  tokens, width = shape
  side, n = round(tokens**0.5), width // 4
  frequencies = 10000.0 ** (-np.arange(n) / n)
  row, column = (np.outer(place.reshape(-1), frequencies) for place in np.indices((side, side)))
  return np.concatenate([f(a) for a in (column, row) for f in (np.sin, np.cos)], axis=1)


ORIGINAL = (
    Row("patches", "x_embedder.proj", patches),
    Row("position", "pos_embed", positions),
    Row("conditioning/level_in", "t_embedder.mlp.0"),
    Row("conditioning/level_out", "t_embedder.mlp.2"),
    Row("conditioning/label/kernel", "y_embedder.embedding_table.weight", tables.embedding),
    Row("blocks/modulation", "blocks.{i}.adaLN_modulation.1"),
    Row("blocks/merge", "blocks.{i}.attn.proj"),
    Row("blocks/hidden", "blocks.{i}.mlp.fc1"),
    Row("blocks/back", "blocks.{i}.mlp.fc2"),
    Row("modulation", "final_layer.adaLN_modulation.1"))
# Each block of diffusers' has the embedding of the level and the label once more.
EMBEDDING = "transformer_blocks.0.norm1.emb"
DIFFUSERS = (
    Row("patches", "pos_embed.proj", patches),
    Row("position", (), waves),
    Row("conditioning/level_in", f"{EMBEDDING}.timestep_embedder.linear_1"),
    Row("conditioning/level_out", f"{EMBEDDING}.timestep_embedder.linear_2"),
    Row("conditioning/label/kernel", f"{EMBEDDING}.class_embedder.embedding_table.weight",
        tables.embedding),
    Row("blocks/modulation", "transformer_blocks.{i}.norm1.linear"),
    Row("blocks/merge", "transformer_blocks.{i}.attn1.to_out.0"),
    Row("blocks/hidden", "transformer_blocks.{i}.ff.net.0.proj"),
    Row("blocks/back", "transformer_blocks.{i}.ff.net.2"),
    Row("modulation", "proj_out_1"))


def dit(
    weights: Weights, *, heads: int = 0, null_label: bool = True, latent_scale: float = LATENT_SCALE
) -> Imported:
  """DiT (Peebles & Xie 2023): the state dict of its own code.

  Args:
    heads: of attention; those of the published sizes if not given.
    null_label: whether the last class of the embedding means that there is no label.
    latent_scale: what latents are multiplied by before they are the network's data.
  """
  layout.check(weights, "dit")
  return _original(weights, heads, null_label, latent_scale, level=layout.call("timesteps"),
                   prediction="eps", sign=1.0)


def sit(
    weights: Weights, *, heads: int = 0, null_label: bool = True, latent_scale: float = LATENT_SCALE
) -> Imported:
  """SiT (Ma et al. 2024) with linear interpolant and velocity: the state dict of its own code.

  Its velocity is from noise to data, that of this project from data to noise.

  Args:
    heads, null_label, latent_scale: as of `dit`.
  """
  layout.check(weights, "sit")
  return _original(weights, heads, null_label, latent_scale, level=layout.call("flow_time"),
                   prediction="velocity", sign=-1.0)


def diffusers_dit(
    weights: Weights, *, null_label: bool = True, latent_scale: float = LATENT_SCALE
) -> Imported:
  """diffusers' DiTTransformer2DModel: a directory with its config.json, or that of a pipeline.

  Args:
    null_label, latent_scale: as of `dit`.
  """
  layout.check(weights, "diffusers_dit")
  config = weights.config
  if (kind := config.get("norm_type", "ada_norm_zero")) != "ada_norm_zero":
    raise ValueError(f"--weights: norm_type={kind!r} in config.json; only 'ada_norm_zero' can be "
                     "imported")
  for name, value in weights.tensors.items():
    _, mark, rest = name.partition(".norm1.emb.")
    if mark and not np.array_equal(value, weights.tensors[f"{EMBEDDING}.{rest}"]):
      raise ValueError(f"--weights: {name} differs from that of the first block; one embedding of "
                       "the level and the label can be imported")
  heads, depth = config["num_attention_heads"], config["attention_head_dim"]
  names = tuple(f"transformer_blocks.{{i}}.attn1.to_{part}" for part in "qkv")
  channels, side = config.get("in_channels", 4), config["sample_size"]
  return _imported(
      table=(*DIFFUSERS, Row("blocks/qkv", names, tables.qkv("3hd", depth)),
             Row("output", "proj_out_2", output(channels, 1.0))),
      width=heads * depth, depth=config["num_layers"], heads=heads, patch=config["patch_size"],
      shape=(side, side, channels), labels=config.get("num_embeds_ada_norm", 1000) + null_label,
      level=layout.call("timesteps", endpoint=True, **training_table(weights.scheduler, "")),
      prediction="eps", null_label=null_label, latent_scale=latent_scale,
      ignored=("transformer_blocks.*.norm1.emb.*",))


def _original(weights, heads, null_label, latent_scale, *, level, prediction, sign) -> Imported:
  shape = weights.shapes()
  patches = shape["x_embedder.proj.weight"]
  width, channels, patch = patches[0], patches[1], patches[2]
  side = patch * round(shape["pos_embed"][1] ** 0.5)
  heads = heads or (16 if width > 768 else width // 64)
  if not heads or width % heads:
    raise ValueError(f"heads must divide the width {width}, got {heads}")
  labels = shape["y_embedder.embedding_table.weight"][0]
  return _imported(
      table=(*ORIGINAL, Row("blocks/qkv", "blocks.{i}.attn.qkv", tables.qkv("3hd", width // heads)),
             Row("output", "final_layer.linear", output(channels, sign))),
      width=width, depth=1 + max(int(name.split(".")[1]) for name in shape if name.startswith(
          "blocks.")), heads=heads, patch=patch, shape=(side, side, channels), labels=labels,
      level=level, prediction=prediction, null_label=null_label, latent_scale=latent_scale)


def _imported(
    *, table, width, depth, heads, patch, shape, labels, level, prediction, null_label,
    latent_scale, ignored=(),
) -> Imported:
  return Imported(
      network=layout.call("dit", width=width, depth=depth, heads=heads, patch_size=patch,
                          level=level),
      prediction=prediction, table=table, shape=shape, num_classes=labels - null_label,
      null_label=null_label, ignored=ignored, mean=0.0, scale=1.0 / latent_scale, deviation=1.0)
