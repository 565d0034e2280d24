"""Question 3: why better than a VAE? Both models, of the same data, held to one measure (§4).

A VAE and a diffusion model are pairs of an encoder q(z | x) and a decoder p(z) p(x | z). The pair
is exact where the encoder is the posterior of the decoder, and the decoder's law is the data's:

  KL(p_data(x) q(z | x) ‖ p(z) p(x | z)) = KL(p_data‖p) + E KL(q(z | x)‖p(z | x)).

The last term is the gap. Of a diffusion model the left side is the path KL of the ledger: the gap
is no more than that.
"""

import math
from typing import Any

import numpy as np

from experiments.paper import part, vae_digits, vae_pictures, vae_plane, vae_tables

_PAIR, _DENOISING = "§4, why superior to VAEs", "§1, iterative denoising"


def measure(setting: part.Setting) -> part.Findings:
  plane, digits = vae_plane.measure(setting), vae_digits.measure(setting)
  data = {"plane": plane, "digits": digits, "slope": slope(plane["ladder"], plane["exact"])}
  near, sets = "means ± standard errors over", (plane["sizes"]["seeds"], vae_digits.SETS)
  tables = [
      vae_tables.budgets(plane, digits), vae_tables.of_plane(plane),
      vae_tables.of_samples(
          plane["distances"],
          f"Samples in the plane, against the blurred density: {near} {sets[0]} sets"),
      vae_tables.of_digits(digits),
      vae_tables.of_samples(
          digits["distances"],
          f"Samples of digits, {digits['judged']} against as many real, FID by the features of a "
          f"small classifier trained here: {near} {sets[1]} sets")]
  return part.Findings(
      _claims(data), data, _captions(data), tables, _answer(data, setting.fast))


def slope(steps: list[int], estimates: list[list[float]], last: int = 4) -> list[float]:
  """[slope, standard error] of log value against log n over the `last` rungs, by least squares.

  Args:
    estimates: [value, error] at each of the steps; values positive.

  Raises:
    ValueError: fewer than two rungs.
  """
  if len(steps) < 2:
    raise ValueError(f"steps must be two or more, got {steps}")
  value, error = np.array(estimates, float)[-last:].T
  u = np.log(np.array(steps, float)[-last:])
  weight = (u - u.mean()) / np.sum((u - u.mean()) ** 2)
  return [float(weight @ np.log(value)), float(np.sqrt(np.sum((weight * error / value) ** 2)))]


def _claims(data) -> list[part.Claim]:
  plane, digits = data["plane"], data["digits"]
  size = plane["sizes"]
  chain = _minus(plane["chain_path_kl"], _network(plane)[size["chain"]])
  over, total = plane["vae_over"], plane["continuous"]["total"]
  # Two estimators that share no draws; of L_K − L₁ ≥ 0 alone nothing would follow.
  excess = max((_minus(gap, plane["exact"][plane["ladder"].index(n)]) for n, gap in zip(
      plane["weighed"], plane["exact_gap"], strict=True)), key=lambda one: one[0] / one[1])
  pair = "an exact prior–posterior pair"
  return [
      part.claim("The ELBO of the network’s chain and the ledger, two ways to the path KL of "
                 f"{size['chain']} steps, agree (difference, nats).", chain[0], error=chain[1],
                 near=0.0, sigmas=4.0, source="theory.md#likelihood"),
      part.claim(f"The VAE’s bound of {size['counts'][-1]:,} draws is no more than its "
                 "log-likelihood, integrated over the latent plane (excess, nats).", over[0],
                 error=over[1], below=4.0 * over[1] + plane["vae_integral"],
                 source="Burda et al. 2016"),
      part.claim("With the exact score, the gap found by importance weights is no more than the "
                 "path KL of as many steps (largest excess, nats).", excess[0], error=excess[1],
                 below=4.0 * excess[1], source="theory.md#likelihood"),
      part.claim(f"With the exact score, the diffusion pair nears {pair} as 1/n in the steps "
                 "(slope of the path KL over the finest steps).", data["slope"][0],
                 error=data["slope"][1], near=-1.0, source="theory.md#likelihood",
                 tolerance=0.15 + 4.0 * data["slope"][1]),  # of an order, and of Monte Carlo
      more(f"With the exact score and {plane['ladder'][-1]:,} steps, the diffusion model’s whole "
           "path KL is less than the VAE’s gap (VAE’s gap − path KL, nats).",
           plane["vae_exact_gap"], plane["exact"][-1], _PAIR),
      more(f"The trained diffusion model, in continuous time, is nearer to {pair} than the "
           "trained VAE (VAE’s gap + KL − path KL, nats).", plane["vae_joint_kl"], total, _PAIR),
      more("Its gap alone, at most its path KL, is smaller too (VAE’s gap − path KL, nats).",
           plane["vae_exact_gap"], total, _PAIR),
      more("Held-out points of the plane are likelier under the diffusion model’s ODE "
           "(VAE’s KL(data‖model) − the ODE’s, nats).", plane["vae_kl"], plane["flow_kl"],
           _DENOISING),
      more("A classifier tells samples of the VAE from real points more surely than those of "
           f"the chain of {size['chain']} steps (difference of accuracy).",
           *(plane["distances"][name]["C2ST accuracy"] for name in ("VAE", "diffusion, chain")),
           _DENOISING),
      more("The upper bound of −log q of held-out digits is lower for the diffusion model in "
           "continuous time than for the VAE’s most draws (VAE’s − diffusion’s, nats an image).",
           digits["vae_iw_nats"], digits["continuous_nats"], _DENOISING),
      more("Samples of digits are nearer to real ones than the better of the VAE’s means and "
           "draws (difference of FID).", _best_fid(digits),
           digits["distances"]["diffusion"]["FID"], _DENOISING)]


