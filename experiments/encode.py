"""Encodes data into the latents of a trained autoencoder, in ArrayRecord shards.

  python -m experiments.train --config=autoencoder --config.data.path=my/folder --workdir=runs/ae
  python -m experiments.encode --workdir=runs/ae --out=shards/latents
  python -m experiments.train --config=… --config.data="array_record(path='shards/latents')" \\
      --workdir=runs/latent

Means and standard deviations of the posteriors are stored; training draws from them. The
autoencoder is stored beside them and in every run on them, so that `sample` and `evaluate` of such
a run decode. The mean and scale of latents are measured; rescaled(…) in --data gives them, for a
network that was trained elsewhere. Without --data and --path, the data are those of the
autoencoder's run.
"""

from absl import flags

from experiments import array_records
from experiments.config import cli
from experiments.run import assembly, model, records

flags.adopt_module_key_flags(array_records)
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of a trained autoencoder.")


def main() -> int:
  workdir = cli.workdir(_WORKDIR.value)
  config = records.read_config(workdir)
  assembly.configure_jax(config)
  given = flags.FLAGS["data"].value or flags.FLAGS["path"].value or cli.arguments("data")
  # Units in the autoencoder's own data are those of its pictures.
  return array_records.write(array_records.data_call if given else lambda: config.data,
                             model.load(workdir).codec(), units=bool(given))


if __name__ == "__main__":
  cli.run(main)
