"""The pictures of the VAE beside the diffusion model, from the part's data alone."""

from typing import Any

import numpy as np

from experiments.paper import part


def draw(data: dict[str, Any]) -> dict[str, Any]:
  return {"steps": _steps(data["plane"]), "gap": _gap(data["plane"], data["digits"]),
          "digit_steps": _digit_steps(data["digits"]),
          "training": _training(data["plane"], data["digits"]),
          "plane": _clouds(data["plane"]["clouds"]), "digits": _digits(data["digits"]["pictures"])}


def _gap(plane, digits):
  """L_K − L₁ against K, for both models and both data sets."""
  figure, panels = part.plt.subplots(1, 2, figsize=(10.0, 4.0))
  for axes, found, title in zip(panels, (plane, digits), ("plane", "digits"), strict=True):
    size = found["sizes"]
    _errors(axes, size["counts"][1:], found["vae_gap"], part.ACCENT, "VAE")
    _errors(axes, size["chain_counts"][1:], found["chain_gap"], part.SECOND,
            f"diffusion, {size['chain']} steps")
    axes.set(title=title, xlabel="draws of the encoder K", xscale="log",
             ylabel="$L_K - L_1$, nats: the gap, at least")
    _ticks(axes, size["counts"][1:])
  _level(panels[0], plane["vae_exact_gap"], part.ACCENT, "VAE, integrated")
  _level(panels[0], _chain_ledger(plane), part.SECOND, "diffusion, at most (ledger)")
  for axes in panels:
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize=8)
  figure.tight_layout()
  return figure


def _training(plane, digits):
  """The ELBO of the VAEs by step, on what they train on and on what they are stopped by."""
  figure, panels = part.plt.subplots(1, 2, figsize=(10.0, 3.8))
  for axes, found, title in zip(panels, (plane, digits), ("plane", "digits"), strict=True):
    learnt, watched = (np.array(found[name]) for name in ("vae_elbo", "vae_watched"))
    steps = np.linspace(0.0, found["sizes"]["steps"], 1 + len(learnt))[1:]
    best = np.array(found["vae_best"])
    # One look is a point, and no line.
    axes.plot(steps, learnt, color=part.ACCENT, alpha=0.35, lw=1.0, marker=".", ms=3)
    axes.plot(steps, watched, color=part.INK, lw=1.0, marker=".", ms=3)
    axes.plot(best, watched.max(0), ls="", marker="o", ms=9, mfc="none", color=part.INK)
    for line, label in zip((axes.lines[0], axes.lines[learnt.shape[1]], axes.lines[-1]),
                           ("trained on (mean of a stretch)", "held out", "kept"), strict=True):
      line.set_label(label)
    # The first steps are far below all that comes after.
    every = np.concatenate([learnt, watched])
    low, high = np.quantile(every, 0.1), every.max()
    axes.set(title=title, xlabel="training step", ylabel="ELBO, nats an example",
             ylim=(low - 0.3 * (high - low), high + 0.1 * (high - low)))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
  figure.tight_layout()
  return figure


def _steps(plane):
  """How far from an exact pair, by number of steps; the VAE is one level for all."""
  figure, axes = part.plt.subplots(figsize=(7.0, 5.0))
  steps = np.array(plane["ladder"], float)
  exact = np.array(plane["exact"])
  axes.plot(steps, exact[-1, 0] * steps[-1] / steps, color=part.GREY, lw=0.8, ls=":",
            label="slope −1")
  _errors(axes, steps, exact, part.THIRD, "diffusion, exact score: KL of the paths")
  _errors(axes, plane["network_ladder"], [entry["total"] for entry in plane["network"]],
          part.SECOND, "diffusion, network: KL of the paths")
  _errors(axes, plane["weighed"], plane["exact_gap"], part.FOURTH,
          "diffusion, exact score: gap, at least", marker="v", ls="")
  _level(axes, plane["continuous"]["total"], part.SECOND, "diffusion, network, n → ∞")
  _level(axes, plane["vae_joint_kl"], part.ACCENT, "VAE: gap + KL(data‖model)", ls="-.")
  _level(axes, plane["vae_exact_gap"], part.ACCENT, "VAE: gap")
  axes.set(xlabel="steps n of the reverse chain", xscale="log", yscale="log",
           ylabel="nats from an exact prior–posterior pair")
  _ticks(axes, sorted({*plane["ladder"], *plane["network_ladder"]}))
  axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)
  return figure


