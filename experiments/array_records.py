"""Writes data into ArrayRecord shards, for training on more than fits in memory.

  python -m experiments.array_records --path=my/folder --data.size=64 --out=shards/mine
  python -m experiments.array_records --data="arrays('latents.npy', labels='labels.npy')" \\
      --shards=64 --out=…
  python -m experiments.train --config=… --config.data="array_record(path='shards/mine')" \\
      --workdir=…

A folder of pictures or a .npy is read block by block and may be larger than memory. An .npz is read
at once.
"""

import os
from collections.abc import Callable

from absl import flags

from experiments import config as config_lib
from experiments.config import calls, cli
from experiments.data import codecs, dataset, shard_writer, shards, splits
from experiments.run import progress, records

_DATA = flags.DEFINE_string(
    "data", "", "The data, a call as in a config: arrays, images, fashion_mnist, digits, "
    "mixture2d or toy2d; --data.size=64 sets one argument. If not given, images where --path is a "
    "directory, else arrays.")
_PATH = flags.DEFINE_string("path", "", "A .npy or .npz of examples, or a directory: --data.path.")
_DTYPE = flags.DEFINE_string(
    "dtype", "", f"How values are stored: {', '.join(shards.DTYPES)}. If not given, the "
    "dtype of the data if it is one of them, else uint8 (integer images in 0 … 255) or float32.")
_SHARDS = flags.DEFINE_integer("shards", 8, "Number of files for the training examples.")
_OUT = flags.DEFINE_string("out", "", "The new directory, or gs://bucket/folder.")


def main() -> int:
  return write(data_call)


def write(
    call_of_flags: Callable[[], config_lib.Call], codec: codecs.Codec | None = None, *,
    units: bool = True,
) -> int:
  """Writes the data of a call into the shards of the flags; with `codec`, as its latents.

  Args:
    units: whether units of the call count, as those of what is written.
  """
  try:
    cli.refuse_config()
  except ValueError:
    raise ValueError("--config belongs to experiments.train: name the data by --path or --data"
                     ) from None
  if not _OUT.value:
    raise ValueError("--out is required: the new directory of shards")
  call = call_of_flags()
  out = cli.place("--out", _OUT.value)
  records.check_not_owned([out], dataset.files(call))
  if call.name == "array_record":
    raise ValueError("--data: array_record is what is written here; name the data that go in")
  source = dataset.read_source(call, "--data")
  if not isinstance(source, splits.Source):
    raise ValueError(f"--data: {call.name} is no source of examples that could be written")
  if source.kind == "tokens":
    raise ValueError("--data: shards are of numbers; tokens are read into memory as they are")
  if source.augmentation is not None:
    raise ValueError("--data: augmented is for training: write the data that are in it, and train "
                     "on augmented(array_record(…))")
  if codec is not None:
    source = shard_writer.latents(source if units else source._replace(units=None), codec)
  with progress.bar(len(source.x), 0, "writing") as bar:
    facts = shard_writer.write(
        source, out, num_shards=_SHARDS.value, dtype=_DTYPE.value, scaling=call["scaling"],
        codec=codec, progress=bar)
  labels = f", {facts.num_classes} classes" if facts.num_classes else ""
  print(f"{_OUT.value}: {facts.examples[0]} training and {facts.examples[1]} held-out examples "
        f"{facts.shape} {facts.dtype}, kind {facts.kind}{labels}, in {sum(facts.shards)} shards; "
        f"sha256 {facts.sha256[:16]}")
  return 0


def data_call() -> config_lib.Call:
  """The call of data of the flags. Raises ValueError if they name none."""
  name = _DATA.value or ("images" if os.path.isdir(os.path.expanduser(_PATH.value)) else "arrays")
  arguments = cli.arguments("data") | ({"path": _PATH.value} if _PATH.value else {})
  if "(" not in name:
    if not _DATA.value and "path" not in arguments:
      raise ValueError("--path is required: a .npy or .npz of examples, or a directory of pictures")
    return calls.make(config_lib.Call(name, tuple(arguments.items())), "data", "--data")
  call = calls.make(name, "data", "--data")
  for argument, value in arguments.items():
    call = calls.replace(call, argument.split("."), value, "data", "--data")
  return call


if __name__ == "__main__":
  cli.run(main)
