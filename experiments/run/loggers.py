"""Where numbers and pictures of a training go besides metrics.jsonl: calls of `training.logger`.

A logger of one's own is a function that returns a `Logger`; it may take `workdir`, and `step`, from
which the run continues.
"""

import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from experiments.run import buckets

__all__ = ["Logger", "both", "tensorboard", "wandb"]


class Logger(NamedTuple):
  """Four functions.

  scalars: (step, {name: number}). images: (step, {name: (height, width, 3) uint8}). flush: before
  a checkpoint. close: at the end of the run.
  """

  scalars: Callable[[int, Mapping[str, float]], None]
  images: Callable[[int, Mapping[str, np.ndarray]], None]
  flush: Callable[[], None] = lambda: None
  close: Callable[[], None] = lambda: None


def tensorboard(workdir: pathlib.Path, step: int) -> Logger:
  """TensorBoard events in the workdir."""
  import tensorboardX  # half a second of imports
  begun = any(workdir.glob("events.out.tfevents*"))
  scratch = pathlib.Path(tempfile.mkdtemp()) if buckets.is_bucket(workdir) else None
  writer = tensorboardX.SummaryWriter(
      str(scratch or workdir), purge_step=step + 1 if begun else None)

  def scalars(step, values):
    for name, value in values.items():
      writer.add_scalar(name, value, step)

  def images(step, values):
    for name, image in values.items():
      writer.add_image(name, image, step, dataformats="HWC")

  if scratch is None:
    return Logger(scalars, images, writer.flush, writer.close)

  def flush():
    """In a bucket a session's events are an object, written again each time."""
    writer.flush()
    for file in scratch.iterdir():
      buckets.write(workdir / file.name, file.read_bytes())

  def close():
    writer.close()
    flush()
    shutil.rmtree(scratch)

  return Logger(scalars, images, flush, close)


def wandb(
    workdir: pathlib.Path, step: int, *, project: str,
    mode: Literal["offline", "online"] = "offline",
) -> Logger:
  """Weights & Biases, of the extra [wandb]; offline, a run is kept in the workdir.

  Raises:
    ValueError: wandb is not installed.
  """
  del step
  if buckets.is_bucket(workdir):
    raise ValueError("config.training.logger: wandb keeps its files in the workdir, which cannot "
                     "be in a bucket; choose another logger")
  try:
    import wandb as library
  except ImportError:
    raise ValueError(
        "wandb is not installed: pip install wandb, or choose another logger") from None
  # A resumed run is the same run there.
  identity = hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:12]
  run = library.init(project=project, mode=mode, dir=str(workdir), name=workdir.name, id=identity,
                     resume="allow")
  return Logger(
      lambda step, values: run.log(dict(values), step=step),
      lambda step, values: run.log(
          {name: library.Image(image) for name, image in values.items()}, step=step),
      close=run.finish)


def both(logger: Logger, other: Logger) -> Logger:
  """Two loggers: both(tensorboard(), wandb(project="digits"))."""
  each = lambda name: lambda *values: [getattr(one, name)(*values) for one in (logger, other)]
  return Logger(*map(each, Logger._fields))
