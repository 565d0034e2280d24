"""The command line: absl flags, `--config.a.b=…` overrides, and one line for bad input."""

import pathlib
import sys
from collections.abc import Callable

from absl import app, flags, logging

from experiments import config as config_lib

_CONFIG = flags.DEFINE_string(
    "config", "", "Python file with get_config(), such as experiments/configs/digits.py. Its "
    "fields are overridden as --config.training.steps=100; with their defaults they are: "
    + ", ".join(f"{name}={value}" for name, value in config_lib.flatten(config_lib.Config())) + ".")

_overrides: dict[str, str] = {}


def run(main: Callable[[], int | None]) -> None:
  """Parses the command line and runs `main`.

  A ValueError or OSError, which is how this project answers bad input, ends the program with one
  line on stderr and exit code 2; `--verbosity=1` shows where it came from.
  """
  app.run(lambda _: sys.exit(_answered(main)), flags_parser=_parse)


def config() -> config_lib.Config:
  """The config of `--config`, with its overrides.

  Raises:
    ValueError: no `--config`, a bad file, field or value.
  """
  if not _CONFIG.value:
    raise ValueError("--config is required, such as --config=experiments/configs/digits.py")
  return config_lib.override(config_lib.load(_CONFIG.value), _overrides)


def refuse_config() -> None:
  """For programs that take a trained run as it is. Raises ValueError where a config is given."""
  if _CONFIG.value or _overrides:
    raise ValueError("--config belongs to experiments.train; a run's own is used, and --path, "
                     "--sampler, --steps, --stochasticity … choose another way to sample")


def workdir(value: str) -> pathlib.Path:
  """The directory of `--workdir`. Raises ValueError where it is not given."""
  if not value:
    raise ValueError("--workdir is required, such as --workdir=runs/digits")
  return pathlib.Path(value)


def _parse(argv: list[str]) -> list[str]:
  """absl's parser, after taking out `--config.x=y` and `--config.x y`."""
  rest, arguments = argv[:1], iter(argv[1:])
  for argument in arguments:
    name, equals, value = argument.lstrip("-").partition("=")
    if argument.startswith("-") and name.startswith("config."):
      _overrides[name.removeprefix("config.")] = value if equals else next(arguments, "")
    else:
      rest.append(argument)
  try:
    rest = flags.FLAGS(rest)
    if len(rest) > 1:
      raise flags.Error(f"unexpected argument {rest[1]!r}: options start with --")
  except flags.Error as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  return rest


def _answered(main: Callable[[], int | None]) -> int:
  # Libraries log their own inner workings, tracebacks of worker threads included; what a user
  # should know is printed by this project.
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.FATAL)
  try:
    return main() or 0
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return 130
  except (ValueError, OSError, FloatingPointError) as error:
    logging.debug("where it came from", exc_info=True)
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
