"""Question 1: how does the reverse process invert the forward one? Duality, eq. 11 of the paper.

If the reverse process starts from the law q_0 = p_T at which the forward one has arrived (eq. 10),
the two have the same law at every level, q_{t'} = p_{T−t'}. On the line the law of a sampler with
the exact score is computed without Monte Carlo (`duality_line`) and held against the exact density,
for every path × η, level by level, as KL(p‖q); in the plane particles are held against exact draws
(`duality_plane`).

With --workdir=… the same is asked of a trained run, whose data have no known density: see
`certificate`.
"""

import math

import numpy as np
from absl import flags
from scipy import stats

from experiments.config import cli
from experiments.paper import certificate, duality_line, duality_plane, part
from experiments.paper import duality_pictures as pictures
from experiments.run import assembly, subprocesses


def measure(setting: part.Setting) -> part.Findings:
  # Fewer steps are near enough to their limit only where the range of noise is shorter.
  counts, ends = ((40, 80), (10.0, 0.2)) if setting.fast else ((40, 80, 160, 320), (20.0, 0.1))
  line = duality_line.on_the_line(setting.density.line, counts, ends)
  first = duality_line.at_the_start(setting.density.line, min(counts[-1], 160), ends[1])
  plane = duality_plane.in_the_plane(setting, ends)
  return part.Findings(
      [*line_claims(line), *plane_claims(plane), *start_claims(first)],
      {"line": line, "plane": plane, "start": first}, pictures.captions(line, plane, first),
      [order_table(line), start_table(first)], answer=answer(line, plane, first))


def answer(line: dict, plane: dict, first: dict) -> str:
  """To the paper's question, "How does the reverse process invert the forward process?"."""
  end = np.asarray(line["end"])[..., -1].max((1, 2))
  excess, spread = _excess(plane)
  kept, forgot = ([v[-1] / v[0] for v in np.asarray(first["kl"])][first["etas"].index(eta)]
                  for eta in (0.0, 1.0))
  number = lambda v: part.number(float(v), 2)
  return (
      "It brings back the law of the noisy data, not the single sample: started from the law at "
      "which the forward process has arrived, it has the forward law at every level of noise. With "
      f"the exact score and {line['counts'][-1]} steps from ρ = {line['ends'][0]:g} to "
      f"{line['ends'][1]:g}, the law at the data's end differs from the exact one by at most "
      f"{number(end[0])} nats (STEP; the paper's Table 4 as it stands: {number(end[1])}) for all "
      f"{len(line['paths'])} paths and η from {line['etas'][0]:g} to {line['etas'][-1]:g}. This "
      f"falls with the number of steps n as n^−{_last_order(line)[0].mean():.1f}: it is the error "
      f"of the steps alone. In the plane, sliced W2 between {plane['n']:,} particles and exact "
      "draws exceeds that between exact draws and exact draws by "
      f"{number(excess)} ± {part.number(float(spread), 1)}. What must be right is the start: "
      f"N(0, σ²I) at ρ = {first['from']:g} is wrong by {number(first['kl'][0][0])} nats, "
      f"of which at the data's end the ODE has {kept:.0%} and the SDE (η = 1) {forgot:.0%}, with "
      "the errors of the steps in both.")


def orders(line: dict) -> np.ndarray:
  """Order of the KL in the step size between successive counts: (schemes, paths, ETAS, counts − 1).

  STEP and Euler–Maruyama are of weak order 1, so a density is wrong by O(1/n), and KL, which is
  quadratic in that, by O(1/n²): 2.
  """
  return -np.diff(np.log2(np.asarray(line["end"])), axis=-1)


def _last_order(line: dict) -> np.ndarray:
  """Order over the last halving of the KL summed over η, (schemes, paths).

  At a single η the leading error may happen to vanish, as it does for Gaussians.
  """
  end = np.asarray(line["end"]).sum(2)
  return np.log2(end[..., -2] / end[..., -1])


