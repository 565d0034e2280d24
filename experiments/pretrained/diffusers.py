"""The layout of diffusers' `UNet2DModel`: DDPM and what is trained after it."""

from typing import Literal

from experiments.pretrained import layout, tables
from experiments.pretrained.layout import Imported
from experiments.pretrained.tables import Row
from experiments.pretrained.weights import Weights

Schedule = Literal["", "linear", "scaled_linear", "cosine"]

RESNET = (
    ("norm_in", "norm1"), ("hidden", "conv1"), ("modulation", "time_emb_proj"),
    ("norm_out", "norm2"), ("back", "conv2"), ("skip", "conv_shortcut"))
TABLE = (
    Row("conditioning/level_out", "time_embedding.linear_2"),
    Row("conditioning/label/kernel", "class_embedding.weight", tables.embedding),
    Row("input", "conv_in"),
    Row("norm", "conv_norm_out"),
    Row("output", "conv_out", tables.first_outputs),
    Row("down_{level}", "down_blocks.{above}.downsamplers.0.conv"),
    Row("up_{level}", "up_blocks.{from_below}.upsamplers.0.conv"),
    *tables.rows((("down_{level}_{i}", "down_blocks.{level}.resnets.{i}"),
                  ("middle_{i}", "mid_block.resnets.{i}"),
                  ("up_{level}_{i}", "up_blocks.{from_below}.resnets.{i}")), RESNET))
ATTENTIONS = (("down_{level}_{i}", "down_blocks.{level}.attentions.{i}"),
              ("middle_0", "mid_block.attentions.0"),
              ("up_{level}_{i}", "up_blocks.{from_below}.attentions.{i}"))
# Parts of names before version 0.17, and after it.
OLDER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
# What this project's U-Net has, where the config of a model says something about it.
_NEEDED = {
    "act_fn": "silu", "center_input_sample": False, "time_embedding_type": "positional",
    "mid_block_scale_factor": 1, "add_attention": True, "class_embed_type": None,
    "downsample_type": "conv", "upsample_type": "conv", "attn_norm_num_groups": None,
    "mid_block_type": "UNetMidBlock2D"}


def diffusers_unet(
    weights: Weights, *, side: int = 0, schedule: Schedule = "", prediction: str = "",
    null_label: bool = False,
) -> Imported:
  """diffusers' UNet2DModel: a directory with its config.json, or that of a pipeline.

  Args:
    side: of pictures, where the config has no sample_size.
    schedule: of β, where there is no scheduler_config.json: "linear" (of DDPM) if not given.
    prediction: eps, x0 or v, where there is no scheduler_config.json: eps if not given.
    null_label: whether the last class of the embedding means that there is no label.
  """
  layout.check(weights, "diffusers_unet")
  config = weights.config
  widths, depth = config["block_out_channels"], config.get("attention_head_dim", 8)
  for name, value in _NEEDED.items():
    if config.get(name, value) != value:
      raise ValueError(f"--weights: {name}={config.get(name)!r} in config.json; only {value!r} "
                       "can be imported")
  side = layout.needed_side(side, config, "sample_size", "diffusers_unet")
  attention = _attention(config, side)
  classes = config.get("num_class_embeds") or 0
  channels = config.get("in_channels", 3)
  layout.outputs(weights, "conv_out.weight", channels)
  if not widths or any(width % widths[0] for width in widths):
    raise ValueError(f"--weights: block_out_channels must be multiples of the first, got {widths}")
  blocks = config.get("layers_per_block", 2)
  attend = (("norm_attention", "group_norm"),
            ("qkv", ("to_q", "to_k", "to_v"), tables.qkv("3hd", depth)), ("merge", "to_out.0"))
  waves = tables.plain if config.get("flip_sin_to_cos", True) else tables.sines_first
  return Imported(
      network=layout.call(
          "unet", channels=widths[0], multipliers=tuple(w // widths[0] for w in widths),
          blocks=blocks, attention=attention, head_channels=depth,
          groups=config.get("norm_num_groups", 32), epsilon=config.get("norm_eps", 1e-5),
          scale_shift=config.get("resnet_time_scale_shift", "default") == "scale_shift",
          dropout=1.0 * config.get("dropout", 0.0),
          centred=config.get("downsample_padding", 1) == 1,
          level=layout.call("timesteps", features=widths[0], **_shift(config),
                            **training_table(weights.scheduler, schedule))),
      prediction=prediction or _prediction(weights.scheduler), older=OLDER,
      table=(Row("conditioning/level_in", "time_embedding.linear_1", waves), *TABLE,
             *tables.rows(ATTENTIONS, attend)),
      numbers=layout.unet_numbers(len(widths), blocks, side, attention),
      shape=(side, side, channels), num_classes=classes - null_label, null_label=null_label)


def _attention(config, side) -> tuple[int, ...]:
  """The sides of levels with attention."""
  down = config["down_block_types"]
  known = {"DownBlock2D": False, "AttnDownBlock2D": True}
  mirrored = [kind.replace("Up", "Down") for kind in reversed(config["up_block_types"])]
  if unknown := [kind for kind in down if kind not in known]:
    raise ValueError(f"--weights: blocks of type {unknown[0]}; only {' and '.join(known)} can be "
                     "imported")
  if list(down) != mirrored:
    raise ValueError(f"--weights: up_block_types {config['up_block_types']} must mirror "
                     f"down_block_types {down}")
  return tuple(side >> level for level, kind in enumerate(down) if known[kind])


def _shift(config) -> dict[str, bool]:
  if (shift := config.get("freq_shift", 0)) not in (0, 1):
    raise ValueError(f"--weights: freq_shift must be 0 or 1, got {shift}")
  return {"endpoint": shift == 1}


def training_table(scheduler, schedule) -> dict:
  """Arguments of `timesteps` by a scheduler's config."""
  kind = scheduler.get("beta_schedule", "linear")
  if scheduler.get("trained_betas") is not None or kind not in _SCHEDULES:
    raise ValueError(f"--weights: of β, {', '.join(_SCHEDULES)} can be imported, got {kind} or "
                     "trained_betas")
  return {"schedule": schedule or _SCHEDULES[kind],
          "steps": scheduler.get("num_train_timesteps", 1000),
          "beta_min": scheduler.get("beta_start", 1e-4),
          "beta_max": scheduler.get("beta_end", 0.02),
          "zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr", False))}


def _prediction(scheduler) -> str:
  kind = scheduler.get("prediction_type", "epsilon")
  if kind not in _PREDICTIONS:
    raise ValueError(f"--weights: prediction_type must be one of {', '.join(_PREDICTIONS)}, got "
                     f"{kind!r}")
  return _PREDICTIONS[kind]
