"""The command line: absl flags, `--config.a.b=…` overrides, and one line for bad input."""

import contextlib
import difflib
import functools
import os
import pathlib
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from experiments import config as config_lib
from experiments.config import calls
from experiments.run import buckets, files, records, signals

_CONFIG = flags.DEFINE_string(
    "config", "", "Python file with get_config(), or the name of a shipped one, such as digits. "
    "Its fields are overridden as --config.training.steps=100, its calls as "
    "--config.network='dit(width=96)' or --config.network.width=96.")

# Flags that are calls, and may be given argument by argument.
_CALLS = ("config", "data", "path", "sampler", "grid", "guidance", "inpainting")
_overrides: dict[str, str] = {}
_arguments: dict[str, dict[str, str]] = {}
# Settings that memory grows with, and what is usual of flags that have no default.
_SIZES = (
    "data.train_size", "data.test_size", "data.size", "network.width", "network.depth",
    "training.batch_size", "training.steps_per_dispatch", "sampling.batch_size", "sampling.grid.n",
    "evaluation.num_samples")
_USUAL = 1000


def run(main: Callable[[], int | None], *, at_once: bool = False) -> None:
  """Parses the command line and runs `main`.

  Ctrl-C raises KeyboardInterrupt in it; with `at_once`, for programs that leave nothing to be put
  in order, it ends the process, which no callback of a library can swallow.

  A ValueError or OSError, which is how this project answers bad input, ends the program with one
  line on stderr and exit code 2, and so does what has no room in memory; `--verbosity=1` shows
  where it came from.
  """
  _open_streams()
  told = functools.cache(_complain)  # the same warning of another trace says nothing new
  warnings.showwarning = lambda message, *_: told(f"warning: {message}")
  if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL if at_once else signal.default_int_handler)
  code = 1
  try:
    app.run(lambda _: sys.exit(_answered(main)), flags_parser=_parse)
  except SystemExit as end:
    code = end.code
  except BaseException:
    traceback.print_exc()
  finally:
    _leave(code)


def _open_streams() -> None:
  """Makes the standard streams safe to write to, whatever they are connected to.

  A closed one leads nowhere; otherwise the next file that is opened would take its number, and with
  it all that is printed. Characters that an encoding lacks are escaped.
  """
  for number, name in enumerate(("stdin", "stdout", "stderr")):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    stream = getattr(sys, name)
    if stream is None:
      stream = open(  # noqa: SIM115
          number, "w" if number else "r", encoding="utf-8", closefd=False)
      setattr(sys, name, stream)
    if number and hasattr(stream, "reconfigure"):
      stream.reconfigure(errors="backslashreplace")


def _leave(code: Any) -> NoReturn:
  """Ends the process; after an error, or a signal that asks a training to stop, at once.

  Threads of Orbax wait for minutes for what a failed save will not bring, and the orderly end of an
  interpreter waits for them, and for programs on its devices. It also takes a second of computing
  to take down what was imported. All files are written so that a kill does no harm.
  """
  code = code if isinstance(code, int) else int(code is not None)
  for stream in (sys.stdout, sys.stderr):
    try:
      stream.flush()
    except (OSError, ValueError):  # nobody reads it any longer
      code = code or 1
  if code or signals.stopped():
    os._exit(code)
  sys.exit()


def config(workdir: pathlib.Path | None = None) -> config_lib.Config:
  """The config of `--config`, or of the run in `workdir` without one, with its overrides.

  Raises:
    ValueError: no `--config`, a bad file, field or value.
  """
  if _CONFIG.value:
    return config_lib.override(config_lib.load(_CONFIG.value), _overrides)
  if workdir is not None and (workdir / "config.json").is_file():
    return config_lib.override(records.read_config(workdir), _overrides)
  raise ValueError("--config is required, such as --config=experiments/configs/digits.py"
                   + ("" if workdir is None else f"; {workdir} holds no run to continue"))


def arguments(flag: str) -> dict[str, str]:
  """What was given as `--flag.argument=value`: arguments of the call that the flag names."""
  return _arguments.get(flag, {})


def refuse_config() -> None:
  """For programs that take a trained run as it is. Raises ValueError where a config is given."""
  if _CONFIG.value or _overrides:
    raise ValueError("--config belongs to experiments.train; a run's own is used, and --path, "
                     "--sampler, --steps, --stochasticity … choose another way to sample")


def workdir(value: str) -> pathlib.Path:
  """The directory of `--workdir`. Raises ValueError where it is not given."""
  if not value:
    raise ValueError("--workdir is required, such as --workdir=runs/digits")
  return place("--workdir", value)


def place(flag: str, value: str) -> pathlib.Path:
  """The path that a flag names, in a bucket or on a disk; raises ValueError as `files.path`."""
  return files.path(flag, value)


