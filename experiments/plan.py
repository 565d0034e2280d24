"""The cost of a training step on a TPU slice, computed on a machine without a TPU.

  make plan      (in an environment of its own), or, where libtpu is installed:
  python -m experiments.plan --config=experiments/configs/latent_dit_xl2.py \\
    --topology=v5e:16x16,v5p:8x8x8 --out=plan.json

The sharded training step of the config is compiled for every topology. HBM, collectives and
products are those of this program. Times are lower bounds (planning/roofline.py). If a program does
not fit in memory, the bound is that of the model's products, and values that need the program are
null. Shards of examples are not needed.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.config import cli
from experiments.planning import compiling, costs, model_flops, roofline, topologies
from experiments.run import assembly, memory, meshes, records

flags.declare_key_flag("config")
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "TPU slices to plan for, such as v5e:16x16,v5p:8x8x8.")
_OUT = flags.DEFINE_string("out", "", "JSON file for the plans, one object per topology.")
_IMAGES = flags.DEFINE_float(
    "images", 0.0, "Number of training images, for the hours; 0: steps × batch of the config.")
_LARGEST = flags.DEFINE_bool(
    "largest_batch", True, "Find the largest batch that fits, by a few more compilations.")


def main() -> int:
  config = cli.config()
  requested = topologies.parse(_TOPOLOGY.value)
  if not 0.0 <= _IMAGES.value < float("inf"):
    raise ValueError(f"--images must be 0 or more, got {_IMAGES.value}")
  topologies.prepare_environment()
  for topology in requested:
    compiling.check(config, topology)
  examples = data.shape_of(config.data)
  topologies.require_libtpu()
  # A bad --out is an error before the compilations, which take minutes.
  out = cli.out(_OUT.value, lambda plans: "topology" in plans[0],
                inputs=data.files(config.data)) if _OUT.value else None
  plans: list[dict[str, Any]] = []
  try:
    for topology in requested:
      # A plan is known before its largest batch, for which there are more compilations.
      for i, plan in enumerate(_plan(config, examples, topology)):
        plans = [*plans[:len(plans) - bool(i)], plan]
        if out:
          records.write_text(out, json.dumps(plans, indent=2) + "\n")
  except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
    missing = ", ".join(topology.name for topology in requested[len(plans):])
    raise ValueError(f"{error}; not planned: {missing}") from error
  finally:
    if plans:
      print("\n".join([_table(plans), *([f"written to {out}"] if out else [])]), flush=True)
  return 0


def _plan(
    config: config_lib.Config, examples: tuple[tuple[int, ...], int, dict[str, Any], int],
    topology: topologies.Topology,
) -> Iterator[dict[str, Any]]:
  """Yields the plan of one topology, in the form of the JSON file; then with its largest batch.

  Args:
    examples: `data.shape_of` the data.
  """
  shape, num_classes, kinds, vocabulary = examples
  mesh = meshes.make(config.mesh, topologies.devices(topology))
  job = compiling.Job(config, *examples, topology, mesh)
  batch, capacity = config.training.batch_size, topology.chip.hbm_bytes
  model_flops_of_step = model_flops.of_step(
      config, shape, num_classes, mesh, kinds, vocabulary)
  images = _IMAGES.value or config.training.steps * batch
  speed = lambda step: _speed(job, step, model_flops_of_step * step.batch_size / batch, images)
  state = jax.eval_shape(
      assembly.assemble(config, shape, num_classes, mesh, kinds, vocabulary).init,
      jax.random.key(0))
  step = _compile(job, batch)
  plan = {
      "topology": topology.name,
      "chips": topology.chips,
      "mesh": dict(mesh.shape),
      "global_batch": batch,
      "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
      "fits": compiling.fits(step, capacity),
      "hbm_per_chip_bytes": step.hbm_bytes,
      "hbm_capacity_bytes": capacity,
      "model_flops_per_step": model_flops_of_step,
      **speed(step),
  }
  yield plan
  if _LARGEST.value:
    print(f"{_table([plan])}\nthe largest batch:", flush=True)
    unit = meshes.batch_parts(config.training, mesh)
    largest, too_large = compiling.search(
        step, unit, capacity, lambda size: _compile(job, size))
    plan["largest_batch"] = largest.batch_size if largest else 0
    plan["batch_too_large"] = too_large.batch_size if too_large else None
    plan["largest_batch_exact"] = plan["batch_too_large"] == plan["largest_batch"] + unit
    if largest:
      at_largest = speed(largest)
      plan["at_largest_batch"] = {key: at_largest[key] for key in (
          "step_time_bound_seconds", "mfu_cap", "images_per_second", "hours")}
    yield plan


def _compile(job: compiling.Job, batch_size: int) -> compiling.Step:
  """Compiles a step and prints its progress, because it takes a minute."""
  name = job.topology.name
  print(f"{name}: compiling the step at batch {batch_size} …", flush=True)
  start = time.monotonic()
  step = compiling.compile_step(job, batch_size)
  print(f"{name}: batch {batch_size} needs {_gib(step.hbm_bytes)} of "
        f"{_gib(job.topology.chip.hbm_bytes)} a chip ({time.monotonic() - start:.0f} s)",
        flush=True)
  return step


def _speed(
    job: compiling.Job, step: compiling.Step, flops: float, images: float
) -> dict[str, Any]:
  """The values of a plan that follow from the roofline of a step with `flops` model FLOPs.

  If the step does not fit in memory, the bound is the time of the model FLOPs at peak speed, and
  unknown values are None.
  """
  spent, topology, network = step.spent, job.topology, job.config.network
  line = (roofline.roofline(spent, topology, job.mesh.devices.flat) if spent else
          roofline.Roofline(flops / (topology.chips * topology.chip.flops), None, None))
  tokens = memory.tokens(network, job.shape) if network.name == "dit" else None
  rate = step.batch_size / line.bound
  return {
      "hardware_flops_per_step": spent and spent.flops * topology.chips,
      "hbm_traffic_bytes": spent and spent.hbm_bytes,
      "collective_bytes": spent and costs.collective_bytes(spent),
      "unknown_loops": spent and spent.unknown_loops,
      "compute_seconds": line.compute,
      "hbm_seconds": line.hbm,
      "interconnect_seconds": line.interconnect,
      "step_time_bound_seconds": line.bound,
      "bound_by": line.limit,
      "mfu_cap": roofline.mfu_cap(flops, topology, line.bound),
      "images_per_second": rate,
      "tokens_per_second": tokens and rate * tokens,
      "images": images,
      "hours": roofline.hours(images, step.batch_size, line.bound),
  }


def _table(plans: list[dict[str, Any]]) -> str:
  """The table as text: one column per topology, one row per value that at least one plan has."""
  columns = [_cells(plan) for plan in plans]
  names = list(dict.fromkeys(name for cells in sorted(columns, key=len, reverse=True)
                             for name in cells))
  rows = [[name, *(cells.get(name, "–") for cells in columns)] for name in names]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = ["  ".join([row[0].ljust(widths[0]), *(
      cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]).rstrip()
           for row in rows]
  if refused := [plan["topology"] for plan in plans if plan["hbm_seconds"] is None]:
    lines.append(f"refused for memory: {', '.join(refused)}; HBM traffic and collectives are not "
                 "known, and the bound is of the model's products alone")
  return "\n".join(lines)


def _cells(plan: dict[str, Any]) -> dict[str, str]:
  """The rows of one plan, by name."""
  milli = lambda seconds: f"{1e3 * seconds:.1f} ms"
  known = plan["hbm_seconds"] is not None
  cells = {
      "": plan["topology"],
      "chips": str(plan["chips"]),
      "mesh": " × ".join(f"{n} {axis}" for axis, n in plan["mesh"].items() if n > 1) or "1",
      "global batch": f"{plan['global_batch']:,}",
      "parameters": f"{plan['parameters'] / 1e6:,.1f} M",
      "HBM a chip": _gib(plan["hbm_per_chip_bytes"]),
      "  its capacity": _gib(plan["hbm_capacity_bytes"]),
      "  fits": "yes" if plan["fits"] else "NO",
      "model FLOPs a step": f"{plan['model_flops_per_step']:.3e}"}
  if known:
    cells |= {
        "hardware FLOPs a step": f"{plan['hardware_flops_per_step']:.3e}",
        "HBM traffic a chip": f"{plan['hbm_traffic_bytes'] / 1e9:.2f} GB",
        **{f"{kind} a chip": f"{size / 1e9:.3f} GB"
           for kind, size in plan["collective_bytes"].items()}}
    if plan["unknown_loops"]:
      cells["loops counted once, of unknown length"] = str(plan["unknown_loops"])
  cells["compute"] = milli(plan["compute_seconds"])
  if known:
    cells |= {"HBM": milli(plan["hbm_seconds"]),
              "interconnect": milli(plan["interconnect_seconds"])}
  cells |= {
      "step time, at least": milli(plan["step_time_bound_seconds"]),
      "  bound by": plan["bound_by"],
      "MFU, at most": f"{100 * plan['mfu_cap']:.1f} %",
      "images a second": f"{plan['images_per_second']:,.0f}"}
  if plan["tokens_per_second"]:
    cells["tokens a second"] = f"{plan['tokens_per_second']:,.0f}"
  cells["hours, at least"] = f"{plan['hours']:,.2f} for {plan['images']:,.0f}"
  if "largest_batch" in plan:
    cells["largest batch that fits"] = _largest(plan)
  if "at_largest_batch" in plan:
    cells["  its MFU, at most"] = f"{100 * plan['at_largest_batch']['mfu_cap']:.1f} %"
  return cells


def _largest(plan: dict[str, Any]) -> str:
  """The largest batch as text."""
  size, above = plan["largest_batch"], plan["batch_too_large"]
  if plan["largest_batch_exact"]:
    return f"{size:,}"
  return f"at least {size:,}" + (f" ({above:,} does not fit)" if above else "")


def _gib(size: float) -> str:
  """A number of bytes as text in GiB."""
  return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
  cli.run(main)
