"""Question 3: why better than a VAE? Both models, of the same data, held to one measure (§4).

A VAE and a diffusion model are pairs of an encoder q(z | x) and a decoder p(z) p(x | z). The pair
is exact where the encoder is the posterior of the decoder, and the decoder's law is the data's:

  KL(p_data(x) q(z | x) ‖ p(z) p(x | z)) = KL(p_data‖p) + E KL(q(z | x)‖p(z | x)).

The last term is the gap. Of a diffusion model the left side is the path KL of the ledger.
"""

import math

import numpy as np

from experiments.paper import part, vae_digits, vae_pictures, vae_plane, vae_tables

_PAIR = "§4, why superior to VAEs"


def measure(setting: part.Setting) -> part.Findings:
  plane, digits = vae_plane.measure(setting), vae_digits.measure(setting)
  data = {"plane": plane, "digits": digits, "slope": slope(plane["ladder"], plane["exact"])}
  near, sets = "means and standard errors over", (plane["sizes"]["seeds"], vae_digits.SETS)
  tables = [
      vae_tables.budgets(plane, digits), vae_tables.of_plane(plane),
      vae_tables.of_samples(
          plane["distances"],
          f"Samples in the plane, against the blurred density: {near} {sets[0]} sets"),
      vae_tables.of_digits(digits),
      vae_tables.of_samples(
          digits["distances"],
          f"Samples of digits, {digits['judged']} against as many real: {near} {sets[1]} sets")]
  return part.Findings(_claims(data), data, _captions(data), tables)


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
  size, network = plane["sizes"], {
      n: entry["total"] for n, entry in zip(
          plane["network_ladder"], plane["network"], strict=True)}
  chain = _minus(plane["chain_path_kl"], network[size["chain"]])
  over = plane["vae_over"]
  better = _minus(plane["vae_exact_gap"], plane["continuous"]["total"])
  joint = _minus(plane["vae_joint_kl"], plane["continuous"]["total"])
  finest = _minus(plane["vae_exact_gap"], plane["exact"][-1])
  chains = _minus(plane["vae_exact_gap"], plane["chain_gap"][-1])
  density = _minus(plane["vae_kl"], plane["flow_kl"])
  told = _minus(plane["distances"]["VAE"]["C2ST accuracy"],
                plane["distances"]["diffusion, chain"]["C2ST accuracy"])
  likely = _minus(digits["vae_iw_nats"], digits["continuous_nats"])
  looks = _minus(min(digits["distances"][name]["FID"] for name in digits["distances"]
                       if "VAE" in name), digits["distances"]["diffusion"]["FID"])
  pair = "an exact prior–posterior pair"
  return [
      part.claim("The ELBO of the network’s chain and the ledger, two ways to the path KL of "
                 f"{size['chain']} steps, agree (difference, nats).", chain[0], error=chain[1],
                 near=0.0, sigmas=4.0, source="MATH §8"),
      part.claim(f"The VAE’s bound of {size['counts'][-1]:,} draws is no more than its "
                 "log-likelihood, integrated over the latent plane (excess, nats).", over[0],
                 error=over[1], below=4.0 * over[1] + plane["vae_integral"],
                 source="Burda et al. 2016"),
      part.claim(f"With the exact score, the diffusion pair nears {pair} as 1/n in the steps "
                 "(slope of the path KL over the finest steps).", data["slope"][0],
                 error=data["slope"][1], near=-1.0, tolerance=0.15, source="MATH §8"),
      part.claim(f"With the exact score and {plane['ladder'][-1]:,} steps, no gap is left that the "
                 "VAE’s would not exceed (VAE’s gap − path KL, nats).", finest[0], error=finest[1],
                 above=0.0, source=_PAIR, by="paper"),
      part.claim(f"The trained diffusion model, in continuous time, is nearer to {pair} than the "
                 "trained VAE (VAE’s gap + KL − path KL, nats).", joint[0], error=joint[1],
                 above=0.0, source=_PAIR, by="paper"),
      part.claim("So is its gap alone, at most its path KL (VAE’s gap − path KL, nats).",
                 better[0], error=better[1], above=0.0, source=_PAIR, by="paper"),
      part.claim(f"Its gap is smaller already at {size['chain']} steps, of which the paper does "
                 "not speak (VAE’s gap − the chain’s importance-weighted gap, nats).", chains[0],
                 error=chains[1], above=0.0, source=_PAIR, by="paper"),
      part.claim("Held-out points of the plane are likelier under the diffusion model’s ODE "
                 "(difference of KL(data‖model), nats).", density[0], error=density[1], above=0.0,
                 source="§1", by="paper"),
      part.claim("A classifier tells samples of the VAE from real points more surely than those of "
                 "the chain (difference of accuracy).", told[0], error=told[1], above=0.0,
                 source="§1", by="paper"),
      part.claim("Held-out digits are likelier under the diffusion model: by its upper bound of "
                 "−log q against the VAE’s tightest (difference, nats an image).", likely[0],
                 error=likely[1], above=0.0, source="§1", by="paper"),
      part.claim("Samples of digits are nearer to real ones than the better of the VAE’s means and "
                 "draws (difference of FID).", looks[0], error=looks[1], above=0.0, source="§1",
                 by="paper")]


