"""Tables 1–7 and the paper's errata: what is printed beside what the library's code computes."""

from typing import Any

from experiments.paper import part

_TEXT = """
The paper's seven tables say that VP, VE-Karras and rectified flow are one process in three
coordinates, that forward and reverse processes are two halves of one Langevin step, and that score,
noise and velocity, and the losses that teach them, are linear forms of one another. **Every formula
of every table is checked here against the code that samples and trains.**

Each table is shown twice. First as the paper prints it. Then cell by cell: the printed formula; the
one that the library computes, derived by running its own functions on symbols instead of numbers;
the printed one minus that one, simplified, with every noise level written through the one ratio
ρ = σ/α; and the largest relative difference between the printed formula and the library's float64
numbers at random noise levels, states and scores. ✓ stands where the two formulas are the same and
the numbers agree to rounding. The library knows a path by its α and σ alone, so a ✓ means that the
cell follows from those two. A cell that only names something is shown and not checked, and an
expectation 𝔼 is compared as what it is taken of, the loss of one example. The ends T and Σ of the
reverse times are options of the library, shown with their defaults.

Where the paper errs the printed cell stands with its ✗ and its residual, and the corrected one
follows. The last table lists everything in the paper that is wrong, silent or only true in a limit,
with the residual that shows it and the form that holds.

**How to read the picture.** One of the errata: the formulas of rectified flow have no value at pure
noise, where sampling begins. Both panels run towards it from left to right. What a solver in the
path's own time has to evaluate grows without bound; what the finite step works with does not.
"""


def measure(setting: part.Setting) -> part.Findings:
  # sympy is an extra of this part alone; it is asked for here and not on import.
  from experiments.paper import cells, comparison, layouts, limits, printed

  claims, tables, data = [], [], {"cells": {}, "difference": {}}
  for number in printed.TABLES:
    compared = comparison.compared(cells.cells(number), setting.seed, 32 if setting.fast else 512)
    if number == 4:
      compared += [comparison.domain(row) for row in printed.TABLES[4].rows]
    tables += [layouts.as_printed(number), layouts.beside(number, compared)]
    claims += layouts.claims(number, compared)
    data["cells"][number] = len(compared)
    data["difference"][number] = max(c.difference for c in compared if c.residual == 0)
  claims.append(part.claim(
      "At random noise levels, states and scores the library's float64 numbers are those of the "
      "formulas, up to rounding (largest relative difference over all cells).",
      max(data["difference"].values()), below=comparison.ROUNDING, source="Tables 1–7"))
  table, found = layouts.errata_table(setting)
  ends, caption = limits.towards_the_end()
  return part.Findings(claims=claims + found, tables=[*tables, table], data=data | {"ends": ends},
                       captions={"ends": caption})


def figures(data: dict[str, Any]) -> dict[str, Any]:
  """Rectified flow's coefficients towards its noisy end, and the numbers of the step across it."""
  ends = data["ends"]
  figure, (left, right) = part.plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
  for key, label, colour in (("f", "|f|, drift of Table 1 (and factor of r in v)", part.ACCENT),
                             ("g_squared", "g², noise of Table 1", part.SECOND)):
    left.loglog(ends["left"], ends[key], color=colour, label=label)
  left.set(xlabel="time left to pure noise, 1 − s", ylabel="size of the coefficient")
  for key, label, colour in (("a", "a, of the state x", part.ACCENT),
                             ("b", "b, of the denoised D", part.SECOND),
                             ("c", "c, of fresh noise ξ", part.THIRD)):
    right.semilogx(ends["left"], ends[key], color=colour, label=label)
  right.set(xlabel="time left to pure noise, 1 − s", ylabel="weight in the step to s′ = 0.9 s",
            ylim=(-0.05, 1.05))
  for axes, title in ((left, "the forward SDE"), (right, "the finite step from s to s′, η = 1")):
    axes.invert_xaxis()
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
  return {"ends": figure}


PART = part.Part(
    name="tables", title="Tables 1–7, and what the paper gets wrong", text=_TEXT.strip(),
    measure=measure, figures=figures, x64=True)

if __name__ == "__main__":
  part.main(PART)
