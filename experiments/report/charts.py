"""Pictures as panels of marks: lines, bands, levels, clouds of points, contours and images.

A part's figure is `draw(panels)`; a panel is a list of marks with its labels. Marks are drawn in
their order, and a colour given as a number is that entry of `SERIES`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")  # there may be no screen; must precede pyplot
import matplotlib.pyplot as plt
from matplotlib import ticker

# Colours that keep apart in print and for the colour-blind.
INK, GREY, ACCENT, SECOND, THIRD, FOURTH = (
    "#222222", "#8a8a8a", "#b5452c", "#2c6fb5", "#3c8d5a", "#8a5ab5")
SERIES = (ACCENT, SECOND, THIRD, FOURTH, "#c79a1e", "#4aa3a3", INK, GREY)
LIGHT = "#dddddd"  # of null bands
LOG_SNR = "half log-SNR ℓ   (noise ← → data)"

Colour = str | int | tuple
Data = dict[str, Any]  # what a part measured
Figures = dict[str, Any]


class Line(NamedTuple):
  """Points (x, y) in the style of `plot`; `error`, of y, as bars, or as a band if `shade`."""

  x: Any
  y: Any
  label: str | None = None
  error: Any = None
  style: str = "o-"
  colour: Colour = 0
  shade: bool = False
  options: Mapping[str, Any] = {}

  def draw(self, axes) -> None:
    x, y = np.asarray(self.x, float), np.asarray(self.y, float)
    style = {"ms": 4, "lw": 1.2, "color": _colour(self.colour), **self.options}
    if self.error is None or self.shade:
      axes.plot(x, y, self.style, label=self.label, **style)
    else:
      axes.errorbar(x, y, self.error, fmt=self.style, capsize=2, label=self.label, **style)
    if self.shade:
      error = np.asarray(self.error, float)
      low = np.maximum(y - error, 1e-9) if axes.get_yscale() == "log" else y - error
      axes.fill_between(x, low, y + error, color=style["color"], alpha=0.2, lw=0)


class Band(NamedTuple):
  """The range from low to high, along x, or everywhere where no x is given; `vertical`: of x."""

  low: Any
  high: Any
  label: str | None = None
  x: Any = None
  colour: Colour = LIGHT
  vertical: bool = False

  def draw(self, axes) -> None:
    style = {"color": _colour(self.colour), "lw": 0, "label": self.label}
    if self.x is None:
      span = axes.axvspan if self.vertical else axes.axhspan
      span(float(self.low), float(self.high), **style)
    else:
      axes.fill_between(self.x, self.low, self.high, **style)


class Level(NamedTuple):
  """A horizontal line at a value, with a band of its standard error; `vertical`: at x = value."""

  value: float
  label: str | None = None
  error: float = 0.0
  style: str = "--"
  colour: Colour = INK
  vertical: bool = False

  def draw(self, axes) -> None:
    colour = _colour(self.colour)
    line = axes.axvline if self.vertical else axes.axhline
    line(self.value, color=colour, ls=self.style, lw=1.2, label=self.label)
    if self.error:
      axes.axhspan(self.value - self.error, self.value + self.error, color=colour, alpha=0.12, lw=0)


class Dots(NamedTuple):
  """A cloud of points (n, 2)."""

  x: Any
  colour: Any = 0
  label: str | None = None
  size: float = 4.0
  options: Mapping[str, Any] = {}

  def draw(self, axes) -> None:
    style = {"alpha": 0.5, "lw": 0, **self.options}
    if np.ndim(self.colour):
      style = {"c": self.colour, **style}
    else:
      colour = _colour(self.colour)
      style = {"facecolor": colour, "edgecolor": colour, **style}
    axes.scatter(*np.asarray(self.x, float).T, s=self.size, label=self.label, **style)


class Contours(NamedTuple):
  """A density on a square {"axis": (n,), "density": (n, n)}, as lines at fixed shares of its peak;
  `scale` multiplies the axis."""

  found: Mapping[str, Any]
  scale: float = 1.0

  def draw(self, axes) -> None:
    axis, density = np.asarray(self.found["axis"]) * self.scale, np.asarray(self.found["density"])
    levels = np.array([0.02, 0.08, 0.2, 0.45, 0.75]) * density.max()
    axes.contour(axis, axis, density, levels=levels, colors=GREY, linewidths=0.7, zorder=1)


class Image(NamedTuple):
  """Values (len(y), len(x)) in shades of `cmap`."""

  x: Any
  y: Any
  values: Any
  options: Mapping[str, Any] = {}

  def draw(self, axes) -> None:
    style = {"cmap": "Greys", "shading": "gouraud", "rasterized": True, **self.options}
    axes.pcolormesh(self.x, self.y, np.asarray(self.values), **style)


class SymLog(NamedTuple):
  """A y axis that is linear within ± `linear` and logarithmic beyond."""

  linear: float

  def draw(self, axes) -> None:
    axes.set_yscale("symlog", linthresh=self.linear)


class Panel(NamedTuple):
  """marks in their order. log: of "", "x", "y", "xy". ticks: places on the x axis, or
  {place: label}. settings: of `axes.set`. legend: None for none, or options of `legend`."""

  marks: Sequence[Any]
  xlabel: str = ""
  ylabel: str = ""
  title: str = ""
  log: str = ""
  ticks: Any = None
  settings: Mapping[str, Any] = {}
  legend: Mapping[str, Any] | None = {}


def draw(
    panels: Sequence[Panel], *, size: tuple[float, float], columns: int | None = None,
    share: str = "", below: bool = False, space: float | None = None,
):
  """A figure of panels, row by row.

  Args:
    share: axes that panels share, of "", "x", "y", "xy"; their inner labels are left out.
    below: one legend for all panels, that of the first.
    space: between panels, as a share of a panel's size.
  """
  columns = columns or len(panels)
  figure, grid = plt.subplots(
      -(-len(panels) // columns), columns, figsize=size, squeeze=False, layout="constrained",
      sharex="x" in share, sharey="row" if "row" in share else "y" in share)
  if space is not None:
    figure.get_layout_engine().set(wspace=space, hspace=space)
  for axes, panel in zip(grid.ravel(), panels, strict=False):
    _draw(axes, panel, legend=not below)
    if share == "xy":
      axes.label_outer()
  for axes in grid.ravel()[len(panels):]:
    axes.axis("off")
  if below:
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=6, frameon=False)
  return figure


def _draw(axes, panel: Panel, *, legend: bool) -> None:
  axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title,
           **{f"{axis}scale": "log" for axis in panel.log})
  for mark in panel.marks:
    mark.draw(axes)
  if panel.ticks is not None:
    ticks = panel.ticks if isinstance(panel.ticks, dict) else {v: f"{v:,g}" for v in panel.ticks}
    axes.set_xticks([float(place) for place in ticks], list(ticks.values()))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
  if panel.settings:
    axes.set(**panel.settings)
  if "y" in panel.log:
    _plain_ticks(axes)
  if legend and panel.legend is not None and axes.get_legend_handles_labels()[1]:
    axes.legend(**{"frameon": False, "fontsize": 8, **panel.legend})


def _plain_ticks(axes) -> None:
  """Where a logarithmic axis spans less than two decades: plain numbers at 1, 2 and 5."""
  low, high = axes.get_ylim()
  if high < 100.0 * low:
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())


def measured(x: Any, estimates: Any, label: str | None = None, **options: Any) -> Line:
  """A line through estimates (n, 2) of (mean, standard error); options of `Line`."""
  mean, error = np.reshape(estimates, (-1, 2)).T
  return Line(x, mean, label, error, **options)


def followed(x: Any) -> Dots:
  """Six particles of a cloud, the first ones, in colours that are the same in every panel."""
  options = {"edgecolor": "white", "lw": 0.8, "alpha": 1.0, "zorder": 4}
  return Dots(x[:6], SERIES[:6], size=34, options=options)


def power(x: Any, start: float, exponent: float, label: str | None = None) -> Line:
  """A dotted line ∝ x^exponent through `start` at the smallest x."""
  x = np.sort(np.asarray(x, float))
  return Line(x, start * (x / x[0]) ** exponent, label or f"slope {exponent:g}", style=":",
              colour=INK)


def arrow(start, start_place, end, end_place, colour: Colour) -> None:
  """An arrow between two panels, at places in each panel's unit square."""
  patch = matplotlib.patches.ConnectionPatch(
      start_place, end_place, "axes fraction", "axes fraction", axesA=start, axesB=end,
      arrowstyle="-|>", mutation_scale=20, lw=2.2, color=_colour(colour))
  patch.set_in_layout(False)
  start.figure.add_artist(patch)


def _colour(colour: Any) -> Any:
  return SERIES[colour % len(SERIES)] if isinstance(colour, int) else colour
