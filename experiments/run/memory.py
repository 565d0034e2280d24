"""The memory that a command takes at least, compared with what the machine has before it begins.

Estimates are lower bounds. What they refuse cannot run; what they let pass may still be too large,
and then ends in an error of NumPy or XLA, to which `cli` adds the largest setting.
"""

import math
import pathlib
import resource
from collections.abc import Mapping

import jax

from experiments import config as config_lib

# Weights of one block in units of width², at least: two products of the MLP and its conditioning;
# attention (4) and MLP (8) of DiT; two convolutions of three places or more along an axis, on the
# way down and on the way up, of a U-Net.
_BLOCK = {"mlp": 3, "dit": 12, "unet": 12, "unet_edm2": 12}
_DEPTH_WIDTH, _BLOCKS_CHANNELS = ("depth", "width"), ("blocks", "channels")
_NAMES = {"mlp": _DEPTH_WIDTH, "dit": _DEPTH_WIDTH, "unet": _BLOCKS_CHANNELS,
          "unet_edm2": _BLOCKS_CHANNELS}
_FLOAT = 4  # bytes


def require(parts: Mapping[str, float], doing: str, *, available: float | None = None) -> None:
  """Raises ValueError where the sum of `parts` in bytes, by setting, is more than is available.

  Args:
    doing: what takes the memory. available: bytes; `free` if not given.
  """
  total, available = sum(parts.values()), free() if available is None else available
  if total > available:
    largest = max(parts, key=lambda name: parts[name])
    raise ValueError(f"{largest}: {doing} takes at least {_bytes(total)} of memory, of which "
                     f"{_bytes(available)} are free; choose less")


def check_state(config: config_lib.Config, mesh: jax.sharding.Mesh | None = None, *,
                members: int = 1) -> None:
  """Raises ValueError where the state of training, or a restored one, does not fit.

  That is parameters, two moments of Adam and every average, in float32.

  Args:
    mesh: over which a state is divided; one device if not given. members: states.
  """
  require({_network(config): members * _state(config) * _share(mesh)}, "the state of the network",
          available=_available(mesh))


def check_training(
    config: config_lib.Config, shape: tuple[int, ...], mesh: jax.sharding.Mesh
) -> None:
  """Raises ValueError where state, gradient, batches and activations do not fit.

  One activation of every block is kept for the gradient, with `remat` too.
  """
  training, network = config.training, config.network
  number = 2 if network.get("dtype") == "bfloat16" else _FLOAT
  depth, width = _sizes(network)
  kept = depth * width * tokens(network, shape) * number
  batch = training.batch_size / training.accumulation * _devices(mesh) / mesh.devices.size
  require({
      _network(config): _state(config, gradient=True) * _share(mesh),
      f"config.training.batch_size={training.batch_size}": batch * kept,
  }, "training", available=_available(mesh))
  batches = training.batch_size * training.steps_per_dispatch / jax.process_count()
  require({
      f"config.training.batch_size={training.batch_size} × "
      f"steps_per_dispatch={training.steps_per_dispatch}": batches * _FLOAT * math.prod(shape),
  }, "one dispatch of batches")


def check_sampling(
    config: config_lib.Config, shape: tuple[int, ...], n: int, mesh: jax.sharding.Mesh, *,
    kept: bool, field: str = "--num_samples",
) -> None:
  """Raises ValueError where n samples, or a batch of them, do not fit.

  Args:
    mesh: over which a batch is divided. kept: all samples in memory, and not on the disk. field:
      what has said n.
  """
  size, network = math.prod(shape), config.network
  batch = min(config.sampling.batch_size, n)
  of_batch = {f"config.sampling.batch_size={batch}": _FLOAT * batch * (
      2 * size + _sizes(network)[1] * tokens(network, shape)) * _devices(mesh) / mesh.devices.size}
  # Labels are int64 while they are made.
  of_all = {f"{field}={n}": n * (3.0 * _FLOAT + 2 * _FLOAT * size * kept)}
  for parts in (of_batch | of_all,) if _of_host(mesh) else (of_batch, of_all):
    require(parts, "sampling", available=_available(mesh) if parts is of_batch else None)


