"""One run on several processes: how they connect, which rows each has, how they stop together.

On Cloud TPU, Slurm and Kubernetes `--multihost` is enough: jax finds the other processes. Elsewhere
every process gets the address of the first one:

  python -m experiments.train … --coordinator=host:port --num_processes=2 --process_id=0

All processes run the same command on one shared workdir. Process 0 writes. Before the first step
they compare their flags, config, data and versions, and end if these differ.

The port of --coordinator asks for no password: whoever reaches it can end the run. Process 0
therefore listens on the given address only, and a firewall should admit only the other processes.
With --multihost it listens on all addresses, as jax does.
"""

import collections
import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.run import signals

_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "This is one of several processes, which jax finds by itself: Cloud TPU, "
    "Slurm, Kubernetes.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, with --num_processes and --process_id.")
_BIND = flags.DEFINE_string(
    "coordinator_bind", "", "host:port on which process 0 listens where that is not --coordinator, "
    "as behind an address translation.")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes --coordinator has.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")
_CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout", 300, "Seconds that processes wait for each other at the start.")
_PEER_TIMEOUT = flags.DEFINE_integer(
    "peer_timeout", 100, "Seconds after which a process that is not heard of counts as dead, and "
    "ends the others.")

Result = TypeVar("Result")


def connect() -> None:
  """Connects to the other processes, if the flags name any. Call it before jax has devices.

  Raises:
    ValueError: flags that do not belong together.
    OSError: the others were not found.
  """
  explicit = {"num_processes": _NUM_PROCESSES.value, "process_id": _PROCESS_ID.value}
  if not _COORDINATOR.value:
    for name, value in {**explicit, "coordinator_bind": _BIND.value or None}.items():
      if value is not None:
        raise ValueError(f"--{name} goes with --coordinator=host:port, which is not given")
    if not _MULTIHOST.value:
      return
  else:
    if _MULTIHOST.value:
      raise ValueError("--multihost finds the processes by itself: leave out --coordinator, or it")
    for name, flag in (("coordinator", _COORDINATOR), ("coordinator_bind", _BIND)):
      host, _, port = (flag.value or _COORDINATOR.value).rpartition(":")
      if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--{name} must be host:port, got {flag.value!r}")
    for name, value in explicit.items():
      if value is None:
        raise ValueError(f"--coordinator needs --{name} too")
    if not 0 <= _PROCESS_ID.value < _NUM_PROCESSES.value:
      raise ValueError(f"--process_id must lie in [0, --num_processes={_NUM_PROCESSES.value}), got "
                       f"{_PROCESS_ID.value}")
  for name, flag in (("peer_timeout", _PEER_TIMEOUT), ("connect_timeout", _CONNECT_TIMEOUT)):
    if flag.value < 1:
      raise ValueError(f"--{name} must be at least 1 second, got {flag.value}")
  # A lost process ends the others by an abort with a message; a dump of every stack would bury it.
  faulthandler.disable()
  where = f"--coordinator={_COORDINATOR.value}" if _COORDINATOR.value else "--multihost"

  def give_up():
    print(f"error: {where}: the processes did not find each other within {_CONNECT_TIMEOUT.value} "
          "seconds (--connect_timeout)", file=sys.stderr, flush=True)
    os._exit(2)

  # jax itself would abort, with a stack trace, a little later.
  timer = threading.Timer(_CONNECT_TIMEOUT.value, give_up)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
        _COORDINATOR.value or None, _NUM_PROCESSES.value, _PROCESS_ID.value,
        coordinator_bind_address=_BIND.value or _COORDINATOR.value or None,
        heartbeat_timeout_seconds=_PEER_TIMEOUT.value,
        initialization_timeout=_CONNECT_TIMEOUT.value + 30,
        shutdown_timeout_seconds=_PEER_TIMEOUT.value)
  except (ValueError, RuntimeError) as error:
    raise OSError(f"{where}: the processes did not find each other: {first_line(error)}") from error
  finally:
    timer.cancel()


