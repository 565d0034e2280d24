"""The pictures of question 3."""

import numpy as np

from experiments.report import charts
from experiments.report.charts import Dots, Level, Line, Panel, measured

_VAE, _NETWORK, _EXACT, _WEIGHED = (
    charts.ACCENT, charts.SECOND, charts.THIRD, charts.FOURTH)


def figures(data: charts.Data) -> charts.Figures:
  both = {"plane": data["plane"], "digits": data["digits"]}
  return {
      "steps": _steps(data["plane"]), "digit_steps": _digit_steps(data["digits"]),
      "gap": charts.draw([_gap(name, found) for name, found in both.items()], size=(10.0, 4.0)),
      "training": charts.draw([_training(name, found) for name, found in both.items()],
                              size=(10.0, 3.8)),
      "plane": _clouds(data["plane"]["clouds"]), "digits": _digits(data["digits"]["pictures"])}


def _level(estimate, label, colour, style="--"):
  return Level(estimate[0], label, estimate[1], style, colour)


def _gap(name, found):
  """L_K − L₁ against K, for both models."""
  size = found["sizes"]
  marks = [measured(size["counts"][1:], found["vae_gap"], "VAE", colour=_VAE),
           measured(size["chain_counts"][1:], found["chain_gap"],
                    f"diffusion, {size['chain']} steps", colour=_NETWORK)]
  if "vae_exact_gap" in found:
    chain = found["network"][list(found["network_ladder"]).index(size["chain"])]
    marks += [_level(found["vae_exact_gap"], "VAE, integrated", _VAE),
              _level(chain["total"], "diffusion, at most (ledger)", _NETWORK)]
  return Panel(marks, "draws of the encoder K", "$L_K - L_1$, nats: the gap, at least", name,
               log="x", ticks=size["counts"][1:], settings={"ylim": (0.0, None)})


def _training(name, found):
  """The ELBO of the VAEs by step, on training data and on those for early stopping."""
  learnt, watched = found["vae_elbo"], found["vae_watched"]
  steps = np.linspace(0.0, found["sizes"]["steps"], 1 + len(learnt))[1:]
  # The first steps are far below all later ones.
  every = np.concatenate([learnt, watched])
  low, high = np.quantile(every, 0.1), every.max()
  each = lambda values, label, colour, **options: [
      Line(steps, seed, None if i else label, style=".-", colour=colour,
           options={"lw": 1.0, "ms": 3, **options}) for i, seed in enumerate(values.T)]
  kept = Line(found["vae_best"], watched.max(0), "kept", style="o", colour=charts.INK,
              options={"ms": 9, "mfc": "none"})
  return Panel(
      [*each(learnt, "trained on (mean over the steps between)", _VAE, alpha=0.35),
       *each(watched, "held out", charts.INK), kept], "training step", "ELBO, nats an example",
      name, settings={"ylim": (low - 0.3 * (high - low), high + 0.1 * (high - low))},
      legend={"loc": "lower right"})


def _steps(plane):
  """Distance from an exact pair by number of steps; the VAE has one level for all."""
  steps, exact = plane["ladder"], plane["exact"]
  return charts.draw([Panel(
      [Line(steps, exact[-1, 0] * steps[-1] / steps, "slope −1", style=":", colour=charts.GREY),
       measured(steps, exact, "diffusion, exact score: KL of the paths", colour=_EXACT),
       measured(plane["network_ladder"], [entry["total"] for entry in plane["network"]],
                "diffusion, network: KL of the paths", colour=_NETWORK),
       measured(plane["weighed"], plane["exact_gap"], "diffusion, exact score: gap, at least",
                style="v", colour=_WEIGHED),
       _level(plane["continuous"]["total"], "diffusion, network, n → ∞", _NETWORK),
       _level(plane["vae_joint_kl"], "VAE: gap + KL(data‖model)", _VAE, "-."),
       _level(plane["vae_exact_gap"], "VAE: gap", _VAE)],
      "steps n of the reverse chain", "nats from an exact prior–posterior pair", log="xy",
      ticks=sorted({*plane["ladder"], *plane["network_ladder"]}),
      legend={"frameon": True, "framealpha": 0.9})], size=(7.0, 5.0))


def _digit_steps(digits):
  """−log q of held-out digits by number of steps: bounds, and that of the ODE."""
  size = digits["sizes"]
  return charts.draw([Panel(
      [measured(digits["ladder"], digits["ladder_nats"], "diffusion, n steps: ELBO",
                colour=_NETWORK),
       measured([size["chain"]], digits["chain_iw_nats"],
                f"the same, $L_{{{size['chain_counts'][-1]}}}$", style="v", colour=_WEIGHED),
       _level(digits["continuous_nats"], "diffusion, n → ∞: bound (η = 1)", _NETWORK),
       _level(digits["flow_nats"], "diffusion, ODE", _EXACT, "-."),
       _level(digits["vae_elbo_nats"], "VAE: ELBO", _VAE),
       _level(digits["vae_iw_nats"], f"VAE: $L_{{{size['counts'][-1]}}}$", _VAE, "-.")],
      "steps n of the reverse chain", "−log q of held-out digits, nats (or at most)", log="x",
      ticks=digits["ladder"])], size=(7.0, 4.2))


def _real_first(found):
  return {"real": found["real"], **found}


def _clouds(clouds):
  """Points of both models beside as many of the blurred density."""
  low, high = np.quantile(clouds["real"], [0.002, 0.998], axis=0)
  margin = 0.15 * (high - low)
  (left, bottom), (right, top) = low - margin, high + margin
  colours = {"real": charts.INK, "VAE": _VAE}
  return charts.draw([
      Panel([Dots(points, colours.get(name, _NETWORK), size=2)], "x₁, standard units",
            "x₂, standard units" if name == "real" else "",
            "blurred density" if name == "real" else name,
            settings={"aspect": "equal", "xlim": (left, right), "ylim": (bottom, top)})
      for name, points in _real_first(clouds).items()], size=(12.4, 3.4), share="xy")


def _digits(pictures):
  """Samples of both models beside real digits, a row a class."""
  panels = []
  for name, images in _real_first(pictures).items():
    classes, columns, h, w = images.shape
    sheet = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=images.max())
    sheet = sheet.transpose(0, 2, 1, 3).reshape(classes * (h + 1), columns * (w + 1))
    panels.append(Panel(
        [charts.Image(np.arange(sheet.shape[1]), np.arange(sheet.shape[0]), sheet,
                      {"cmap": "gray", "shading": "nearest"})],
        "samples", "" if panels else "label", name, settings={
            "aspect": "equal", "xticks": [], "yticks": (h + 1) * np.arange(classes) + h / 2,
            "yticklabels": range(classes), "ylim": (len(sheet), 0)}))
  return charts.draw(panels, size=(2.6 * len(panels), 5.6))