def more(text: str, vae: list[float], diffusion: list[float], source: str) -> part.Claim:
  """The paper's claim that a number is larger for the VAE: by more than two standard errors."""
  value, error = _minus(vae, diffusion)
  return part.claim(text, value, error=error, above=2.0 * error, source=source, by="paper")


def _network(plane) -> dict[int, list[float]]:
  """The network's path KL by number of steps."""
  return {n: entry["total"] for n, entry in zip(
      plane["network_ladder"], plane["network"], strict=True)}


def _best_fid(digits) -> list[float]:
  return min(row["FID"] for name, row in digits["distances"].items() if "VAE" in name)


def _minus(a: list[float], b: list[float]) -> list[float]:
  """The difference of two estimates, taken as independent."""
  return [a[0] - b[0], math.hypot(a[1], b[1])]


def _answer(data: dict[str, Any], fast: bool) -> str:
  """The paper's question answered by what was measured, in words that hold whatever that is."""
  pm, plane, digits = vae_tables.pm, data["plane"], data["digits"]
  size, facts = plane["sizes"], digits["facts"]
  begin = (
      f"In this fast run the networks had only {plane['facts']['steps']:,} steps of training in "
      f"the plane and {facts['steps']:,} on digits, the VAEs {size['steps']:,} and "
      f"{digits['sizes']['steps']:,}, so claims of the paper that fail may want training alone. "
      if fast else "")
  best, ends = (" and ".join(f"{n:,}" for n in sorted(set(of["vae_best"])))
                for of in (digits, plane))
  return begin + (
      "Because a diffusion model’s encoder is known and its decoder can become its exact reverse, "
      "while nothing makes the encoder of a VAE the posterior of its decoder. In the plane the "
      f"trained VAE ends {pm(plane['vae_joint_kl'])} nats from an exact prior–posterior pair, "
      f"{pm(plane['vae_exact_gap'])} of them its gap; the trained diffusion model in continuous "
      f"time {pm(plane['continuous']['total'])} in all, and with the exact score "
      f"{pm(plane['exact'][-1])} at n = {plane['ladder'][-1]:,} steps, falling as n to the power "
      f"{pm(data['slope'])}. But a chain of few steps is no exact pair either: at {size['chain']} "
      f"steps the network’s gap is at least {pm(plane['chain_gap'][-1])} nats, though its samples’ "
      f"KL from the data is at most {pm(plane['chain_kl'])}, the VAE’s {pm(plane['vae_kl'])}. On "
      f"digits −log q is at most {pm(digits['continuous_nats'])} nats an image for the diffusion "
      f"model and at most {pm(digits['vae_iw_nats'])} for the VAE, and FID "
      f"{pm(digits['distances']['diffusion']['FID'])} against {pm(_best_fid(digits))}. This is one "
      "small VAE beside one network of about as many parameters: it says nothing of larger or "
      "hierarchical VAEs, nor of equal work, for on digits the VAE was trained for "
      f"{digits['vae_seconds']:.1f} s and the diffusion model for {facts['seconds']:.1f} s, in the "
      f"plane for {plane['vae_seconds']:.1f} s and {plane['facts']['seconds']:.1f} s. The VAE did "
      f"best on held-out digits after {best} of its {digits['sizes']['steps']:,} steps, in the "
      f"plane after {ends} of {size['steps']:,}: near the end of its training it might gain by "
      "more.")


