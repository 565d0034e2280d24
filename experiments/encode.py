"""Encodes data into the latents of a trained autoencoder, in ArrayRecord shards.

  python -m experiments.train --config=autoencoder --config.data.path=my/folder --workdir=runs/ae
  python -m experiments.encode --workdir=runs/ae --out=shards/latents
  python -m experiments.train --config=… --config.data="array_record(path='shards/latents')" \\
      --workdir=runs/latent

Means and standard deviations of the posteriors are stored; training draws from them. The
autoencoder is stored beside them and in every run on them, so that `sample` and `evaluate` of such
a run decode. The mean and scale of latents are measured. Without --data and --path, the data are
those of the autoencoder's run.
"""

import numpy as np
from absl import flags

from experiments import array_records
from experiments.config import calls, cli
from experiments.data import codecs
from experiments.run import assembly, model, records

flags.adopt_module_key_flags(array_records)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained autoencoder.")


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = records.read_config(workdir)
  assembly.configure_jax(config)
  given = flags.FLAGS["data"].value or flags.FLAGS["path"].value or cli.arguments("data")
  return array_records.write(array_records.data_call if given else lambda: config.data,
                             autoencoder(model.load(workdir)))


def autoencoder(loaded: model.Model) -> codecs.Codec:
  """The codec of a run. Raises ValueError if it is no autoencoder."""
  config, dataset = loaded.run.config, loaded.run.dataset
  if config.objective.autoencoder is None:
    raise ValueError("--workdir: this run is no autoencoder; one is trained with "
                     "config.objective.autoencoder, such as reconstruction()")
  return codecs.Codec(
      calls.to_plain(config.network), loaded.shape, np.asarray(dataset.mean),
      np.asarray(dataset.scale), dataset.kind, dataset.value_range, dataset.integers,
      loaded.params)


if __name__ == "__main__":
  cli.run(main)
