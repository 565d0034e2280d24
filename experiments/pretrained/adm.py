"""The layout of ADM (Dhariwal & Nichol 2021) as guided-diffusion and improved-diffusion save it."""

import re

from experiments.pretrained import layout, tables
from experiments.pretrained.diffusers import Schedule
from experiments.pretrained.layout import Imported
from experiments.pretrained.tables import Row
from experiments.pretrained.weights import Weights

RESIDUAL = (
    ("norm_in", "in_layers.0"), ("hidden", "in_layers.2"), ("modulation", "emb_layers.1"),
    ("norm_out", "out_layers.0"), ("back", "out_layers.3"), ("skip", "skip_connection"))
TABLE = (
    Row("conditioning/level_in", "time_embed.0"),
    Row("conditioning/level_out", "time_embed.2"),
    Row("conditioning/label/kernel", "label_emb.weight", tables.embedding),
    Row("input", "input_blocks.0.0"),
    Row("norm", "out.0"),
    Row("output", "out.2", tables.first_outputs),
    Row("down_{level}", "input_blocks.{first}.0.op"),
    Row("up_{level}", "output_blocks.{last}.{after}.conv"),
    *tables.rows((("down_{level}_{i}", "input_blocks.{down}.0"),
                  ("down_{level}", "input_blocks.{first}.0"),
                  ("middle_0", "middle_block.0"), ("middle_1", "middle_block.2"),
                  ("up_{level}_{i}", "output_blocks.{up}.0"),
                  ("up_{level}", "output_blocks.{last}.{after}")), RESIDUAL))
ATTENTIONS = (("down_{level}_{i}", "input_blocks.{down}.1"), ("middle_0", "middle_block.1"),
              ("up_{level}_{i}", "output_blocks.{up}.1"))


def adm(
    weights: Weights, *, side: int, schedule: Schedule = "linear", steps: int = 1000,
    head_channels: int = 0, heads: int = 0, new_attention: bool = False, null_label: bool = False,
) -> Imported:
  """ADM, and the networks of improved diffusion: the state dict of guided-diffusion's UNetModel.

  Args:
    side: of pictures.
    schedule, steps: of β: "linear", from 0.1/steps to 20/steps, or "cosine".
    head_channels: of a head of attention: 64 for ADM at 64², 256² and 512².
    heads: their number, if it is the same at every level: 4 for ADM at 128² and improved diffusion.
    new_attention: whether q, k and v are apart, and heads within them
      (use_new_attention_order=True).
    null_label: whether the last class of the embedding means that there is no label.
  """
  layout.check(weights, "adm")
  if bool(head_channels) == bool(heads) or min(head_channels, heads) < 0:
    raise ValueError("--layout=adm: weights do not say how attention is split into heads: give "
                     "either head_channels (64 for ADM at 64², 256² and 512²) or heads (4 for ADM "
                     "at 128² and improved diffusion)")
  shape = weights.shapes()
  ups = {found[0] for found in map(re.compile(
      r"output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.").match, shape) if found}
  sequence = 1 + max((int(name.split(".")[1]) for name in shape
                      if name.startswith("output_blocks.")), default=0)
  levels = len(ups) + 1
  blocks = sequence // levels - 1
  channels = shape["time_embed.0.weight"][1]
  place = lambda level: f"input_blocks.{level * (blocks + 1) + 1}"
  attention = tuple(side >> level for level in range(levels)
                    if any(name.startswith(f"{place(level)}.1.") for name in shape))
  widths = [shape[f"{place(level)}.0.out_layers.3.weight"][0] for level in range(levels)]
  in_channels = shape["input_blocks.0.0.weight"][1]
  layout.outputs(weights, "out.2.weight", in_channels)
  modulation = shape[f"{place(0)}.0.emb_layers.1.weight"][0]
  depth = head_channels or None
  attend = (("norm_attention", "norm"), ("merge", "proj_out"),
            ("qkv", "qkv", tables.qkv("3hd" if new_attention else "h3d", depth, heads)))
  return Imported(
      network=layout.call(
          "unet", channels=channels, multipliers=tuple(w // channels for w in widths),
          blocks=blocks, attention=attention, head_channels=depth, heads=heads or 1, epsilon=1e-5,
          scale_shift=modulation == 2 * widths[0], centred=True,
          resampling="block" if any("in_layers" in name for name in ups) else "convolution",
          level=layout.call("timesteps", schedule=schedule or "linear", steps=steps,
                            beta_min=0.1 / steps, beta_max=20.0 / steps, features=channels)),
      prediction="eps", table=(*TABLE, *tables.rows(ATTENTIONS, attend)),
      numbers=layout.unet_numbers(levels, blocks, side, attention), shape=(side, side, in_channels),
      num_classes=shape.get("label_emb.weight", (0,))[0] - null_label, null_label=null_label)
