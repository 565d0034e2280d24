"""Autoencoders as units: samples of a model of latents are in the units of what they stand for.

`experiments.encode` writes latents into shards, and beside them autoencoder.json and
autoencoder.safetensors. A run on these shards keeps copies in its workdir. In standard units an
example is a latent z; in the user's units it is decode(mean + A z).
"""

import functools
import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.flax
from flax import traverse_util

from experiments.data import readers, standardize
from experiments.run import meshes, records

FACTS, PARAMETERS = "autoencoder.json", "autoencoder.safetensors"
# The numbers of one batch of examples that are encoded or decoded together.
_BATCH_NUMBERS = 2**22


class Codec(NamedTuple):
  """A trained autoencoder, with the facts of the examples that it encodes.

  network: its call, as a config has it. shape: of one example. mean, scale: its standard units
  (`standardize`). kind, value_range, integers: as in `Dataset`. params: of the network.
  """

  network: dict[str, Any]
  shape: tuple[int, ...]
  mean: np.ndarray
  scale: np.ndarray
  kind: str
  value_range: tuple[float, float] | None
  integers: bool
  params: Any

  @property
  def latent_shape(self) -> tuple[int, ...]:
    """Of one latent."""
    encode, _ = _programs(json.dumps(self.network), self.shape)
    x = jax.ShapeDtypeStruct((1, *self.shape), np.float32)
    return jax.eval_shape(encode, self.params, x).mean.shape[1:]

  def encode(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(means, standard deviations) of the posteriors, each (n, *latent_shape) float32.

    Args:
      x: examples (n, *shape) in their units.
    """
    program, _ = _programs(json.dumps(self.network), self.shape)
    posterior = self._batches(program, standardize.standardise(x, self.mean, self.scale))
    return posterior.mean, np.exp(posterior.log_std)

  def decode(self, z: np.ndarray) -> np.ndarray:
    """The examples (n, *shape), in their units, of latents z (n, *latent_shape)."""
    _, program = _programs(json.dumps(self.network), self.shape)
    return standardize.restore(self._batches(program, z), self.mean, self.scale)

  def _batches(self, program, x):
    """`program` of batches of x; the last is padded, so that all share one compiled program."""
    size = min(max(len(x), 1), max(1, _BATCH_NUMBERS // math.prod(self.shape)))
    parts = []
    for first in range(0, max(len(x), 1), size):
      part = x[first:first + size]
      count = len(part)
      padded = np.zeros((size, *x.shape[1:]), np.float32)
      padded[:count] = part
      parts.append(jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count],
                                program(self.params, padded)))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@functools.lru_cache(maxsize=4)
def _programs(network: str, shape: tuple[int, ...]) -> tuple[Any, Any]:
  """The compiled (params, x) → posterior, and (params, z) → x, of a network's call as JSON."""
  from experiments.config import build, calls  # which import the calls of data
  call = calls.make(json.loads(network), "network", "config.network")
  apply = build.network(call, shape, 0).apply
  options = meshes.own_convolutions(jax.default_backend())
  return tuple(jax.jit(functools.partial(lambda how, params, x: apply(params, x, how), how),
                       compiler_options=options) for how in ("encode", "decode"))


def write(codec: Codec, directory: pathlib.Path) -> None:
  """Writes the two files of an autoencoder."""
  with records.written(directory / PARAMETERS) as stream:
    stream.write(safetensors.flax.save(traverse_util.flatten_dict(codec.params, sep="/")))
  facts = codec._asdict() | {"mean": np.asarray(codec.mean).tolist(),
                             "scale": np.asarray(codec.scale).tolist()}
  del facts["params"]
  records.write_text(directory / FACTS, json.dumps(facts, indent=1) + "\n")


def read(directory: pathlib.Path) -> Codec:
  """The autoencoder that `write` wrote. Raises ValueError if a file is missing or damaged."""
  facts = records.read_json(directory / FACTS, network=dict, shape=list, kind=str, integers=bool)
  file = directory / PARAMETERS
  try:
    params = safetensors.flax.load(file.read_bytes())
    return Codec(
        facts["network"], tuple(facts["shape"]), np.asarray(facts["mean"]),
        np.asarray(facts["scale"]), facts["kind"],
        facts["value_range"] and tuple(facts["value_range"]), facts["integers"],
        traverse_util.unflatten_dict(params, sep="/"))
  except Exception as error:  # of the disk, safetensors, or JSON of another content
    raise ValueError(f"{file} or {FACTS} beside it is missing or damaged: "
                     f"{readers.one_line(error)}") from error
