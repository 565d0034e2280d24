"""Pictures: samples beside real data, reverse trajectories, the loss over steps and levels."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

from experiments import data
from experiments.run import records
from langevin_jax import training as library_training

matplotlib.use("Agg")  # a run has no screen; must precede pyplot
import matplotlib.pyplot as plt

INK, ACCENT, SECOND = "#222222", "#b5452c", "#2c6fb5"
# A sheet of images has at most this many pixels, and rows for at most this many classes.
_SHEET_PIXELS, _MOST_CLASSES = 2**22, 100


def training(workdir: pathlib.Path, run) -> None:
  """Writes loss.png, the loss over steps, and loss_by_level.png, ‖ε − ε̂‖² by noise level.

  The second has one curve for each quarter of the training. Autoencoders have no noise level.
  """
  lines = records.read_metrics(workdir)
  if not lines:
    return
  figure, axes = plt.subplots(figsize=(6, 3.6))
  axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=ACCENT,
            marker="" if len(lines) > 1 else "o")
  autoencoder = run.config.objective.autoencoder
  name = autoencoder.name if autoencoder else f"loss ({run.config.objective.weight} weight)"
  axes.set(xlabel="step", ylabel=name, yscale="log")
  _save(figure, workdir / "loss.png")
  if autoencoder:
    return

  # The centres of the bins of ℓ. The first and last bin are unbounded: their points lie half a
  # bin beyond the edge.
  edges = np.array(library_training.LEVEL_EDGES)
  width = edges[1] - edges[0]
  centres = np.append(edges - 0.5 * width, edges[-1] + 0.5 * width)
  figure, axes = plt.subplots(figsize=(6, 3.6))
  parts = np.array_split(np.arange(len(lines)), min(4, len(lines)))
  for i, part in enumerate(parts):
    error = np.sum([lines[j]["level_error"] for j in part], axis=0)
    count = np.sum([lines[j]["level_count"] for j in part], axis=0)
    enough = count >= 20
    axes.plot(centres[enough], error[enough] / count[enough], color=ACCENT,
              alpha=(i + 1) / len(parts), label=f"to step {lines[part[-1]]['step']}")
  tokens = bool(run.dataset.vocabulary)
  if not tokens:
    axes.axhline(1.0, color=INK, lw=0.6, ls=":")
  axes.set(xlabel="half log-SNR ℓ = log(α/σ)   (noise ← → data)", yscale="log",
           ylabel="nats a token, per unit of α" if tokens else "mean squared error of ε")
  axes.legend(frameon=False)
  _save(figure, workdir / "loss_by_level.png")


def can_draw(dataset: data.Dataset) -> bool:
  """Whether samples have a picture: images, and vectors of two features or more."""
  return dataset.kind == "image" or (dataset.kind == "vector" and dataset.train.shape[1] > 1)


def samples(file: pathlib.Path, dataset: data.Dataset, x: np.ndarray, labels: np.ndarray) -> None:
  """Draws samples beside real data, both in the user's units, (n, *shape) with labels (n,).

  Images are sorted by class; points are drawn as densities. At most 2²² pixels of images are shown,
  and as many real images of each class. Without held-out examples only samples are drawn.
  """
  real = data.restore(dataset, data.in_memory(dataset.test))
  columns = {"samples": (x, labels)} | (
      {"real": (real, dataset.test_labels[:len(real)])} if len(real) else {})
  if dataset.kind == "image":
    return _sheets(file, dataset, columns)
  if not can_draw(dataset):
    return None
  reference = real if len(real) else x
  project = _plane(dataset, reference)
  low, high = np.quantile(project(reference), [0.001, 0.999], axis=0)
  margin = 0.15 * (high - low)
  limits = np.stack([low - margin, high + margin], axis=1)
  figure, panels = plt.subplots(1, len(columns), figsize=(4.5 * len(columns), 4.5), sharex=True,
                                sharey=True, squeeze=False)
  for axes, (title, (points, _)) in zip(panels.ravel(), columns.items(), strict=True):
    axes.hist2d(*project(points).T, bins=100, range=limits, cmap="magma")
    axes.set(title=title, aspect=_aspect(dataset))
  return _save(figure, file)


def read(file: pathlib.Path) -> np.ndarray:
  """A picture as (height, width, 3) uint8."""
  with file.open("rb") as stream:
    return (plt.imread(stream, format="png")[..., :3] * 255.0).round().astype(np.uint8)


def _sheets(
    file: pathlib.Path, dataset: data.Dataset, sheets: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
  """Draws sheets of images side by side. `sheets` maps a title to (images, labels)."""
  images, labels = sheets["samples"]
  _, h, w, _ = images.shape
  n = min(len(images), max(64, _SHEET_PIXELS // (h * w)))
  classes, counts = np.unique(labels[:n], return_counts=True)
  if classes[-1] >= dataset.num_classes or len(classes) > _MOST_CLASSES:
    classes, counts = [None], [n]  # without labels, or with too many classes: no rows by class
  columns = max(8, int(np.ceil(np.sqrt(n))))
  width = float(np.clip(columns * (w + 1) / 130, 5.0, 20.0))
  figure, panels = plt.subplots(1, len(sheets), figsize=(width * len(sheets), 1.2 * width),
                                squeeze=False)
  for axes, (title, (images, labels)) in zip(panels.ravel(), sheets.items(), strict=True):
    rows = layout(labels, classes, counts, len(images), columns)
    _tile(axes, [images[index] for _, index in rows], columns, dataset.value_range)
    ticks = [(i, dataset.classes[label]) for i, (label, _) in enumerate(rows) if label is not None]
    axes.set_yticks([(h + 1) * i + 0.5 * h for i, _ in ticks], [name for _, name in ticks],
                    fontsize=float(np.clip(72.0 * width / max(len(ticks), 1), 3.0, 10.0)))
    axes.tick_params(length=0)
    axes.set_title(title if len(images) <= n or title != "samples" else
                   f"the first {n} of {len(images)} samples")
  _save(figure, file)


def layout(
    labels: np.ndarray, classes: Sequence[int | None], counts: Sequence[int], n: int, columns: int
) -> list[tuple[int | None, np.ndarray]]:
  """The rows of a sheet of n images, each (class, indices of its images).

  A class has as many rows as its count needs; the class is None in all rows but its first. The
  class None in `classes` stands for all images.
  """
  rows = []
  for label, count in zip(classes, counts, strict=True):
    index = (np.arange(n) if label is None else np.flatnonzero(labels == label))[:count]
    parts = np.split(index, range(columns, len(index), columns))
    rows += [(None if i else label, part) for i, part in enumerate(parts)]
  return rows


def write_pngs(
    directory: pathlib.Path, dataset: data.Dataset, x: np.ndarray, labels: np.ndarray
) -> None:
  """Writes each image to its own PNG, `png_place`, with grey levels scaled to 0 … 255.

  `--config.data=images` reads such a directory.
  """
  for i, (image, label) in enumerate(zip(x, labels, strict=True)):
    png = png_place(directory, dataset, i, int(label))
    records.make_directory(png.parent)
    grey = np.round(255.0 * _scaled(image, dataset.value_range)).astype(np.uint8)
    with png.open("wb") as stream:
      Image.fromarray(grey[..., 0] if grey.shape[-1] == 1 else grey).save(stream, format="PNG")


def png_place(directory: pathlib.Path, dataset: data.Dataset, i: int, label: int) -> pathlib.Path:
  """The file of image i: its number, in the folder of its class if it has one."""
  folder = directory / dataset.classes[label] if label < dataset.num_classes else directory
  return folder / f"{i:06}.png"


def inpainted(
    file: pathlib.Path, dataset: data.Dataset, x: np.ndarray, known, *, real: bool
) -> None:
  """Draws known values, results and, if `real`, the held-out examples; one column per image.

  Unknown pixels are blue. Points are drawn as results over the data. `known` is a `drawing.Known`.
  """
  n = min(len(x), 16)
  index = np.arange(n)
  values, mask = known.restored[index % len(known.restored)], known.mask[index % len(known.mask)]
  rows = {"known": values, "result": x[:n]} | ({"real": _real(dataset, n)} if real else {})
  if dataset.kind == "image":
    return strips(file, dataset, rows, ~mask.all(axis=-1))
  held_out = data.restore(dataset, data.in_memory(dataset.test))
  project = _plane(dataset, held_out if len(held_out) else x)
  figure, axes = plt.subplots(figsize=(5.5, 5.0))
  axes.scatter(*project(data.restore(dataset, dataset.test[:2000])).T, s=2, color="#cccccc")
  if real:
    axes.scatter(*project(_real(dataset, min(len(x), 500))).T, s=8, color=SECOND, label="real")
  axes.scatter(*project(x[:500]).T, s=8, color=ACCENT, label="result")
  axes.legend(frameon=False)
  return _save(figure, file)


def strips(
    file: pathlib.Path, dataset: data.Dataset, rows: dict[str, np.ndarray], unknown: np.ndarray
) -> None:
  """Draws rows of n images, by name; in the first row, pixels `unknown` (n, h, w) are blue."""
  n, h = unknown.shape[:2]
  figure, axes = plt.subplots(figsize=(0.7 * n + 0.8, 0.75 * len(rows) + 0.3))
  coloured = [np.repeat(_scaled(images, dataset.value_range)[..., :3],
                        3 if images.shape[-1] == 1 else 1, axis=-1) for images in rows.values()]
  coloured[0][unknown] = matplotlib.colors.to_rgb(SECOND)
  _tile(axes, coloured, n, (0.0, 1.0))
  axes.set_yticks((h + 1) * np.arange(len(rows)) + 0.5 * (h + 1), list(rows))
  axes.tick_params(length=0)
  _save(figure, file)


def _real(dataset: data.Dataset, n: int) -> np.ndarray:
  """n held-out examples (n, *shape) in the user's units, repeated if there are fewer."""
  return data.restore(dataset, dataset.test[np.arange(n) % data.count_in_memory(dataset.test)])


