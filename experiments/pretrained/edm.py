"""The layouts of EDM's networks (Karras et al. 2022): DDPM++, NCSN++ and ADM, as it trains them."""

import re
from typing import Literal

from experiments.pretrained import layout, tables
from experiments.pretrained.layout import Imported
from experiments.pretrained.tables import Row
from experiments.pretrained.weights import Weights

BLOCK = (
    ("norm_in", "norm0"), ("hidden", "conv0"), ("modulation", "affine"), ("norm_out", "norm1"),
    ("back", "conv1"), ("skip", "skip"), ("norm_attention", "norm2"), ("merge", "proj"))
PLACES = (
    ("down_{level}_{i}", "enc.{side}x{side}_block{i}"), ("down_{level}", "enc.{side}x{side}_down"),
    ("up_{level}_{i}", "dec.{side}x{side}_block{i}"),
    ("up_{level}", "dec.{side_above}x{side_above}_up"))
COMMON = (
    Row("conditioning/level_out", "map_layer1"),
    Row("input", "enc.{side}x{side}_conv"))
# DDPM++ and NCSN++.
SONG = (
    Row("conditioning/level_in", "map_layer0", tables.sines_first),
    Row("conditioning/frequencies", "map_noise.freqs"),
    Row("conditioning/label/kernel", ("map_label.weight", "map_label.bias"),
        tables.scaled_one_hot_product),
    Row("pyramid_{level}", "enc.{side}x{side}_aux_residual"),
    Row("norm", "dec.{side}x{side}_aux_norm"))
ADM = (
    Row("conditioning/level_in", "map_layer0"),
    Row("conditioning/label/kernel", "map_label.weight", tables.one_hot_product),
    Row("norm", "out_norm"))
# Constants, and the embedding of an augmentation, which is none in sampling.
IGNORED = ("*resample_filter", "map_augment.*", "u")
# Preconditioning → (the call of the level, what is predicted, how outputs become ours). The output
# of VE is −ε; iDDPM learns a variance, too.
KINDS = {"edm": ("log_sigma", "edm", tables.plain), "vp": ("vp_time", "eps", tables.plain),
         "ve": ("ve_log_sigma", "eps", tables.negated),
         "iddpm": ("timesteps", "eps", tables.first_outputs)}


def edm(
    weights: Weights, *, preconditioning: Literal["edm", "vp", "ve", "iddpm"] = "edm",
    sigma_data: float = 0.5, head_channels: int = 64, null_label: bool = False,
) -> Imported:
  """EDM's DDPM++, NCSN++ and ADM networks: their state dict.

  Args:
    preconditioning: of the columns of table 1 of Karras et al. 2022, that of the training.
    sigma_data: the standard deviation of pictures in [−1, 1], of "edm"; the others have none.
    head_channels: of a head of attention; DDPM++ and NCSN++ have one head.
    null_label: whether it was trained without labels, too (label_dropout > 0).
  """
  layout.check(weights, "edm")
  if preconditioning != "edm" and sigma_data != 0.5:
    raise ValueError(f"--layout.sigma_data: preconditioning={preconditioning!r} has none, got "
                     f"{sigma_data}")
  if "u" in weights.tensors and preconditioning != "iddpm":
    raise ValueError("--layout=edm: weights with the table `u` are of preconditioning='iddpm', got "
                     f"{preconditioning!r}")
  shape = weights.shapes()
  has = lambda layer: any(name.startswith(f"{layer}.") for name in shape)
  side = max(int(found[1]) for found in map(re.compile(r"enc\.(\d+)x\d+_conv\.").match, shape)
             if found)
  block = lambda level, i=0: f"enc.{side >> level}x{side >> level}_block{i}"
  levels = next(n for n in range(1, 32) if not has(block(n)))
  blocks = next(i for i in range(1, 1000) if not has(block(0, i)))
  channels = shape["map_layer1.weight"][0] // 4
  song = has(f"dec.{side}x{side}_aux_norm")
  attention = tuple(side >> n for n in range(levels) if has(f"{block(n)}.qkv"))
  depth = None if song else head_channels
  middle = side >> levels - 1
  places = (*PLACES, ("middle_{i}", f"dec.{middle}x{middle}_in{{i}}"))
  qkv = ("qkv", "qkv", tables.qkv("hd3", depth))
  level, prediction, how = KINDS[preconditioning]
  own = {"edm": {"sigma_data": sigma_data}, "iddpm": {"schedule": "cosine"}}
  output = Row("output", "dec.{side}x{side}_aux_conv" if song else "out_conv", how)
  waves, pyramid = shape["map_layer0.weight"][1], any("_aux_residual." in name for name in shape)
  classes = shape["map_label.weight"][1] if has("map_label") else 0
  return Imported(
      network=layout.call(
          "unet", channels=channels, blocks=blocks, attention=attention, head_channels=depth,
          multipliers=tuple(shape[f"{block(n)}.conv0.weight"][0] // channels
                            for n in range(levels)),
          resampling="block", taps=_taps(weights, side, levels), attend_last=song,
          project_skip=song, scale_shift=not song, skip_scale=0.5**0.5 if song else 1.0,
          input_pyramid=pyramid,
          epsilon=1e-6 if song else 1e-5,
          level=layout.call(
              level, **own.get(preconditioning, {}), features=waves, endpoint=song,
              labels_first=song, fourier=has("map_noise") or (pyramid and waves != channels))),
      prediction=prediction, table=(*COMMON, *(SONG if song else ADM), output, *tables.rows(
          places, (*BLOCK, qkv))),
      numbers=layout.unet_numbers(levels, blocks, side, attention), ignored=IGNORED,
      shape=(side, side, shape[f"enc.{side}x{side}_conv.weight"][1]), num_classes=classes,
      null_label=null_label, **({"scale": layout.HALF_RANGE * sigma_data, "deviation": 1.0}
                                if preconditioning == "edm" else {}))


def _taps(weights: Weights, side: int, levels: int) -> tuple[float, ...]:
  """The filter that halves and doubles sides, of one axis."""
  if levels < 2:
    return (1.0, 1.0)
  name = f"enc.{side // 2}x{side // 2}_down.conv0.resample_filter"
  if name not in weights.tensors:
    raise ValueError(f"--weights={weights.place}: {name} is missing, a buffer of the state dict")
  row = weights.tensors[name][0, 0].sum(0)
  return tuple((row / row[0]).round(6).tolist())
