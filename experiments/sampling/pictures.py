"""Pictures: samples beside real data, reverse trajectories, the loss by noise level."""

import pathlib

import matplotlib
import numpy as np

from experiments import data
from experiments.run import records
from langevin_jax import training as library_training

matplotlib.use("Agg")  # a run has no screen; must precede pyplot
import matplotlib.pyplot as plt

INK, ACCENT, SECOND = "#222222", "#b5452c", "#2c6fb5"


def training(workdir: pathlib.Path, run) -> None:
  """loss.png: the loss over steps; loss_by_level.png: ‖ε − ε̂‖² by noise level, early and late."""
  lines = records.read_metrics(workdir)
  if not lines:
    return
  figure, axes = plt.subplots(figsize=(6, 3.6))
  axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=ACCENT)
  axes.set(xlabel="step", ylabel=f"loss ({run.config.objective.weight} weight)", yscale="log")
  _save(figure, workdir / "loss.png")

  # The centres of the bins of ℓ; the two open ones are drawn half a bin beyond their edge.
  edges = np.array(library_training.LEVEL_EDGES)
  width = edges[1] - edges[0]
  centres = np.append(edges - 0.5 * width, edges[-1] + 0.5 * width)
  figure, axes = plt.subplots(figsize=(6, 3.6))
  parts = np.array_split(np.arange(len(lines)), min(4, len(lines)))
  for i, part in enumerate(parts):
    error = np.sum([lines[j]["level_error"] for j in part], axis=0)
    count = np.sum([lines[j]["level_count"] for j in part], axis=0)
    seen = count >= 20
    axes.plot(centres[seen], error[seen] / count[seen], color=ACCENT, alpha=(i + 1) / len(parts),
              label=f"to step {lines[part[-1]]['step']}")
  axes.axhline(1.0, color=INK, lw=0.6, ls=":")
  axes.set(xlabel="half log-SNR ℓ = log(α/σ)   (noise ← → data)",
           ylabel="mean squared error of ε", yscale="log")
  axes.legend(frameon=False)
  _save(figure, workdir / "loss_by_level.png")


def samples(file: pathlib.Path, dataset: data.Dataset, x: np.ndarray, labels: np.ndarray) -> None:
  """Samples beside real data, both in the user's units; images by class, points as densities.

  Samples alone, where the data set has no examples.
  """
  real = data.restore(dataset, data.taken(dataset.test))
  shown = {"samples": (x, labels)} | (
      {"real": (real, dataset.test_labels[:len(real)])} if len(real) else {})
  if dataset.kind == "image":
    figure, panels = plt.subplots(1, len(shown), figsize=(5 * len(shown), 6), squeeze=False)
    given = sorted(set(labels.tolist()))
    # Samples without a label are of no class.
    rows_fit = len(given) == 1 or dataset.num_classes <= 12
    classes = given if given[-1] < dataset.num_classes and rows_fit else []
    for axes, (title, (images, own)) in zip(panels.ravel(), shown.items(), strict=True):
      rows = layout(own, classes, len(images))
      _tile(axes, [images[row] for row in rows], max(1, *map(len, rows)), dataset.value_range)
      axes.set_title(title)
    return _save(figure, file)
  if dataset.kind != "vector" or x.shape[1] < 2:
    return None
  reference = real if len(real) else x
  project = _plane(dataset, reference)
  low, high = np.quantile(project(reference), [0.001, 0.999], axis=0)
  margin = 0.15 * (high - low)
  limits = np.stack([low - margin, high + margin], axis=1)
  figure, panels = plt.subplots(1, len(shown), figsize=(4.5 * len(shown), 4.5), sharex=True,
                                sharey=True, squeeze=False)
  for axes, (title, (points, _)) in zip(panels.ravel(), shown.items(), strict=True):
    axes.hist2d(*project(points).T, bins=100, range=limits, cmap="magma")
    axes.set(title=title, aspect=_aspect(dataset))
  return _save(figure, file)