def _captions(data) -> dict[str, str]:
  plane, digits = data["plane"], data["digits"]
  size = plane["sizes"]
  return {
      "steps": "The paper’s argument as a curve: nats between the encoder’s and the decoder’s "
               "joint laws in the plane. A step of the chain decodes with one Gaussian about a "
               "guess made at its noisier end. The exact reverse of a large step is none: with few "
               "steps that costs much. "
               "With the exact score it costs half as much at twice the steps, so that the pair "
               "becomes exact as 1/n (dotted); the network’s curve ends at its score error "
               "(dashed). The VAE decodes in one step: its two levels stay where training left "
               "them. Triangles: how much of the exact chain’s path KL is gap, at least (L_K − "
               f"L₁, K = {size['chain_counts'][-1]}). Errors and bands: standard errors over "
               "groups of points, held-out points or seeds.",
      "gap": "What the encoder is short of being the decoder’s posterior, by one estimator for "
             "both models: L_K − L₁ rises with K to the gap, and a curve that still rises is below "
             "it. Left, dashed: what it rises to, the VAE’s gap by integration; and what it cannot "
             f"exceed, the path KL of the chain of {size['chain']} steps. Errors: standard errors "
             "over held-out examples, and seeds of the VAE.",
      "digit_steps": "The same of digits, where −log q is all that can be known: the entropy of "
                     "the data, the same for all, is not. Lower is better; every line but "
                     "the ODE’s is an upper bound. Errors and bands: standard errors over "
                     f"{digits['sizes']['digits']} held-out digits, and seeds of the VAE.",
      "training": "The VAEs as they learn, a line a seed: the ELBO of the examples trained on "
                  "(pale), and of held-out ones that are neither trained on nor judged (dark). "
                  "Circles: where it is highest, which is the VAE that is judged. Where the dark "
                  "line has turned down, longer training would not help this VAE; where it still "
                  "rises, it would.",
      "plane": "Draws of the blurred density and of the models of it (the VAE of the first seed; "
               f"the chain of {size['chain']} steps).",
      "digits": "Real digits, and samples by label, as whole grey levels. What the decoder’s mean "
                "leaves out, its draw has as noise, pixel by pixel."}


TEXT = """**The paper’s answer (§4).** Forward and reverse process are an exact prior–posterior
pair: run backwards, the reverse process returns exactly the data. Training adds an error, but the
target is exact. An ordinary VAE asks of its decoder only to fit an encoder that is learned too, and
nothing makes one the posterior of the other, even at the best ELBO.

**What is measured.** A pair is exact where its two joint laws of data and latents are equal. Their
KL is KL(data‖model) plus the **gap** E KL(encoder‖posterior): for a VAE, and for a diffusion model
with the whole chain of noise levels as its latents, where it is the path KL of the ledger, prior +
score error + discretisation. In the plane both terms of the VAE are integrated on a grid, and the
chain’s gap is held between an importance-weighted bound and the path KL. Both models are of the
same data, blurred by the same ρ, so that nats compare. On digits both are told the label.

**How to read it.** A small gap alone means little: a VAE that ignores its latent has none. Nor does
a large one alone: with the exact score the path KL of a chain falls as 1/n, but the KL of its
samples as 1/n², so that a chain of few steps has a gap and may sample well. So gap and KL stand
side by side, with their sum, which is what training minimises in both. A claim by the paper counts
as held where the difference is more than two standard errors.

**What it shows.** The diffusion pair has no floor but its score error and its steps, and with the
exact score its gap vanishes as 1/n. The encoder of a VAE has a shape, Gaussian here, which the
posterior of its decoder need not have. It may have it: of a Gaussian density a VAE can be exact
too, and the paper’s claims may then fail.

**What it does not show.** One small family of VAEs with constant decoder noise, of the same data
and about as many parameters, taken where held-out data say it is best and not tuned further;
hierarchical VAEs and better encoders are left out. The first table has the seconds of training:
they are of one size in the plane, not on digits, where a step of the transformer costs far more
than one of the VAE. The gap of
the trained diffusion model is bounded, not known; on digits bound − ODE is its gap only where the
network is the score of a diffused density. The paper speaks of the exact process, not of a chain of
few steps, whose gap may be more than the VAE’s. Among the real digits that samples are held against
are those trained on, so that FID would not punish a model that repeats them. And a sample costs the
diffusion model many calls of a whole network, where the VAE needs half of one, once: nothing is
said of equal work per sample."""

PART = part.Part(
    name="vae", title="Question 3 — why better than a VAE?", text=TEXT, measure=measure,
    figures=vae_pictures.draw)

if __name__ == "__main__":
  part.main(PART)
