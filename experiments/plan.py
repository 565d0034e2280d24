"""What a training step costs on a TPU slice, before booking it; on a machine without a TPU.

  make plan      (in an environment of its own), or, where libtpu is installed:
  python -m experiments.plan --config=experiments/configs/latent_dit_xl2.py \\
    --topology=v5e:16x16,v5p:8x8x8 --out=plan.json

The real sharded step of the config is compiled for every topology: HBM, collectives and products
are those of the program that would run. Times are bounds (planning/roofline.py): no step is faster.
Where libtpu refuses a program for memory, the bound is of the model's own products alone; what only
a program tells is null. Shards of examples need not be here.
"""

import json
import pathlib
import time
from typing import Any

import jax
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.config import cli
from experiments.planning import compiling, costs, flops, roofline, topologies
from experiments.run import assembly, memory, meshes, records

flags.declare_key_flag("config")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "TPU slices to plan for, such as v5e:16x16,v5p:8x8x8.")
_OUT = flags.DEFINE_string("out", "", "JSON file for the plans, one object a topology.")
_IMAGES = flags.DEFINE_float(
    "images", 0.0, "How many images to train on, for the hours; 0: steps × batch of the config.")
_LARGEST = flags.DEFINE_bool(
    "largest_batch", True, "Find the largest batch that fits, by a few more compilations.")


def main() -> int:
  config = cli.config()
  wanted = topologies.parse(_TOPOLOGY.value)
  if not 0.0 <= _IMAGES.value < float("inf"):
    raise ValueError(f"--images must be 0 or more, got {_IMAGES.value}")
  topologies.prepare_environment()
  for topology in wanted:
    compiling.check(config, topology)
  shape, num_classes = data.shape_of(config.data)
  topologies.require_libtpu()
  out = None
  if _OUT.value:  # a bad place says so now, not in ten minutes
    out = cli.out(_OUT.value, lambda plans: "topology" in plans[0],
                  inputs=data.files(config.data))
  plans = []
  for i, topology in enumerate(wanted):
    try:
      plans.append(_plan(config, shape, num_classes, topology))
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
      if plans:
        _tell(plans, out)
      missing = ", ".join(t.name for t in wanted[i:])
      raise ValueError(f"{error}; not planned: {missing}") from error
    if out:
      records.write_text(out, json.dumps(plans, indent=2) + "\n")
  _tell(plans, out)
  return 0


def _tell(plans: list[dict[str, Any]], out: pathlib.Path | None) -> None:
  refused = [plan["topology"] for plan in plans if plan["hbm_seconds"] is None]
  print("\n".join([
      _table(plans),
      *([f"refused for memory: {', '.join(refused)}; HBM traffic and collectives are not known, "
         "and the bound is of the model's products alone"] if refused else []),
      *([f"written to {out}"] if out else [])]), flush=True)


def _plan(
    config: config_lib.Config, shape: tuple[int, ...], num_classes: int,
    topology: topologies.Topology,
) -> dict[str, Any]:
  """The plan of one topology, as it is written to JSON."""
  devices = topologies.devices(topology)
  mesh = meshes.make(config.mesh, devices)
  job = compiling.Job(config, shape, num_classes, topology, mesh)
  batch = config.training.batch_size
  model = flops.of_step(config, shape, num_classes, mesh)
  run = assembly.assemble(config, shape, num_classes, mesh)
  state = jax.eval_shape(run.init, jax.random.key(0))
  capacity = topology.chip.hbm_bytes

  def compile_at(size: int) -> compiling.Step:
    print(f"{topology.name}: compiling the step at batch {size} …", flush=True)
    begun = time.monotonic()
    step = compiling.compile_step(job, size)
    print(f"{topology.name}: batch {size} needs {_gib(step.hbm_bytes)} of {_gib(capacity)} a chip "
          f"({time.monotonic() - begun:.0f} s)", flush=True)
    return step

  step = compile_at(batch)
  images = _IMAGES.value or config.training.steps * batch
  plan = {
      "topology": topology.name,
      "chips": topology.chips,
      "mesh": dict(mesh.shape),
      "global_batch": batch,
      "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
      "fits": compiling.fits(step, topology),
      "hbm_per_chip_bytes": step.hbm_bytes,
      "hbm_capacity_bytes": capacity,
      "model_flops_per_step": model,
      **_speed(job, step, model, images),
  }
  if _LARGEST.value:
    unit = meshes.batch_parts(config.training, mesh)
    largest, too_large = compiling.search(step, unit, capacity, compile_at)
    plan["largest_batch"] = largest.batch_size if largest else 0
    plan["batch_too_large"] = too_large.batch_size if too_large else None
    plan["largest_batch_exact"] = plan["batch_too_large"] == plan["largest_batch"] + unit
    if largest:
      speed = _speed(job, largest, model * largest.batch_size / batch, images)
      plan["at_largest_batch"] = {key: speed[key] for key in (
          "step_time_bound_seconds", "mfu_cap", "images_per_second", "hours")}
  return plan