@contextlib.contextmanager
def joined(
    facts: Callable[[], Mapping[str, Any]] = dict, *, stop_together: bool = False
) -> Iterator[None]:
  """Connects the processes. An error in one of them ends all, each with one line.

  If a process is gone, a collective fails or jax's heartbeats stop (`--peer_timeout`). An orderly
  exit would wait for that process, so this one is not orderly.

  Args:
    facts: what must be the same on all processes, besides their flags; see `check_same`.
    stop_together: `signals.stopping` handles SIGTERM. Otherwise it ends a process, and so the
      others.
  """
  connect()
  check_devices()
  if jax.process_count() == 1:
    yield
    return
  if not stop_together:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
  try:
    check_same(_flags() | dict(facts()))
    yield
  except jax.errors.JaxRuntimeError as error:
    message = ("another process has ended or cannot be reached; start all of them again, they go "
               f"on from the newest checkpoint ({first_line(error)})")
  except Exception as error:
    message = " ".join(str(error).split()) or type(error).__name__
  else:
    return
  print(f"error: {message}", file=sys.stderr, flush=True)
  os._exit(2)


def check_devices() -> None:
  """Raises ValueError where jax does not find the devices that JAX_PLATFORMS names."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    wanted = jax.config.jax_platforms
    why = f": {first_line(error)}" if str(error) else ""
    raise ValueError(f"JAX_PLATFORMS={wanted or ''}: jax finds no such devices here{why}; unset "
                     "JAX_PLATFORMS, or install jax for them") from error


def check_same(facts: Mapping[str, Any]) -> None:
  """Raises ValueError on all processes if their `facts` differ, and names what differs.

  Facts are JSON values by name. All processes must call it, before any other collective.
  """
  if jax.process_count() == 1:
    return
  devices = collections.Counter(device.process_index for device in jax.devices())
  if len(set(devices.values())) > 1:
    counts = ", ".join(f"process {i} {n}" for i, n in sorted(devices.items()))
    raise ValueError(f"processes of one run must have as many devices each; they have: {counts} "
                     "(training.cpu_devices?)")
  own = np.frombuffer(json.dumps(dict(facts), default=str).encode(), np.uint8)
  longest = int(multihost_utils.process_allgather(np.int32(len(own))).max())
  texts = multihost_utils.process_allgather(np.pad(own, (0, longest - len(own))))
  first, *others = (json.loads(bytes(text).rstrip(b"\0")) for text in np.asarray(texts))
  for i, other in enumerate(others, 1):
    if differing := [f"{name}: {first.get(name)!r} → {other.get(name)!r}"
                     for name in {**first, **other} if first.get(name) != other.get(name)]:
      raise ValueError(f"processes 0 and {i} differ in {'; '.join(differing)}; all processes of a "
                       "run take the same command, config, data and versions")


def _flags() -> dict[str, Any]:
  """The flags, without those that differ between processes and without the config."""
  private = {"process_id", "coordinator", "coordinator_bind", "connect_timeout", "peer_timeout",
             "config"}
  return {f"--{flag.name}": flag.value
          for module, defined in flags.FLAGS.flags_by_module_dict().items()
          for flag in defined if not module.startswith("absl.") and flag.name not in private}


def several() -> bool:
  """Whether this is one of several processes."""
  return jax.process_count() > 1


def say(words: str) -> None:
  """Prints a line, once for all processes."""
  if is_first():
    with signals.heard():
      print(words, flush=True)


def is_first() -> bool:
  """Whether this is process 0, which writes for all."""
  return jax.process_index() == 0


def by_first(action: Callable[[], Result]) -> Result | None:
  """Process 0 runs `action`; the others wait for it, and fail if it fails.

  A process that ended early would count as lost. All processes must call it.

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


def agreed(action: Callable[[], Result]) -> Result:
  """Runs `action` on every process, and fails on all if it fails on one; all must call it.

  Raises:
    ValueError: it has failed on another process only.
  """
  try:
    result, failure = action(), None
  except Exception as error:
    result, failure = None, error
  if not everywhere(failure is None) and failure is None:
    raise ValueError("another process has failed; its own message says why")
  if failure:
    raise failure
  return result


def everywhere(fact: bool) -> bool:
  """Whether `fact` is true on every process; all must call it."""
  if jax.process_count() == 1:
    return fact
  return bool(multihost_utils.process_allgather(np.asarray(fact)).all())


def broadcast(value: Any) -> np.ndarray:
  """Process 0's value, on every process."""
  return np.asarray(multihost_utils.broadcast_one_to_all(value))


def in_host_memory() -> bool:
  """Whether NumPy reads every array where it is: at once, with no program to compile for it."""
  return jax.default_backend() == "cpu" and not several()


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
  if sharding.is_fully_addressable:
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


def first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0][:300]