def _digit_steps(digits):
  """−log q of held-out digits by number of steps, bounds and the ODE's."""
  figure, axes = part.plt.subplots(figsize=(7.0, 4.2))
  size = digits["sizes"]
  _errors(axes, digits["ladder"], digits["ladder_nats"], part.SECOND, "diffusion, n steps: ELBO")
  _errors(axes, [size["chain"]], [digits["chain_iw_nats"]], part.FOURTH,
          f"the same, $L_{{{size['chain_counts'][-1]}}}$", marker="v", ls="")
  _level(axes, digits["continuous_nats"], part.SECOND, "diffusion, n → ∞: bound (η = 1)")
  _level(axes, digits["flow_nats"], part.THIRD, "diffusion, ODE", ls="-.")
  _level(axes, digits["vae_elbo_nats"], part.ACCENT, "VAE: ELBO")
  _level(axes, digits["vae_iw_nats"], part.ACCENT, f"VAE: $L_{{{size['counts'][-1]}}}$", ls="-.")
  axes.set(xlabel="steps n of the reverse chain", xscale="log",
           ylabel="−log q of held-out digits, nats (or at most)")
  _ticks(axes, digits["ladder"])
  axes.legend(frameon=False, fontsize=8)
  return figure


def _clouds(clouds):
  """Points of both models beside as many of the blurred density."""
  names = ["real", *(name for name in clouds if name != "real")]
  points = {name: np.array(clouds[name]) for name in names}
  low, high = np.quantile(points["real"], [0.002, 0.998], axis=0)
  margin = 0.15 * (high - low)
  figure, panels = part.plt.subplots(
      1, len(names), figsize=(3.1 * len(names), 3.4), sharex=True, sharey=True)
  for axes, name in zip(panels, names, strict=True):
    axes.scatter(*points[name].T, s=2, lw=0, alpha=0.5,
                 color=part.INK if name == "real" else
                 part.ACCENT if name == "VAE" else part.SECOND)
    axes.set(title="blurred density" if name == "real" else name, aspect="equal",
             xlabel="x₁, standard units", xlim=(low[0] - margin[0], high[0] + margin[0]),
             ylim=(low[1] - margin[1], high[1] + margin[1]))
  panels[0].set_ylabel("x₂, standard units")
  figure.tight_layout()
  return figure


def _digits(pictures):
  """Samples of both models beside real digits, a row a class."""
  names = ["real", *(name for name in pictures if name != "real")]
  figure, panels = part.plt.subplots(1, len(names), figsize=(2.6 * len(names), 5.6))
  for axes, name in zip(panels, names, strict=True):
    images = np.array(pictures[name])
    classes, columns, h, w = images.shape
    sheet = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=images.max())
    axes.imshow(sheet.transpose(0, 2, 1, 3).reshape(classes * (h + 1), columns * (w + 1)),
                cmap="gray", interpolation="nearest")
    axes.set(title=name, xticks=[], xlabel="samples",
             yticks=(h + 1) * np.arange(classes) + h / 2, yticklabels=range(classes))
    axes.tick_params(length=0)
    for side in axes.spines.values():
      side.set_visible(False)
  panels[0].set_ylabel("label")
  figure.tight_layout()
  return figure


def _chain_ledger(plane):
  return plane["network"][plane["network_ladder"].index(plane["sizes"]["chain"])]["total"]


def _errors(axes, x, estimates, color, label, *, marker="o", ls="-"):
  value, error = np.array(estimates, float).reshape(-1, 2).T
  axes.errorbar(x, value, yerr=error, color=color, label=label, marker=marker, ms=4, lw=1.2, ls=ls,
                capsize=2)


def _ticks(axes, steps):
  """A tick at every number of steps, in plain figures."""
  axes.set_xticks(steps, [f"{n:,}" for n in steps])
  axes.xaxis.set_minor_locator(part.plt.NullLocator())


def _level(axes, estimate, color, label, *, ls="--"):
  """A level with its standard error as a band."""
  value, error = np.array(estimate, float)
  axes.axhline(value, color=color, ls=ls, lw=1.2, label=label)
  axes.axhspan(value - error, value + error, color=color, alpha=0.12, lw=0)