def _speed(
    job: compiling.Job, step: compiling.Step, model: float, images: float
) -> dict[str, Any]:
  """What follows from the roofline.

  Of a step that was refused for memory, the model's FLOPs at peak are the bound; None is unknown.
  """
  spent, topology = step.spent, job.topology
  line = (roofline.roofline(spent, topology, job.mesh.devices.flat) if spent else
          roofline.Roofline(model / (topology.chips * topology.chip.flops), None, None))
  network, shape = job.config.network, job.shape
  tokens = memory.tokens(network, shape) if network.name == "dit" else None
  rate = step.batch_size / line.bound
  return {
      "hardware_flops_per_step": spent and spent.flops * topology.chips,
      "hbm_traffic_bytes": spent and spent.hbm_bytes,
      "collective_bytes": spent and collective_bytes(spent),
      "unknown_loops": spent and spent.unknown_loops,
      "compute_seconds": line.compute,
      "hbm_seconds": line.hbm,
      "interconnect_seconds": line.interconnect,
      "step_time_bound_seconds": line.bound,
      "bound_by": line.limit,
      "mfu_cap": roofline.mfu_cap(model, topology, line.bound),
      "images_per_second": rate,
      "tokens_per_second": tokens and rate * tokens,
      "images": images,
      "hours": roofline.hours(images, step.batch_size, line.bound),
  }


def collective_bytes(spent: costs.Costs) -> dict[str, int]:
  """Bytes a chip and step by kind of collective, as `costs.Collective` counts them."""
  kinds = {}
  for collective in spent.collectives:
    size = collective.bytes * collective.runs
    kinds[collective.kind] = kinds.get(collective.kind, 0) + size
  return dict(sorted(kinds.items()))


def _table(plans: list[dict[str, Any]]) -> str:
  """One column a topology."""
  kinds = sorted({kind for plan in plans for kind in plan["collective_bytes"] or ()})
  milli = lambda key: lambda plan: f"{1e3 * plan[key]:.1f} ms"
  lines = [
      ("", lambda plan: plan["topology"]),
      ("chips", lambda plan: str(plan["chips"])),
      ("mesh", lambda plan: " × ".join(f"{size} {axis}" for axis, size in plan["mesh"].items()
                                       if size > 1) or "1"),
      ("global batch", lambda plan: f"{plan['global_batch']:,}"),
      ("parameters", lambda plan: f"{plan['parameters'] / 1e6:,.1f} M"),
      ("HBM a chip", lambda plan: _gib(plan["hbm_per_chip_bytes"])),
      ("  its capacity", lambda plan: _gib(plan["hbm_capacity_bytes"])),
      ("  fits", lambda plan: "yes" if plan["fits"] else "NO"),
      ("model FLOPs a step", lambda plan: f"{plan['model_flops_per_step']:.3e}"),
      ("hardware FLOPs a step", lambda plan: f"{plan['hardware_flops_per_step']:.3e}"),
      ("HBM traffic a chip", lambda plan: f"{plan['hbm_traffic_bytes'] / 1e9:.2f} GB"),
      *((f"{kind} a chip", lambda plan, kind=kind:
         f"{plan['collective_bytes'].get(kind, 0) / 1e9:.3f} GB") for kind in kinds),
      ("loops counted once, of unknown length", lambda plan: str(plan["unknown_loops"] or "")),
      ("compute", milli("compute_seconds")),
      ("HBM", milli("hbm_seconds")),
      ("interconnect", milli("interconnect_seconds")),
      ("step time, at least", milli("step_time_bound_seconds")),
      ("  bound by", lambda plan: plan["bound_by"]),
      ("MFU, at most", lambda plan: f"{100 * plan['mfu_cap']:.1f} %"),
      ("images a second", lambda plan: f"{plan['images_per_second']:,.0f}"),
      ("tokens a second", lambda plan: f"{plan['tokens_per_second']:,.0f}"),
      ("hours, at least", lambda plan: f"{plan['hours']:,.2f} for {plan['images']:,.0f}"),
      ("largest batch that fits", _largest),
      ("  its MFU, at most", lambda plan: f"{100 * plan['at_largest_batch']['mfu_cap']:.1f} %"),
  ]
  rows = [[name, *(_cell(cell, plan) for plan in plans)] for name, cell in lines]
  rows = [row for row in rows if set(row[1:]) != {"–"}]
  widths = [max(len(row[i]) for row in rows) for i in range(len(plans) + 1)]
  return "\n".join("  ".join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows)


def _largest(plan: dict[str, Any]) -> str:
  size, above = plan["largest_batch"], plan["batch_too_large"]
  if plan["largest_batch_exact"]:
    return f"{size:,}"
  return f"at least {size:,}" + (f" ({above:,} does not fit)" if above else "")


def _cell(cell, plan) -> str:
  try:
    return cell(plan) or "–"
  except (KeyError, TypeError, AttributeError):  # not known of this plan
    return "–"


def _gib(size: float) -> str:
  return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
  cli.run(main)
