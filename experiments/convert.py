"""Makes a run of public weights, which is sampled, judged and trained further like any other.

  python -m experiments.convert --weights=ddpm-cifar10-32 --workdir=runs/ddpm
  python -m experiments.convert --weights=edm.pt --layout="edm(sigma_data=0.5)" --workdir=runs/edm
  python -m experiments.sample --workdir=runs/ddpm --path=rectified_flow --sampler=heun --steps=20

The workdir's config holds what the network was trained with: its noise schedule, what it predicts,
the scale of its data, its labels. With --data, likelihoods and certificates of these data can be
had, and training goes on with `python -m experiments.train --workdir=runs/ddpm`. No weights are
downloaded, and no code in them is run.
"""

from absl import flags

from experiments.config import calls, cli
from experiments.pretrained import imported
from experiments.run import assembly, model

_WEIGHTS = flags.DEFINE_string(
    "weights", "", "A .safetensors, .npz or .pt file of a state dict, or the directory of a model "
    "or pipeline of diffusers.")
_LAYOUT = flags.DEFINE_string(
    "layout", "", "Whose names the weights have, as a call such as edm(sigma_data=0.5); what they "
    "look like if not given. --help=edm says all about one.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the new run.")
_DATA = flags.DEFINE_string(
    "data", "", "The data that the network knows, a call as in a config, such as "
    "images(path='my/folder', size=32); none if not given.")

_AUTOENCODER = flags.DEFINE_string(
    "autoencoder", "", "The workdir of the autoencoder of a network of latents, which decodes its "
    "samples; samples are latents if not given.")


def main() -> int:
  cli.refuse_config()
  workdir = cli.workdir(_WORKDIR.value)
  if not _WEIGHTS.value:
    raise ValueError("--weights is required: a file of weights, or a directory of diffusers")
  place = cli.place("--weights", _WEIGHTS.value)
  if (workdir / "config.json").exists():
    raise ValueError(f"--workdir {workdir} holds a run already; choose another")
  assembly.keep_compiled()
  network, weights = imported.read(place, _LAYOUT.value)
  codec = model.load(cli.workdir(_AUTOENCODER.value)).codec() if _AUTOENCODER.value else None
  config, run = imported.run(network, data_call(), codec)
  source = imported.fill(run, network, weights)
  imported.write(workdir, config, assembly.alone(run), source)
  use = f"predicting {network.prediction}" if network.prediction else "an autoencoder"
  classes = f", {network.num_classes} classes" if network.num_classes else ""
  print(f"{workdir}: {imported.count(source):,} parameters of {place}, examples of shape "
        f"{network.shape}{classes}, {use}")
  return 0


def data_call() -> calls.Call | None:
  """The call of --data and --data.argument=…; None without it."""
  if not _DATA.value:
    return None
  call = calls.make(_DATA.value, "data", "--data")
  for argument, value in cli.arguments("data").items():
    call = calls.replace(call, argument.split("."), value, "data", "--data")
  return call


if __name__ == "__main__":
  cli.run(main, at_once=True)
