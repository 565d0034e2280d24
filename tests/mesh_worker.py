"""Trains small networks on meshes of eight CPU devices; prints what `meshes_test` compares in JSON.

A process has as many devices as it starts with, so this is a program of its own:

  mesh_worker.py DIRECTORY
"""

import collections
import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import runner
from jax.sharding import PartitionSpec

from experiments import config, data
from experiments.run import assembly, checkpoints, meshes, multihost, records
from experiments.sampling import drawing
from langevin_jax import inpainting, likelihood, mixtures, paths, samplers
from langevin_jax.networks._products import matmul
from langevin_jax.training import shardings

STEPS = 10
MESHES = {
    "one": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "tensor": (2, 1, 4),
    "mixed": (2, 2, 2)}


_UNET = "channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=16"
UNETS = {"unet": f"unet({_UNET}, groups=8)", "unet_edm2": f"unet_edm2({_UNET})"}


def settings(sizes, **fields) -> config.Config:
  return config.override(config.load(str(runner.CONFIGS / "digits.py")), {
      "network.width": 32, "network.depth": 3, "network.unroll": 1, "network.heads": 4,
      "training.batch_size": 32, "training.steps": STEPS, "training.schedule.warmup_steps": 2,
      **{f"mesh.{name}": size for name, size in zip(shardings.AXES, sizes, strict=True)}, **fields})


def assemble(dataset, settings_) -> assembly.Run:
  sizes = settings_.mesh
  devices = jax.devices()[:sizes.data * sizes.fsdp * sizes.tensor]
  mesh = meshes.make(sizes, devices)
  return assembly.assemble(
      settings_, dataset.train.shape[1:], dataset.num_classes, mesh)._replace(dataset=dataset)


def _lowered(run, dataset):
  """The program of a training step, not yet compiled."""
  batch = jax.device_put(data.batch(dataset, seed=0, step=0, batch_size=32),
                         shardings.batch(run.mesh))
  return assembly.train_step(run).lower(assembly.abstract_state(run), np.uint32(1), batch)


def train(run, step, steps=STEPS, start=None):
  """(first state, last state, losses) of the first steps; `start` may be that of another mesh."""
  state, losses = assembly.start(run) if start is None else jax.device_put(
      start, jax.tree.map(lambda leaf: leaf.sharding, assembly.abstract_state(run))), []
  start = multihost.fetch(state)
  for i in range(steps):
    batch = data.batch(run.dataset, seed=0, step=i, batch_size=32)
    state, measured = step(state, np.uint32(1), jax.device_put(batch, shardings.batch(run.mesh)))
    losses.append(float(measured.loss[0]))
  return start, state, losses


def collectives(text: str) -> dict[str, list[int]]:
  """Elements of the result of every collective in a compiled program, by kind."""
  found = collections.defaultdict(list)
  kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
  for result, kind in re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", text):
    shapes = re.findall(r"[a-z]+\d+\[([\d,]*)\]", result)
    found[kind].append(sum(int(np.prod([int(n) for n in shape.split(",") if n]))
                           for shape in shapes))
  return found


def unets(dataset) -> dict[str, dict]:
  """Losses of three steps of each U-Net on one device and on eight, and the share of a device."""
  found = {}
  for name, network in UNETS.items():
    losses, sizes, start = [], [], None
    for mesh in ("one", "mixed"):
      run = assemble(dataset, config.override(settings(MESHES[mesh]), {"network": network}))
      step = _lowered(run, dataset).compile()
      start, state, values = train(run, step, steps=3, start=start)
      losses.append(values)
      sizes.append(sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)))
    found[name] = {"losses": losses, "share": sizes[1] / sizes[0]}
  return found