def trajectories(
    file: pathlib.Path, dataset: data.Dataset, runs: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
  """Draws trajectories by name: (ρ (n + 1,), states (n + 1, m, *shape) at unit scale).

  Unit scale is x/√(α² + σ²). Images become strips, noise at the left; points become curves over the
  real data.
  """
  figure, panels = plt.subplots(1, len(runs), figsize=(6.5 * len(runs), 5.5), squeeze=False)
  for axes, (name, (rho, states)) in zip(panels.ravel(), runs.items(), strict=True):
    axes.set_title(name)
    if dataset.kind == "image":
      # The levels nearest to a uniform grid in the angle atan ρ.
      angle = np.arctan(rho)
      targets = np.linspace(angle[0], 0.0, 10)
      steps = np.unique(np.abs(angle[:, None] - targets).argmin(0))
      _tile(axes, list(np.swapaxes(states[steps], 0, 1)), len(steps), (-2.0, 2.0))
      size = states.shape[3] + 1
      axes.set_xticks(size * np.arange(len(steps)) + 0.5 * size,
                      [f"{rho[i]:.2g}" for i in steps], fontsize=8)
      axes.set_xlabel("noise-to-signal ratio ρ = σ/α")
    elif dataset.kind == "vector" and states.shape[-1] >= 2:
      held_out = data.in_memory(dataset.test)
      project = _principal(held_out if len(held_out) else states[-1])
      axes.scatter(*project(dataset.test[:2000]).T, s=2, color="#cccccc")
      curves = project(states)
      few = curves[:, :12]
      axes.plot(few[..., 0], few[..., 1], lw=0.8, color=SECOND, alpha=0.7)
      axes.scatter(*curves[-1].T, s=6, color=ACCENT, zorder=3)
      axes.scatter(*few[0].T, s=10, color=SECOND, zorder=3)
      axes.set(aspect="equal", xlabel="x/√(α² + σ²): from noise (blue) to data (red)")
  _save(figure, file)


def _plane(dataset: data.Dataset, real: np.ndarray):
  """A function that projects points (…, d) in the user's units to two dimensions (…, 2)."""
  if real.shape[-1] == 2 or np.ndim(dataset.scale) == 0:
    return _principal(real)
  # Without standard units, the feature of the largest scale would be the first principal axis.
  standard = lambda x: data.standardise(x, dataset.mean, dataset.scale)
  project = _principal(standard(real))
  return lambda x: project(standard(x))


def _principal(real: np.ndarray):
  """A function that projects points (…, d) to the two principal axes of `real`; d = 2 is kept."""
  if real.shape[-1] == 2:
    return lambda x: x
  mean = real.mean(0)
  axes = np.linalg.svd(real - mean, full_matrices=False)[2][:2]
  return lambda x: (x - mean) @ axes.T


def _aspect(dataset: data.Dataset) -> str:
  """The aspect of the axes: "equal" if features are coordinates of one space."""
  return "equal" if np.ndim(dataset.scale) == 0 else "auto"


def _tile(axes, rows: list[np.ndarray], columns: int, value_range) -> None:
  """Draws rows of images (k ≤ columns, h, w, c) as one picture, with a pixel between images."""
  h, w, c = rows[0].shape[1:]
  sheet = np.ones((len(rows) * (h + 1), columns * (w + 1), c))
  for i, row in enumerate(rows):
    for j, image in enumerate(row[:columns]):
      sheet[i * (h + 1):i * (h + 1) + h, j * (w + 1):j * (w + 1) + w] = _scaled(image, value_range)
  axes.imshow(sheet[..., 0] if c == 1 else sheet, cmap="gray", vmin=0.0, vmax=1.0,
              interpolation="nearest", aspect="equal")
  axes.set(xticks=[], yticks=[])
  for side in axes.spines.values():
    side.set_visible(False)


def _scaled(image: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
  """Grey levels scaled from `value_range` to [0, 1]; from [−2, 2] without a range."""
  low, high = value_range if value_range is not None else (-2.0, 2.0)
  return np.clip((image - low) / (high - low), 0.0, 1.0)


def _save(figure, file: pathlib.Path) -> None:
  """Writes and closes a figure."""
  figure.tight_layout()
  with records.written(file) as stream:
    figure.savefig(stream, dpi=130, bbox_inches="tight", format=file.suffix[1:])
  plt.close(figure)