def _minus(a: list[float], b: list[float]) -> list[float]:
  """The difference of two estimates, taken as independent."""
  return [a[0] - b[0], math.hypot(a[1], b[1])]


def _captions(data) -> dict[str, str]:
  plane, digits = data["plane"], data["digits"]
  size = plane["sizes"]
  return {
      "gap": "What the encoder is short of being the decoder’s posterior, by one estimator for "
             "both models: L_K − L₁ rises with K to the gap. Left, dashed: what it rises to, the "
             "VAE’s gap by integration; and what it cannot exceed, the chain’s path KL. Errors: "
             "standard errors over held-out examples, and seeds of the VAE.",
      "steps": "Nats between the encoder’s and the decoder’s joint laws in the plane. With the "
               "exact score the diffusion pair becomes exact as 1/n; with the network it ends at "
               "its score error; the VAE has one step and stays where training left it. "
               "Triangles: what of the exact chain’s path KL is gap, at least (L_K − L₁, K = "
               f"{size['chain_counts'][-1]}). Errors and bands: standard errors over groups of "
               "points, held-out points or seeds.",
      "digit_steps": "The same of digits, where −log q is all that can be known, the data’s "
                     "entropy being the same for all. Lower is better; every line but the ODE’s is "
                     "an upper bound. Errors and bands: standard errors over "
                     f"{digits['sizes']['digits']} held-out digits.",
      "plane": "Draws of the blurred density and of the models of it (the VAE of the first seed; "
               f"the chain of {size['chain']} steps).",
      "digits": "Real digits, and samples by label, as whole grey levels. What the decoder’s mean "
                "leaves out, its draw has as noise, pixel by pixel."}


TEXT = """**The paper’s answer (§4).** Forward and reverse process are an exact prior–posterior
pair: run backwards, the reverse process returns exactly the data. An ordinary VAE asks of its
decoder only to fit an encoder that is learned too, and nothing makes one the posterior of the
other, even at the best ELBO.

**What is measured.** A pair is exact where its two joint laws of data and latents are equal. Their
KL is KL(data‖model) plus the **gap** E KL(encoder‖posterior): for a VAE, and for a diffusion model
with the whole chain of noise levels as its latents, where it is the path KL of the ledger, prior +
score error + discretisation. In the plane both terms of the VAE are integrated on a grid, and the
chain’s gap is held between an importance-weighted bound and the path KL. Both models are of the
same data, blurred by the same ρ, so that nats compare. On digits both are told the label.

**How to read it.** A small gap alone means little: a VAE that ignores its latent has none. So gap
and KL stand side by side, with their sum, which is what training minimises in both.

**What it shows.** The diffusion pair has no floor but its score error and its steps, and with the
exact score its gap vanishes as 1/n. The encoder of a VAE has a shape, Gaussian here, which the
posterior of its decoder need not have.

**What it does not show.** One small family of VAEs with constant decoder noise, on the same data
and with the budget of the first table, stopped by held-out data and not tuned further;
hierarchical VAEs and better encoders are left out. The gap of the trained diffusion model
is bounded, not known; on digits bound − ODE is its gap only where the network is the score of a
diffused density, and latents, networks and optimisers differ. A chain of few steps has a gap of its
own, which may be more than the VAE’s. And a sample costs the diffusion model many calls of a whole
network, where the VAE needs half of one, once: nothing is said of equal work per sample."""

PART = part.Part(
    name="vae", title="Question 3 — why better than a VAE?", text=TEXT, measure=measure,
    figures=vae_pictures.draw)

if __name__ == "__main__":
  part.main(PART)