def free() -> float:
  """Bytes of the host that this process may still take, of RAM, control group and address space."""
  found = [math.inf]
  facts = _fields(pathlib.Path("/proc/meminfo"))
  if "MemAvailable" in facts:
    found.append(1024.0 * (facts["MemAvailable"] + facts.get("SwapFree", 0)))
  own = _fields(pathlib.Path("/proc/self/status"))
  for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
    most = resource.getrlimit(limit)[0]
    if most != resource.RLIM_INFINITY:
      found.append(most - 1024.0 * own.get(used, 0))
  found += _control_groups()
  return max(min(found), 0.0)


def _control_groups() -> list[float]:
  """What every control group above this process has left; its file cache can be given back."""
  try:
    lines = pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
  except OSError:
    return []
  found = []
  for line in lines:
    _, controllers, own = line.split(":", 2)
    if controllers and "memory" not in controllers.split(","):
      continue
    root = pathlib.Path("/sys/fs/cgroup", "memory" if controllers else "")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") if (
        controllers) else ("memory.max", "memory.current", "inactive_file")
    here = root / own.strip("/")
    # In a container the path is that of the host, and the group is mounted as the root.
    for group in [root, here, *here.parents]:
      if group.is_relative_to(root):
        most, used = (_number(group / name) for name in names[:2])
        if most is not None and used is not None:
          found.append(most - used + _fields(group / "memory.stat").get(names[2], 0))
  return found


def _number(file: pathlib.Path) -> int | None:
  try:
    return int(file.read_text(encoding="utf-8"))
  except (OSError, ValueError):  # no such file, or "max"
    return None


def _fields(file: pathlib.Path) -> dict[str, int]:
  """The numbers of a file of lines "name: number unit"."""
  try:
    words = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
  except OSError:
    return {}
  return {line[0].rstrip(":"): int(line[1]) for line in words
          if len(line) > 1 and line[1].isdecimal()}


def _state(config: config_lib.Config, *, gradient: bool = False) -> float:
  network, training = config.network, config.training
  averages = len(training.ema_half_life_steps) + len(training.ema_relative_std)
  if network.name not in _BLOCK:
    return 0.0
  depth, width = _sizes(network)
  squares = width**2 * sum(m**2 for m in network.get("multipliers", (1,)))
  return float(_FLOAT * _BLOCK[network.name] * depth * squares * (3 + averages + gradient))


def _sizes(network: config_lib.Call) -> tuple[int, int]:
  """(depth, width) of the runner's own networks, of a U-Net at its first level; of others nothing
  is known.
  """
  if network.name not in _BLOCK:
    return 1, 1
  depth, width = _NAMES[network.name]
  return network[depth], network[width]


def tokens(network: config_lib.Call, shape: tuple[int, ...]) -> int:
  """The number of places of an example that a layer computes."""
  if network.name in ("unet", "unet_edm2"):
    return math.prod(shape[:-1])
  if network.name != "dit":
    return 1
  patch = network["patch_size"] ** max(len(shape) - 1, 1)
  return max(math.prod(shape[:-1] or shape) // patch, 1)


def _network(config: config_lib.Config) -> str:
  """The field that makes the network large."""
  network = config.network
  if network.name not in _BLOCK:
    return f"config.network={network}"
  depth, width = _sizes(network)
  name = _NAMES[network.name][depth / 4 <= (width / 128) ** 2]
  return f"config.network.{name}={network[name]}"


def _share(mesh: jax.sharding.Mesh | None) -> float:
  """How many copies of what is divided over fsdp and tensor lie in one memory."""
  return 1.0 if mesh is None else _devices(mesh) / (mesh.shape["fsdp"] * mesh.shape["tensor"])


def _devices(mesh: jax.sharding.Mesh) -> int:
  """How many devices have one memory: the CPU's virtual ones that of the host."""
  return len(mesh.local_devices) if _of_host(mesh) else 1


def _of_host(mesh: jax.sharding.Mesh) -> bool:
  return mesh.devices.flat[0].platform == "cpu"


def _available(mesh: jax.sharding.Mesh | None) -> float | None:
  """Bytes of one device; None where it computes in the host's memory."""
  if mesh is None or _of_host(mesh):
    return None
  return (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit", math.inf)


def _bytes(count: float) -> str:
  return f"{count / 1e9:,.3g} GB" if count < 1e12 else f"{count / 1e12:,.3g} TB"