def mapped() -> dict[str, float]:
  """How far samplers and likelihoods inside `jax.shard_map` are from themselves outside it."""
  mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
  path, grid = paths.vp(), samplers.karras(3)
  mixture = mixtures.Mixture(
      jnp.array([0.3, 0.7]), jnp.array([[-1.0, 0.0], [1.0, 0.5]]),
      jnp.stack([0.1 * jnp.eye(2)] * 2))
  denoise, correctors = mixtures.denoiser(mixture, path), samplers.correctors
  methods = {
      "ddim": samplers.ddim(1.0), "multistep": samplers.multistep(2), "unipc": samplers.unipc(2),
      "singlestep": samplers.singlestep(2), "heun": samplers.heun(),
      "euler_maruyama": samplers.euler_maruyama(), "adams_bashforth": samplers.adams_bashforth(2),
      "baoab": samplers.predictor_corrector(samplers.ddim(), correctors.baoab()),
      "midpoint": samplers.predictor_corrector(samplers.multistep(2), correctors.midpoint()),
      "annealed": samplers.annealed_langevin(corrections=2)}
  calls = {name: lambda keys, method=method: samplers.sample(
      keys, denoise, path, shape=(len(keys), 2), method=method, grid=grid)
      for name, method in methods.items()}
  key, at = jax.random.key(0), lambda keys: jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
  # A key of its own for every example, as a Hutchinson probe needs to be the same on any mesh.
  calls |= {
      "log_prob": lambda keys: likelihood.log_prob(
          key, denoise, path, at(keys), steps=2, batch_axes=1),
      # Every device chooses its own steps: results agree to the tolerance.
      "adaptive": lambda keys: samplers.adaptive(
          keys, denoise, path, shape=(len(keys), 2), tolerance=1e-6).x,
      "adaptive log_prob": lambda keys: likelihood.log_prob(
          key, denoise, path, at(keys), tolerance=1e-6, batch_axes=1),
      "hutchinson": lambda keys: likelihood.log_prob(
          keys, denoise, path, at(keys), steps=2, batch_axes=1, divergence="hutchinson"),
      "lanpaint": lambda keys: inpainting.sample(
          keys, denoise, path, known=at(keys), mask=np.array([True, False]), grid=grid,
          method=inpainting.lanpaint(2))}
  # Each device has some rows, and all have the matrix, whose gradient is a sum over devices.
  w = jnp.arange(6.0).reshape(2, 3)
  product = lambda x, w: 0.01 * jnp.sum(matmul(x, w, jnp.bfloat16) ** 2)
  calls |= {"bfloat16": lambda keys: sum(
      jnp.sum(part) * jnp.ones((len(keys), 1)) if part.shape == w.shape else part
      for part in jax.grad(product, (0, 1))(at(keys), w))}
  everything = lambda keys: {name: call(keys) for name, call in calls.items()}
  split = lambda call: jax.shard_map(
      call, mesh=mesh, in_specs=PartitionSpec("d"), out_specs=PartitionSpec("d"))
  keys = jax.random.split(key, 16)
  inside, outside = jax.jit(split(everything))(keys), jax.jit(everything)(keys)
  inside |= {"eager ddim": split(calls["ddim"])(keys)}
  outside |= {"eager ddim": outside["ddim"]}
  # The bound draws levels and noise for its whole batch: it runs, with other draws on each device.
  bound = jax.jit(split(lambda keys: likelihood.bound(
      key, denoise, path, at(keys), draws=2, batch_axes=1)))(keys)
  assert np.isfinite(bound).all()
  return {name: float(np.abs(np.asarray(inside[name]) - outside[name]).max()) for name in inside}


def main() -> None:
  room = pathlib.Path(sys.argv[1])
  jax.config.update("jax_num_cpu_devices", 8)
  jax.config.update("jax_compilation_cache_dir", str(runner.cache()))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  dataset = data.load("digits")
  report, starts, states = {}, {}, {}
  for name, sizes in MESHES.items():
    run = assemble(dataset, settings(sizes))
    step = _lowered(run, dataset).compile()
    starts[name], state, losses = train(run, step)
    report[name] = {
        "losses": losses, "sha256": records.sha256(multihost.fetch(state)),
        "collectives": collectives(step.as_text()),
        "bytes_on_a_device": sum(leaf.addressable_shards[0].data.nbytes
                                 for leaf in jax.tree.leaves(state))}
    if name == "mixed":
      report[name]["sha256 again"] = records.sha256(multihost.fetch(train(run, step)[1]))
    with checkpoints.manager(room / name, keep=1) as manager:
      checkpoints.save(manager, STEPS, state)
      checkpoints.finish(manager)
    states[name] = run, records.sha256(multihost.fetch(state))
    if name in ("one", "mixed"):
      x = drawing.draw(run, state.params, config.Sampling(grid="karras(4)"), run.path,
                    assembly.even_labels(run, 20), seed=3)
      report[name]["samples"] = x.reshape(20, -1).tolist()
  report["starts"] = {name: records.sha256(start) for name, start in starts.items()}
  report["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(starts["one"].params))
  report["restored"] = {}
  for source in MESHES:
    # Every mesh as the source and as the target of the most divided one.
    for target, (run, _) in states.items() if source == "mixed" else [("mixed", states["mixed"])]:
      with checkpoints.manager(room / source, keep=1, read_only=True) as manager:
        state = checkpoints.restore(manager, assembly.abstract_state(run))
      report["restored"][f"{source} on {target}"] = (
          records.sha256(multihost.fetch(state)) == states[source][1])
  parts = assemble(dataset, settings(MESHES["mixed"], **{"training.accumulation": 4}))
  report["accumulated"] = train(parts, assembly.train_step(parts))[2]
  report["unets"] = unets(dataset)
  report["shard_map"] = mapped()
  print(json.dumps(report))


if __name__ == "__main__":
  main()