def line_claims(line: dict) -> list[part.Claim]:
  end = np.asarray(line["end"])
  farthest = lambda v: v.ravel()[np.argmax(np.abs(v - 2.0))]
  kl = np.asarray(line["kl"])
  own = dict(zip(line["paths"], range(len(line["paths"])), strict=True))
  ode = [np.ptp(end[:, own[name], 0], axis=0).max() for name in ("VE", "rectified flow")]
  bound = np.asarray(line["bound"])
  return [
      *(part.claim(
          f"Duality at every level, in the limit of small steps of {said}: √KL that halving the "
          "steps for ever would leave, at the worst level and path (KL summed over η), in units of "
          f"the largest in the finest run{but}.", left.max(), near=0.0,
          tolerance=2.0**1.1 - 2.0, source="eq. 11", by="paper")
        for said, but, left in zip(
            ("STEP", "Table 4's equations in the path's own time"),
            ("", "; where first steps are long at the noisy end two runs are too few to tell"),
            pictures.remainder(line), strict=True)),
      *(part.claim(
          f"{said} has a KL of order 2 in the step size: of all paths the order farthest from 2, "
          "over the last halving (KL summed over η; each by itself is in the table).",
          farthest(order), near=2.0, tolerance=0.2, source="theory.md#solvers")
        for said, order in zip((
            "STEP", "Table 4's equations by Euler–Maruyama in the path's own time"),
            _last_order(line), strict=True)),
      part.claim(
          "On one grid STEP has one law, whatever the path: largest difference of VP's and VE's "
          "KL, over levels and η, in nats.",
          np.abs(kl[0, own["VP"]] - kl[0, own["VE"]]).max(), below=1e-12, source="Table 2"),
      part.claim(
          "The ODE row of Table 4 by Euler is STEP at Λ = 0 (DDIM) for VE and for rectified flow: "
          "largest difference of KL, nats.", max(ode), below=1e-9,
          source="Table 4; theory.md#step"),
      part.claim(
          "At η = 1 the laws of the ends differ by less than the processes do, by the bound "
          "Σ∫e^{2ℓ}(mmse(ℓ_i) − mmse(ℓ))dℓ: largest ratio, over paths and numbers of steps.",
          (end[0, :, line["etas"].index(1.0)] / bound).max(), below=1.0,
          source="eq. 17; theory.md#likelihood"),
      part.claim(
          "No law leaves the nodes it is summed on: largest part that does, in the finest runs.",
          line["outside"], below=1e-6, source="quadrature")]


def _excess(plane: dict) -> tuple[float, float]:
  """Of sliced W2 over the null, with its standard error over runs: levels are not independent."""
  each = (np.asarray(plane["value"]) - np.asarray(plane["null"])).mean(-1).ravel()
  return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each)))


def plane_claims(plane: dict) -> list[part.Claim]:
  value, null = np.asarray(plane["value"]), np.asarray(plane["null"])
  whole = (value - null).reshape(-1, value.shape[-1])
  level = whole.mean(0) / whole.std(0, ddof=1) * math.sqrt(len(whole))
  excess, error = _excess(plane)
  return [
      part.claim(
          "In the plane, particles of the reverse process and exact draws are as near as exact "
          "draws and exact draws: excess of sliced W2, averaged over levels, paths and η.",
          excess, error=error, near=0.0, sigmas=4.0, source="eq. 11", by="paper"),
      part.claim(
          f"And at each of {len(level)} levels by itself: the largest excess, in standard errors "
          "(chance passes this bound at any level with probability 1 %).", level.max(),
          below=stats.t.ppf(1.0 - 0.01 / len(level), len(whole) - 1), source="eq. 11",
          by="paper"),
      part.claim(
          "The measure sees a failure: with a D that is a fifth too small, the least distance at "
          "the data's end over the largest that exact draws have there.",
          np.asarray(plane["broken"])[:, -1].min() / null[..., -1].max(), above=1.0,
          source="sliced W2")]


