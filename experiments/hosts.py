"""One run on several processes: how they find each other, what each holds, how they stop together.

On Cloud TPU, Slurm and Kubernetes `--multihost` is enough, jax finds the rest; elsewhere every
process is told of the first one:

  python -m experiments.train … --coordinator=host:port --num_processes=2 --process_id=0

All processes run the same command on the same workdir, which they share. Process 0 writes.
"""

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "This is one of several processes, which jax finds by itself: Cloud TPU, "
    "Slurm, Kubernetes.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, with --num_processes and --process_id.")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes --coordinator has.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout", 100, "Seconds after which a process that is not heard of counts as dead, and "
    "ends the others.")

Result = TypeVar("Result")


def connect() -> None:
  """Joins the other processes, if the flags say that there are any; before jax has any devices.

  Raises:
    ValueError: flags that do not belong together.
    OSError: the others were not found.
  """
  explicit = {"num_processes": _NUM_PROCESSES.value, "process_id": _PROCESS_ID.value}
  if not _COORDINATOR.value:
    for name, value in explicit.items():
      if value is not None:
        raise ValueError(f"--{name} goes with --coordinator=host:port, which is not given")
    if not _MULTIHOST.value:
      return
  elif ":" not in _COORDINATOR.value or not _COORDINATOR.value.rpartition(":")[2].isdecimal():
    raise ValueError(f"--coordinator must be host:port, got {_COORDINATOR.value!r}")
  else:
    for name, value in explicit.items():
      if value is None:
        raise ValueError(f"--coordinator needs --{name} too")
    if not 0 <= _PROCESS_ID.value < _NUM_PROCESSES.value:
      raise ValueError(f"--process_id must lie in [0, --num_processes={_NUM_PROCESSES.value}), got "
                       f"{_PROCESS_ID.value}")
  # A lost process ends the others by an abort with a message; a dump of every stack would bury it.
  faulthandler.disable()
  if _PEER_TIMEOUT.value < 1:
    raise ValueError(f"--peer_timeout must be at least 1 second, got {_PEER_TIMEOUT.value}")
  try:
    jax.distributed.initialize(
        _COORDINATOR.value or None, _NUM_PROCESSES.value, _PROCESS_ID.value,
        heartbeat_timeout_seconds=_PEER_TIMEOUT.value,
        initialization_timeout=_PEER_TIMEOUT.value, shutdown_timeout_seconds=_PEER_TIMEOUT.value)
  except (ValueError, RuntimeError) as error:
    where = f"--coordinator={_COORDINATOR.value}" if _COORDINATOR.value else "--multihost"
    raise OSError(f"{where}: the processes did not find each other: {first_line(error)}") from error


def is_first() -> bool:
  """Whether this is process 0, which writes for all."""
  return jax.process_index() == 0


def by_first(action: Callable[[], Result]) -> Result | None:
  """Process 0 runs `action`, the others wait until it has; all fail where it fails.

  A process that ended early would count as lost. All must call it.

  Returns:
    What `action` returns on process 0, None on the others.

  Raises:
    ValueError: on the others, what process 0 has raised.
  """
  if jax.process_count() == 1:
    return action()
  result, failure = None, None
  if is_first():
    try:
      result = action()
    except Exception as error:
      failure = error
  text = np.zeros(300, np.uint8)
  if failure:
    encoded = np.frombuffer(first_line(failure).encode()[:300], np.uint8)
    text[:len(encoded)] = encoded
  text = bytes(broadcast(text)).rstrip(b"\0").decode(errors="replace")
  if failure:
    raise failure
  if text:
    raise ValueError(f"process 0 says: {text}")
  return result


def everywhere(fact: bool) -> bool:
  """Whether it holds on every process; all must call it."""
  if jax.process_count() == 1:
    return fact
  return bool(multihost_utils.process_allgather(np.asarray(fact)).all())


def broadcast(value: Any) -> np.ndarray:
  """Process 0's value, on every process."""
  return np.asarray(multihost_utils.broadcast_one_to_all(value))


def fetch(tree: Any) -> Any:
  """The tree as whole numpy arrays, on every process; all must call it."""
  def whole(leaf):
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
      return np.asarray(leaf)
    return multihost_utils.process_allgather(leaf, tiled=True)

  return jax.tree.map(whole, tree)


def rows(sharding: jax.sharding.Sharding, shape: tuple[int, ...], *, axis: int = 0) -> np.ndarray:
  """Which entries along `axis` of a global array of `shape` this process's devices hold, sorted."""
  held = {index[axis].indices(shape[axis])[:2] for index in
          sharding.addressable_devices_indices_map(shape).values()}
  return np.unique(np.concatenate([np.arange(*ends) for ends in held]))


def place(
    sharding: jax.sharding.Sharding, local: np.ndarray, held: np.ndarray, size: int, *,
    axis: int = 0,
) -> jax.Array:
  """The global array, `size` along `axis`, of which this process has the entries `held`."""
  if len(held) == size:
    return jax.device_put(local, sharding)
  shape = (*local.shape[:axis], size, *local.shape[axis + 1:])

  def piece(index):
    start, stop, _ = index[axis].indices(size)
    first = int(np.searchsorted(held, start))
    return local[(*index[:axis], slice(first, first + stop - start), *index[axis + 1:])]

  return jax.make_array_from_callback(shape, sharding, piece)


def spread(sharding: jax.sharding.Sharding, tree: Any) -> Any:
  """The tree, which every process has as a whole, as global arrays."""
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def whole(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(
          whole(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

  return jax.tree.map(whole, tree)


def stopping() -> Callable[[int], bool]:
  """A function of the dispatch, counted up by one, that says on all processes at once: stop here.

  A single process stops after SIGINT or SIGTERM; a second signal kills as usual. Of several,
  jax catches SIGTERM and has them agree on the dispatch; SIGINT is passed on as SIGTERM.
  """
  received = []

  def handler(number, frame):
    received.append(number)
    signal.signal(number, signal.SIG_DFL)
    print(f"\n{signal.Signals(number).name}: saving, then leaving", flush=True)
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)

  signal.signal(signal.SIGINT, handler)
  if jax.process_count() > 1:
    return multihost_utils.reached_preemption_sync_point
  signal.signal(signal.SIGTERM, handler)
  return lambda dispatch: bool(received)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Ends this process in one line where another one is gone.

  A collective with it fails, or jax's own heartbeats stop (`--peer_timeout`). An orderly exit would
  wait for it.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    print("error: another process has ended or cannot be reached; start all of them again, they go "
          f"on from the newest checkpoint ({first_line(error)})", file=sys.stderr, flush=True)
    os._exit(2)
  except Exception as error:
    if jax.process_count() == 1:
      raise
    print(f"error: {first_line(error)}", file=sys.stderr, flush=True)
    os._exit(2)


def first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:300]
