"""Writes data into ArrayRecord shards, for training on more than fits in memory.

  python -m experiments.array_records --path=my/folder --size=64 --out=shards/mine
  python -m experiments.array_records --path=latents.npy --labels=labels.npy --shards=64 --out=…
  python -m experiments.train --config=… --config.data.name=array_record
      --config.data.path=shards/mine --workdir=…

A folder of pictures and a .npy are gone through block by block and may be larger than memory; an
.npz is read whole. --name takes the other data sets of experiments/data/dataset.py, too.
"""

import os
import re

from absl import flags

from experiments.config import cli
from experiments.data import shard_writer, shards, sources
from experiments.run import progress, records

_NAME = flags.DEFINE_string(
    "name", "", "As data.name of a config: arrays, images, fashion_mnist, digits, mixture2d or "
    "toy2d. If not given, images where --path is a directory, else arrays.")
_PATH = flags.DEFINE_string("path", "", "A .npy or .npz of examples, or a directory.")
_LABELS = flags.DEFINE_string("labels", "", "A .npy of class numbers beside an array file.")
_SIZE = flags.DEFINE_integer("size", 0, "Pictures are cropped to a square of this; 0 keeps them.")
_CHANNELS = flags.DEFINE_integer("channels", 3, "Of pictures: 1, 3 or 4.")
_TOY = flags.DEFINE_string("toy", "moons", "Of --name=toy2d, as data.toy of a config.")
_HOLDOUT = flags.DEFINE_float("holdout", 0.2, "Fraction that is held out.")
_KIND = flags.DEFINE_string(
    "kind", "", "As data.kind of a config, of an array file: image, vector, sequence or array, "
    "which is neither clipped nor drawn. If not given, files tell, but for (n, a, b) of no grey "
    "levels.")
_SCALING = flags.DEFINE_string(
    "scaling", "", "As data.scaling of a config: one, features or whiten.")
_DTYPE = flags.DEFINE_string(
    "dtype", "", f"How values are stored: {', '.join(shards.DTYPES)}. If not given, as they are "
    "if so they can be, else as uint8 (integers of images in 0 … 255) or float32.")
_SHARDS = flags.DEFINE_integer("shards", 8, "Files of the training examples.")
_OUT = flags.DEFINE_string("out", "", "The new directory.")


def main() -> int:
  try:
    cli.refuse_config()
  except ValueError:
    raise ValueError("--config belongs to experiments.train: name the data by --path, --name, "
                     "--size …") from None
  if not _OUT.value:
    raise ValueError("--out is required: the new directory of shards")
  if not _NAME.value and not _PATH.value:
    raise ValueError("--path is required: a .npy or .npz of examples, or a directory of pictures")
  out = cli.place("--out", _OUT.value)
  records.check_not_owned([out], (_PATH.value, _LABELS.value))
  name = _NAME.value or ("images" if os.path.isdir(os.path.expanduser(_PATH.value)) else "arrays")
  try:
    source = sources.load(
        name, path=_PATH.value, labels=_LABELS.value, size=_SIZE.value, channels=_CHANNELS.value,
        toy=_TOY.value, holdout=_HOLDOUT.value, kind=_KIND.value)
    if _KIND.value not in ("", source.kind):
      raise ValueError(f"--kind: the data are of kind {source.kind!r}; got {_KIND.value!r}")
    with progress.bar(len(source.x), 0, "writing") as bar:
      facts = shard_writer.write(
          source, out, num_shards=_SHARDS.value, dtype=_DTYPE.value, scaling=_SCALING.value,
          progress=bar)
  except ValueError as error:
    # The fields of a config are flags here.
    fields = r"\bdata\.(name|path|labels|size|channels|toy|holdout|kind|scaling)\b"
    raise ValueError(re.sub(fields, r"--\1", str(error))) from error
  labels = f", {facts.num_classes} classes" if facts.num_classes else ""
  print(f"{_OUT.value}: {facts.examples[0]} training and {facts.examples[1]} held-out examples "
        f"{facts.shape} {facts.dtype}, kind {facts.kind}{labels}, in {sum(facts.shards)} shards; "
        f"sha256 {facts.sha256[:16]}")
  return 0


if __name__ == "__main__":
  cli.run(main)