def start_claims(first: dict) -> list[part.Claim]:
  plain, moments, wanted = (np.asarray(first[k]) for k in ("plain", "moments", "difference"))
  kl, exact = np.asarray(first["kl"]), np.asarray(first["exact"])
  # Small errors of a density add up as lengths, KL being their square: (1 + r)² − 1 < 3r.
  r = math.sqrt(exact[0, -1] / kl[0, 0])
  sde = first["etas"].index(1.0)
  return [
      part.claim(
          "Starting from N(0, σ²I) costs what the Gaussian with the data's moments costs plus the "
          "KL between the two Gaussians: largest difference over noise levels, nats.",
          np.abs(plain - moments - wanted).max(), below=1e-7,
          source="theory.md#initial-noise"),
      part.claim(
          "The ODE keeps that cost: KL at the data's end over KL at the start, within what the "
          "steps themselves cost.", kl[0, -1] / kl[0, 0], near=1.0, tolerance=3.0 * r,
          source="eq. 10, A.3"),
      part.claim(
          "The SDE (η = 1) forgets it: KL at the data's end over KL at the start.",
          kl[sde, -1] / kl[sde, 0], below=1.0, source="A.3")]


def order_table(line: dict) -> part.Table:
  end, order = np.asarray(line["end"]), orders(line)
  rows = [["path", *(f"{scheme}, η = {eta:g}" for scheme in line["schemes"]
                     for eta in line["etas"])]]
  for p, name in enumerate(line["paths"]):
    rows.append([name, *(
        f"{part.number(end[s, p, e, -1], 2)} ({', '.join(f'{v:.2f}' for v in order[s, p, e])})"
        for s in range(len(line["schemes"])) for e in range(len(line["etas"])))])
  counts = ", ".join(map(str, line["counts"]))
  return part.Table(f"KL at the data's end in nats, at {line['counts'][-1]} steps, and its orders "
                    f"between {counts} steps", rows)


def start_table(first: dict) -> part.Table:
  rows = [["path", "ρ at its own T", "KL(p_T‖N(0, σ²I)), nats", "the same with moments, nats"]]
  for name, rho in first["own"].items():
    finite = float(rho) < 1e6
    rows.append([name, part.number(float(rho)) if finite else "∞",
                 *(part.number(float(first[k][name]), 2) if finite else "0"
                   for k in ("own_plain", "own_moments"))])
  return part.Table("What eq. 10 is worth where each path ends", rows)


PART = part.Part(
    name="duality", title="Question 1 — How does the reverse process invert the forward one?",
    measure=measure, figures=pictures.figures, x64=True,
    text="""The paper's answer (§3.2 and §4): forward and reverse steps add up to a Langevin step,
which leaves the law of the noisy data as it is, so the reverse step must undo what the forward one
did to it. Started from the law p_T at which the forward process has arrived (eq. 10), the reverse
process has **the law of the forward process at every level**, q_{t'} = p_{T−t'} (eq. 11), and ends
in the data's (eq. 12). Single samples are not undone: only laws are.

Here that is measured with the exact score. On the line the law of a sampler's state is computed by
quadrature, without random numbers, and compared with the exact density at every level as KL(p‖q),
for eight paths, one of them a user's own two functions, and for the ODE (η = 0), the SDE (η = 1),
one between and one beyond. **STEP** holds D during a step and is exact otherwise; **own time** is
the paper's Table 4 as it stands, by Euler–Maruyama in each path's own clock. Steps are equal in the
path's time, but for VP and VE, which have the levels of Karras et al. What is left is the error of
the steps: it must vanish as their number grows, with order 2 for a KL. In the plane, clouds of
particles are compared with exact draws level by level, by sliced Wasserstein distance, beside what
two clouds of exact draws are apart.

The paper starts from a Gaussian, saying that p_T has become one. At finite noise it has not
(erratum: the prior term is dropped in §5). What this costs, what becomes of it on the way, and how
little is left when the data's mean and variance are put into the start, is the last picture.""")


def main() -> None:
  if flags.FLAGS.until_stdin_closes:
    subprocesses.end_with_stdin()
  assembly.keep_compiled()
  workdir, options = flags.FLAGS.workdir, part.options()
  if workdir:
    certificate.said(part.run(certificate.part(workdir), options, extra=certificate.extra(workdir)),
                     options.out)
  else:
    part.said(part.run(PART, options))


if __name__ == "__main__":
  part.define_flags()
  flags.DEFINE_string(
      "workdir", "", "A trained run: where on the axis of noise it breaks duality. The exact "
      "answer if not given.")
  cli.run(main)
