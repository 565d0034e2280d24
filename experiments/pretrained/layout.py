"""What a layout says of weights: the network they are of, and what it was trained with."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.pretrained.tables import Numbers, Row
from experiments.pretrained.weights import Weights

# Of [−1, 1] in the units of pictures, 0 … 255.
HALF_RANGE = 127.5
# The pattern (fnmatch) of a layer that only the weights of a layout have.
MARKS = {
    "diffusers_unet": "down_blocks.0.resnets.0.conv1.*",
    "edm": "enc.[0-9]*x[0-9]*_conv.*",
    "adm": "input_blocks.1.0.in_layers.0.*",
    "diffusers_dit": "transformer_blocks.0.attn1.to_q.*",
    "autoencoder_kl": "encoder.down_blocks.0.resnets.0.conv1.*",
    "dit or sit": "blocks.0.adaLN_modulation.1.*",
}


class Imported(NamedTuple):
  """A network as this project has it.

  Attributes:
    network: the call of config.network. prediction: of config.objective.prediction; "" of an
      autoencoder.
    table, numbers, ignored: of `tables.fill`. older: parts of names in older files → in the table.
    shape: of one example.
    num_classes: of labels, without the one for no label.
    null_label: whether it was trained without labels, too.
    mean, scale: x = mean + scale z, x in the units of samples and z in those of the network.
    deviation: of the data in the network's units, about.
  """

  network: str
  prediction: str
  table: Sequence[Row]
  shape: tuple[int, ...]
  num_classes: int = 0
  null_label: bool = False
  numbers: Numbers = lambda found: found
  ignored: Sequence[str] = ()
  older: Mapping[str, str] = {}
  mean: float = HALF_RANGE
  scale: float = HALF_RANGE
  deviation: float = 0.5


def looks_like(weights: Weights) -> str:
  """The name of the layout whose mark the weights have; "" of none."""
  return next((name for name, mark in MARKS.items()
               if fnmatch.filter(weights.tensors, mark)), "")


def check(weights: Weights, name: str) -> None:
  """Raises ValueError where the weights are of another layout."""
  seen = looks_like(weights)
  if name not in seen.split(" or "):
    mark = next(mark for names, mark in MARKS.items() if name in names.split(" or "))
    looks = f"it looks like {seen}" if seen else (
        f"it has no {mark}, but {', '.join(list(weights.tensors)[:3])}, …")
    raise ValueError(f"--weights={weights.place} has not the names of {name}: {looks}")


def outputs(weights: Weights, name: str, channels: int) -> None:
  """Raises ValueError unless a tensor has as many outputs as channels, or a variance besides."""
  if (found := len(weights.tensors[name])) not in (channels, 2 * channels):
    raise ValueError(f"{name} has {found} outputs, which are neither {channels} channels nor these "
                     "and their variances")


def call(name: str, **arguments: Any) -> str:
  """A call of a config as text; calls among the arguments are texts that begin with their name."""
  inner = lambda key, value: value if key == "level" else repr(value)
  return f"{name}({', '.join(f'{key}={inner(key, value)}' for key, value in arguments.items())})"


def unet_numbers(levels: int, blocks: int, side: int, attention: Sequence[int]) -> Numbers:
  """What names of U-Nets count by: levels from below, sides, and blocks in one sequence."""
  def numbers(found: dict[str, int]) -> dict[str, int]:
    level, i = found.get("level", 0), found.get("i", 0)
    from_below = levels - 1 - level
    return found | {
        "above": level - 1, "from_below": from_below, "side": side >> level,
        "side_above": side >> max(level - 1, 0), "first": level * (blocks + 1),
        "down": level * (blocks + 1) + 1 + i, "up": from_below * (blocks + 1) + i,
        "last": from_below * (blocks + 1) + blocks,
        "after": 2 if side >> level in attention else 1}

  return numbers


def needed_side(side: int, config: Mapping[str, Any], key: str, name: str) -> int:
  """The side of pictures: an argument of the layout, or of the config beside the weights."""
  side = side or config.get(key) or 0
  if not isinstance(side, int) or side < 1:
    raise ValueError(f"the weights, or {key} in their config.json, do not say of which size "
                     f"pictures are: --layout='{name}(side=…)'")
  return side
