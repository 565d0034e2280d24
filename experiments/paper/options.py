"""The flags of the report, shared by every program that measures."""

import pathlib

from absl import flags

from experiments.config import cli
from experiments.paper import record, setting
from experiments.paper.exact import densities

flags.disclaim_key_flags()  # those of `define` are in the --help of the program that calls it


def define(*, out: str = "runs/paper") -> None:
  flags.DEFINE_string("out", out, "Directory of the report.")
  flags.DEFINE_bool("until_stdin_closes", False, "End when standard input is closed, as it is when "
                    "the program that started this one has ended.")
  flags.DEFINE_bool("fast", False, "Small sizes: about 3 minutes, with wider error bars.")
  flags.DEFINE_integer("seed", 0, "Seed of random numbers.", lower_bound=0, upper_bound=2**31 - 1)
  flags.DEFINE_string(
      "density", "three_modes", f"What is modelled: {', '.join(densities.NAMED)}, or a .json or "
      ".npz file with weights (K,), means (K, d), covariances (K, d, d) of a mixture, d 1 or 2; it "
      "is moved to mean 0 and scaled to variance 1.")
  flags.DEFINE_string("workdir", "", "A trained run of yours: at which noise levels its network "
                      "breaks duality. The report's own run if not given.")


def given() -> setting.Setting:
  """The options of the command line, with absolute paths or paths from the root.

  Raises:
    ValueError: --config is given, which belongs to training.
  """
  cli.refuse_config()
  values = flags.FLAGS
  density = values.density
  if density not in densities.NAMED and pathlib.Path(density).is_file():
    density = str(pathlib.Path(density).absolute())
  workdir = record.from_root(values.workdir) if values.workdir else ""
  return setting.Setting(
      pathlib.Path(values.out).absolute(), values.fast, values.seed, density, workdir)
