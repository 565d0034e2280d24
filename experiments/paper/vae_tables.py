"""The tables of the VAE beside the diffusion model."""

import math
from typing import Any

from experiments.paper import part, vae_plane


def budgets(plane, digits) -> part.Table:
  rows = [["model", "parameters", "training", "seconds", "calls of a network per sample",
           "parameters at work per sample"]]
  for name, found, calls in (
      ("plane", plane, [("chain", plane["sizes"]["chain"]),
                        ("ODE", 2 * plane["sizes"]["flow_steps"])]),
      ("digits", digits, [("Heun", 2 * digits["sampler_steps"] - 1)])):
    size, facts = found["sizes"], found["facts"]
    decoder = found["vae_decoder_parameters"]
    rows.append([f"VAE, {name}", f"{found['vae_parameters']:,}",
                 f"{size['steps']:,} × {found['vae_batch']}; kept of step "
                 f"{', '.join(f'{n:,}' for n in found['vae_best'])}", f"{found['vae_seconds']:.0f}",
                 "1 (the decoder)", f"{decoder:,}"])
    rows.append([f"diffusion, {name}", f"{facts['parameters']:,}",
                 f"{facts['steps']:,} × {facts['batch']}", f"{facts['seconds']:.0f}",
                 ", ".join(f"{n} ({how})" for how, n in calls),
                 ", ".join(f"{n * facts['parameters']:,}" for _, n in calls)])
  return part.Table("What each model spends (steps × batch; seconds on this machine, beside "
                    "whatever else ran on it, of a VAE the mean over seeds trained together)", rows)


def of_plane(plane) -> part.Table:
  size, chain = plane["sizes"], plane["sizes"]["chain"]
  path = plane["network"][plane["network_ladder"].index(chain)]
  path_kl = lambda total: [f"≤ {pm(total)}", f"≤ {pm(total)}", pm(total)]
  rows = [["model", "KL(data‖model)", "gap", "gap + KL"],
          ["VAE, integrated", pm(plane["vae_kl"]), pm(plane["vae_exact_gap"]),
           pm(plane["vae_joint_kl"])],
          [f"VAE, K = {size['counts'][-1]:,}", f"≤ {pm(plane['vae_iw_kl'])}",
           f"≥ {pm(plane['vae_gap'][-1])}", ""],
          [f"diffusion, exact score, {plane['ladder'][-1]:,} steps (ledger)",
           *path_kl(plane["exact"][-1])],
          ["diffusion, network, continuous time, η = 1 (ledger)",
           *path_kl(plane["continuous"]["total"])],
          [f"diffusion, network, {chain} steps, K = {size['chain_counts'][-1]}",
           f"≤ {pm(plane['chain_kl'])}", f"≥ {pm(plane['chain_gap'][-1])}",
           f"{pm(path['total'])} (ledger)"],
          ["… of which prior, score error, discretisation", "", "", ", ".join(
              pm(path[name]) for name in ("prior", "score", "discretisation"))],
          ["diffusion, network, ODE (η = 0), another law than that of η = 1",
           pm(plane["flow_kl"]), "none: one to one", ""]]
  if (n := crossing(plane["network_ladder"], plane["network"],
                    plane["vae_exact_gap"][0])) is not None:
    rows.append(["steps from which the network’s path KL is below the VAE’s gap", "", "",
                 f"about {n:,.0f}"])
  return part.Table(
      f"Nats in the plane, of data blurred by ρ = {vae_plane.RHO_MIN:g} in standard units (± "
      f"standard error: over the same {size['points']:,} held-out points and seeds of the VAE; of "
      f"the ledger, over {size['ledger']['repeats']} groups of points)", rows)


def of_digits(digits) -> part.Table:
  size = digits["sizes"]
  rows = [["model", "−log q of held-out digits, nats an image", "gap"],
          ["VAE, ELBO", f"≤ {pm(digits['vae_elbo_nats'])}", ""],
          [f"VAE, K = {size['counts'][-1]}", f"≤ {pm(digits['vae_iw_nats'])}",
           f"≥ {pm(digits['vae_gap'][-1])}"],
          *([f"diffusion, {n} steps, ELBO", f"≤ {pm(nats)}", ""] for n, nats in zip(
              digits["ladder"], digits["ladder_nats"], strict=True)),
          [f"diffusion, {size['chain']} steps, K = {size['chain_counts'][-1]}",
           f"≤ {pm(digits['chain_iw_nats'])}", f"≥ {pm(digits['chain_gap'][-1])}"],
          ["diffusion, continuous, η = 1", f"≤ {pm(digits['continuous_nats'])}",
           f"≈ {pm(digits['continuous_over_flow'])} (bound − ODE)"],
          ["diffusion, ODE", pm(digits["flow_nats"]), ""]]
  return part.Table(
      f"Digits given their labels, blurred by ¼ grey level (ρ = {digits['rho_min']:.3g}), as "
      "densities in standard units: less is likelier, and may be negative (± standard error over "
      f"{size['digits']} held-out digits, and seeds of the VAE)", rows)


def of_samples(distances, title) -> part.Table:
  metrics = list(next(iter(distances.values())))
  return part.Table(title, [["samples", *metrics], *(
      [name, *(pm(row[metric]) for metric in metrics)] for name, row in distances.items())])


def crossing(steps: list[int], entries: list[dict[str, Any]], level: float) -> float | None:
  """The n at which the totals, log-linear between steps, first fall below `level`; None if none."""
  totals = [entry["total"][0] for entry in entries]
  for i in range(1, len(steps)):
    if totals[i - 1] >= level > totals[i] > 0.0:
      share = math.log(totals[i - 1] / level) / math.log(totals[i - 1] / totals[i])
      return steps[i - 1] * (steps[i] / steps[i - 1]) ** share
  return None


def pm(estimate: list[float]) -> str:
  return f"{part.number(estimate[0])} ± {part.number(estimate[1], 2)}"
