"""What is claimed of the appendix's equations."""

from typing import Any

import numpy as np

from experiments.paper.claim import Claim, claim, number

TOLERANCE, _ROUNDING = 1e-6, 1e-10
LONG = {"VP": "VP", "VE": "VE-Karras", "RF": "rectified flow"}


def claims(data: dict[str, Any]) -> list[Claim]:
  return [*_stationary(data["stationary"]), *_fokker_planck(data["fokker_planck"]["residual"]),
          *_decay(data["decay"]), *_matching(data["matching"])]


def _stationary(found: dict[str, Any]) -> list[Claim]:
  return [
      claim("Langevin dynamics leaves p as it is, whatever the clock (largest rate at which it "
            f"would move probability, for {len(found['half_log_snr'])} noise levels and "
            f"{len(found['clocks'])} clocks).", found["at_one"].max(), below=_ROUNDING,
            source="A.1, steps 1 and 4", by="paper"),
      claim("Langevin dynamics leaves no other power p^β as it is (smallest rate of the other β).",
            found["others"], above=TOLERANCE, source="A.1, step 4", by="paper")]


def _fokker_planck(residual: dict[str, np.ndarray]) -> list[Claim]:
  closed = [values.max() for name, values in residual.items() if name != "from an SDE"]
  return [
      claim("The density of a diffused mixture obeys the Fokker–Planck equation with the drift and "
            f"noise of its path (largest residual over {len(closed)} paths, in probability per "
            "unit of ℓ).", max(closed), below=_ROUNDING, source="A.2", by="paper"),
      claim("It does with a drift and noise of one's own too, of which α and σ are integrated "
            "numerically (largest residual).", residual["from an SDE"].max(), below=TOLERANCE,
            source="A.2", by="paper")]


def _decay(found: dict[str, Any]) -> list[Claim]:
  rates, sums = np.array(list(found["rate"].values())), found["sums"]
  return [
      claim("KL(p_t‖q_t) falls at the rate ½ g² E‖s_p − s_q‖² (largest difference over three paths "
            f"and {rates.shape[1]} levels, nats per unit of ℓ).",
            max(v.max() for v in found["residual"].values()), below=TOLERANCE,
            source="eq. 17, A.3", by="paper"),
      claim("KL(p_t‖q_t) never rises (smallest rate of fall, nats per unit of ℓ).", rates.min(),
            above=0.0, source="A.3", by="paper"),
      claim("Per unit of ℓ KL falls at one and the same rate for VP, VE and rectified flow, ρ² "
            "E‖s_p − s_q‖² for z = x/α (largest difference between paths, nats).",
            np.ptp(rates, axis=0).max(), below=TOLERANCE, source="eq. 17, Table 2"),
      claim("The rates of all times add up to KL(p₀‖q₀) less what is left at T (largest difference "
            "over three paths, nats).", max(abs(one["missed"]) for one in sums.values()),
            below=TOLERANCE, source="eq. 14"),
      *(claim(f"At the end of {LONG[name]}, T = {number(sums[name]['t_max'])}, nothing is left of "
              "KL(p_T‖q_T) (nats).", sums[name]["left"], near=0.0, tolerance=TOLERANCE,
              source="eq. 14", by="paper") for name in ("VP", "VE"))]


def _matching(found: dict[str, Any]) -> list[Claim]:
  deviation = found["drawn"]["deviation"]
  return [
      claim(f"DSM − SM is one constant for {len(found['models'])} models of the score, mmse/ρ², "
            "the error of the best denoiser in units of ε (largest difference over "
            f"{len(found['half_log_snr'])} levels).", found["residual"].max(), below=TOLERANCE,
            source="A.4", by="paper"),
      claim("For scores of z = x/α the constant is mmse/ρ⁴ = 1/ρ² − E‖s‖² (largest relative "
            "difference).", found["scaled"], below=TOLERANCE, source="theory.md#loss"),
      claim("DSM and SM have one gradient, here in the parameters of a mixture's score at q "
            "(largest difference, relative to the largest component).", found["gradient"],
            below=TOLERANCE, source="eq. 18, A.4", by="paper"),
      claim("The minimiser of SM, the score of p, is that of DSM too (largest component of the "
            "gradient of DSM at p).", found["gradient_at_p"], below=TOLERANCE,
            source="eq. 18, A.4", by="paper"),
      claim(f"The library's training loss on {found['drawn']['n']:,} samples is SM + C (largest of "
            f"{deviation.size} deviations, in standard errors).", deviation.max(), below=4.5,
            source="A.4, Table 6")]


def context(data: dict[str, Any]) -> dict[str, Any]:
  """sums: eq. 14 with its end, by path."""
  nats = lambda value: "0 to rounding" if abs(value) < 1e-14 else number(value)
  return {"sums": [
      ["path", "T", "KL(p₀‖q₀), nats", "sum over all times", "left at T: KL(p_T‖q_T)",
       "does not close by", "KL(p_T‖prior), dropped too"],
      *([LONG[name], number(one["t_max"]), *map(nats, (
          one["start"], one["total"], one["left"], abs(one["missed"]), one["prior"]))]
        for name, one in data["decay"]["sums"].items())]}