def out(
    value: str | pathlib.Path, written: Callable[[Any], bool], *, suffix: str = "",
    beside: Sequence[str] = (), inputs: Sequence[str | pathlib.Path] = (), unfinished: bool = False,
) -> pathlib.Path:
  """The file of `--out`, in a directory that is made, once it is known that nothing is lost by it.

  What is there already may be replaced where an earlier run of the same command has written it.

  Args:
    written: whether a JSON value is what the command writes: to the file itself, or to the .json
      beside one whose `suffix` is another.
    suffix: that the file must have; any if not given.
    beside: suffixes, or names, of what is written along with it.
    inputs: files and directories that the command reads.
    unfinished: what is there is of a command like this one, which was killed.

  Raises:
    ValueError: another suffix, a directory, or a file that the command has not written; a place
      within a run's own directories or those of `inputs`.
    OSError: the directory cannot be made or written.
  """
  file = place("--out", str(value))
  if suffix and file.suffix != suffix:
    raise ValueError(f"--out must end in {suffix}, got {file}")
  if file.is_dir():
    raise ValueError(f"--out must be a file, {file} is a directory")
  record = file.with_suffix(".json") if suffix else file
  named = [file, record, *(file.with_suffix(end) if end.startswith(".") else file.with_name(end)
                           for end in beside)]
  records.check_not_owned(named, inputs)
  there = [one for one in named if not files.is_empty(one)]
  if there and not unfinished and not records.wrote(record, written):
    raise ValueError(f"--out {file} would replace {there[0]}, which this command has not written; "
                     "choose another --out, or delete it")
  records.make_directory(file.parent, "--out")
  if not buckets.is_bucket(file) and not os.access(file.parent, os.W_OK):
    raise OSError(f"--out {file}: {file.parent} cannot be written")
  return file


def _parse(argv: list[str]) -> list[str]:
  """absl's parser, after taking out `--config.x=y`, `--sampler.x=y` and `--help=name`."""
  rest, given = argv[:1], iter(argv[1:])
  for argument in argv:
    if not _is_text(argument):
      print(f"error: {argument!r} is no text in UTF-8: rename what it names", file=sys.stderr)
      sys.exit(2)
  for argument in given:
    name, equals, value = argument.lstrip("-").partition("=")
    head, dot, field = name.partition(".")
    if argument.startswith("-") and dot and head in _CALLS and head in flags.FLAGS:
      place = _overrides if head == "config" else _arguments.setdefault(head, {})
      place[field] = value if equals else next(given, "")
    elif argument.startswith("--help") and name == "help":
      _help(value)
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


def _help(name: str) -> NoReturn:
  """Prints the flags and the calls, or all about one call, and ends the process."""
  if name:
    text = calls.help_text(name)
    if not text:
      near = difflib.get_close_matches(name, calls.names(), n=1)
      hint = f" (did you mean {near[0]}?)" if near else ""
      print(f"error: no call is named {name!r}{hint}; --help lists them", file=sys.stderr)
      sys.exit(2)
  else:
    text = "\n".join((
        sys.modules["__main__"].__doc__ or "", flags.FLAGS.main_module_help(), "",
        "Choices are calls. --help=NAME says all about one of them.", calls.help_text()))
  with contextlib.suppress(BrokenPipeError):  # of `--help | head`
    print(text, flush=True)
  sys.exit(0)


def _is_text(argument: str) -> bool:
  """Whether it was valid UTF-8; Python passes other bytes on as lone surrogates."""
  return not any("\ud800" <= character <= "\udfff" for character in argument)


def _answered(main: Callable[[], int | None]) -> int:
  # Libraries log their own inner workings, tracebacks of worker threads included; what a user
  # should know is printed by this project.
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.FATAL)
  try:
    return main() or 0
  except KeyboardInterrupt:
    _complain("interrupted")
    return 130
  except (ValueError, OSError, FloatingPointError, MemoryError, OverflowError,
          jax.errors.JaxRuntimeError) as error:
    logging.debug("where it came from", exc_info=True)
    _complain(f"error: {_line(error)}")
    return 2
  except Exception as error:
    if not buckets.explained(error):
      raise
    _complain(f"error: {buckets.explained(error)}")
    return 2


def _complain(line: str) -> None:
  with contextlib.suppress(OSError):  # nobody listens any longer, as in `train 2>&1 | head`
    print(line, file=sys.stderr, flush=True)


def _line(error: Exception) -> str:
  """What a user is told of an error, in one line; of one that is no answer to bad input, raises it.
  """
  said = buckets.explained(error) or " ".join(str(error).split())
  if isinstance(error, (ValueError, OSError, FloatingPointError)):
    return said
  if isinstance(error, jax.errors.JaxRuntimeError) and not any(
      words in said for words in ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")):
    raise error
  what = "too large a number" if isinstance(error, OverflowError) else "out of memory"
  return f"{what} ({said[:200] or type(error).__name__}); the largest setting is {_largest()}"


def _largest() -> str:
  """The setting that memory grows with that is largest beside its default."""
  settings = {f"--{flag.name}": (flag.value, flag.default or _USUAL)
              for flag in map(flags.FLAGS.__getitem__, flags.FLAGS)
              if flag.present and type(flag.value) is int and flag.name != "seed"}
  defaults = dict(config_lib.flatten(config_lib.Config()))
  values = dict(config_lib.flatten(_config_in_use()))
  settings |= {f"config.{name}": (values[name], defaults.get(name) or _USUAL)
               for name in _SIZES if type(values.get(name)) is int and values[name]}
  name = max(settings, key=lambda name: settings[name][0] / settings[name][1])
  return f"{name}={settings[name][0]}"


def _config_in_use() -> config_lib.Config:
  """That of the command line, or of the run in --workdir; the default where there is neither."""
  try:
    if _CONFIG.value:
      return config()
    file = workdir(flags.FLAGS["workdir"].value) / "config.json"
    return config_lib.from_json(file.read_text(encoding="utf-8"))
  except (KeyError, TypeError, ValueError, OSError):
    return config_lib.Config()