def layout(labels: np.ndarray, classes: list[int], n: int) -> list[np.ndarray]:
  """Which of n images stand in each row of a sheet, up to eight in each.

  A row for each of several classes, else as many full rows as there are images, up to eight: of the
  one class where there is one.
  """
  if len(classes) > 1:
    return [np.flatnonzero(labels == value)[:8] for value in classes]
  index = np.flatnonzero(labels == classes[0]) if classes else np.arange(n)
  return np.split(index[:64], range(8, min(len(index), 64), 8))


def inpainted(
    file: pathlib.Path, dataset: data.Dataset, x: np.ndarray, known, *, real: bool
) -> None:
  """Known, result and, where there is one, real: a column an image, or points and their results.

  Unknown pixels are blue. `known` is the run's `drawing.Known`.
  """
  n = min(len(x), 16)
  index = np.arange(n)
  values, mask = known.restored[index % len(known.restored)], known.mask[index % len(known.mask)]
  shown = {"known": values, "result": x[:n]} | ({"real": _real(dataset, n)} if real else {})
  if dataset.kind == "image":
    return strips(file, dataset, shown, ~mask.all(axis=-1))
  held_out = data.restore(dataset, data.taken(dataset.test))
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
  """Named rows of n images each; in the first, what is `unknown` (n, h, w) is blue."""
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
  """The first n held-out examples, over again where there are fewer, in the user's units."""
  return data.restore(dataset, dataset.test[np.arange(n) % data.count_taken(dataset.test)])


def trajectories(
    file: pathlib.Path, dataset: data.Dataset, runs: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
  """Reverse runs by name: (ρ of n + 1 levels, states (n + 1, m, *shape) at unit scale √(α² + σ²)).

  Images become strips, noise at the left; points become curves over the real data.
  """
  figure, panels = plt.subplots(1, len(runs), figsize=(6.5 * len(runs), 5.5), squeeze=False)
  for axes, (name, (rho, states)) in zip(panels.ravel(), runs.items(), strict=True):
    axes.set_title(name)
    if dataset.kind == "image":
      # Evenly spread in the angle atan ρ between data and noise, where the picture changes.
      angle = np.arctan(rho)
      wanted = np.linspace(angle[0], 0.0, 10)
      shown = np.unique(np.abs(angle[:, None] - wanted).argmin(0))
      _tile(axes, list(np.swapaxes(states[shown], 0, 1)), len(shown), (-2.0, 2.0))
      size = states.shape[3] + 1
      axes.set_xticks(size * np.arange(len(shown)) + 0.5 * size,
                      [f"{rho[i]:.2g}" for i in shown], fontsize=8)
      axes.set_xlabel("noise-to-signal ratio ρ = σ/α")
    elif dataset.kind == "vector" and states.shape[-1] >= 2:
      held_out = data.taken(dataset.test)
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
  """A projection of the user's units to two dimensions: none where there are two."""
  if real.shape[-1] == 2 or np.ndim(dataset.scale) == 0:
    return _principal(real)
  # The feature of the largest scale would be the principal axis.
  standard = lambda x: data.standardise(x, dataset.mean, dataset.scale)
  project = _principal(standard(real))
  return lambda x: project(standard(x))


def _principal(real: np.ndarray):
  """A projection to two dimensions: none where there are two, else onto the principal plane."""
  if real.shape[-1] == 2:
    return lambda x: x
  mean = real.mean(0)
  axes = np.linalg.svd(real - mean, full_matrices=False)[2][:2]
  return lambda x: (x - mean) @ axes.T


def _aspect(dataset: data.Dataset) -> str:
  """Equal where features are coordinates of one space."""
  return "equal" if np.ndim(dataset.scale) == 0 else "auto"


def _tile(axes, rows: list[np.ndarray], columns: int, value_range) -> None:
  """Rows of images (k ≤ columns, h, w, c) as one picture with a pixel between them."""
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
  """Grey levels between 0 and 1."""
  low, high = value_range if value_range is not None else (-2.0, 2.0)
  return np.clip((image - low) / (high - low), 0.0, 1.0)


def _save(figure, file: pathlib.Path) -> None:
  figure.tight_layout()
  figure.savefig(file, dpi=130, bbox_inches="tight")
  plt.close(figure)
