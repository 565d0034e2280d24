"""A VAE and a diffusion model of one mixture in the plane, where the exact law is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.metrics import distances, mixture_metrics
from experiments.paper import trained
from experiments.paper.exact.estimates import estimate
from experiments.paper.questions.vae import bounds as bounds_lib
from experiments.paper.questions.vae import training
from experiments.paper.setting import Setting
from experiments.sampling import drawing
from langevin_jax import likelihood, mixtures, networks, paths, predictions, samplers

RHO_MIN, RHO_MAX = 0.05, 20.0  # data are blurred by ρ_min for both models; of the chain's grid
PATH = paths.ve()

# vae: of about as many parameters as the diffusion model. every: steps between two evaluations of
# the VAE for early stopping; points: held out, the same for every KL and gap; counts: the K of L_K;
# chain: steps of the network's chain, one of its ladder; ledger: options of `likelihood.ledger`;
# nodes: an axis of the latent plane; samples: of a set, of which C2ST takes `compared`;
# flow_steps, ode_steps: of the ODE's samples and of its likelihood.
FULL = {
    "vae": {"width": 128, "depth": 3}, "seeds": 3, "steps": 16_000, "every": 200, "points": 512,
    "counts": (1, 4, 16, 64, 256, 1024), "chain": 64, "chain_counts": (1, 4, 16, 32),
    "ladder": (4, 8, 16, 32, 64, 128, 256, 512, 1024), "network_ladder": (16, 64, 256, 1024),
    "ledger": {"bins": 32, "draws_per_bin": 2, "repeats": 16}, "nodes": 600, "samples": 5000,
    "compared": 1000, "flow_steps": 20, "ode_steps": 48}
FAST = {
    "vae": {"width": 32, "depth": 1}, "seeds": 2, "steps": 200, "every": 20, "points": 96,
    "counts": (1, 4, 16), "chain": 32, "chain_counts": (1, 4), "ladder": (64, 512),
    "network_ladder": (32,), "ledger": {"bins": 16, "draws_per_bin": 1, "repeats": 8}, "nodes": 120,
    "samples": 500, "compared": 150, "flow_steps": 8, "ode_steps": 16}
_GROUP = 128  # examples of each group of the ledger
_WATCHED = 1024  # held out, for early stopping of the VAE


def grid(steps: int) -> samplers.Grid:
  """`steps` steps even in ℓ from ρ_max to ρ_min, and a last one to 0, which no bound contains."""
  return samplers.uniform_half_log_snr(steps + 1, rho_min=RHO_MIN, rho_max=RHO_MAX)


def measure(setting: Setting) -> dict[str, Any]:
  size = FAST if setting.fast else FULL
  workdir = trained.plane(setting)
  model, facts = trained.model(workdir), trained.facts(workdir)
  dataset = model.run.dataset
  truth = trained.truth(setting.density.plane, model.run)
  truth = mixtures.Mixture(*(jnp.asarray(v, jnp.float32) for v in truth))
  blurred = mixtures.Mixture(
      truth.weights, truth.means, truth.covariances + RHO_MIN**2 * jnp.eye(2)[None])
  key_vae, key_x, key_weights, key_chain, key_ladder, key_samples = jax.random.split(
      jax.random.key(setting.seed), 6)

  # A latent in the plane can be integrated over.
  vae = networks.VAE(shape=(2,), latent=2, **size["vae"])
  batch = facts["batch"] // 2  # about as many seconds of training as of the diffusion model
  blank = lambda x: np.zeros(len(x), np.int32)
  watched = dataset.test[size["points"]:][:_WATCHED]
  params, facts_of_vae = training.train(
      jax.random.split(key_vae, size["seeds"]), vae, dataset.train, blank(dataset.train),
      watched=(watched, blank(watched)), rho_min=RHO_MIN, steps=size["steps"],
      batch_size=batch, every=size["every"])
  x = jnp.asarray(dataset.test[:size["points"]])
  x = x + RHO_MIN * jax.random.normal(key_x, x.shape)
  log_p = np.asarray(blurred.log_prob(x))
  network = drawing.denoiser(model.run, model.params, PATH, jnp.zeros((1,), jnp.int32))
  moments = data.moments(dataset)
  return {
      "sizes": size, "facts": facts, **facts_of_vae,
      **_vae(key_weights, size, vae, params, x, log_p),
      **_chain(key_chain, size, network, x, log_p, moments),
      **_ladder(key_ladder, size, network, truth, dataset.test, x, moments),
      **_samples(key_samples, size, vae, params, network, blurred, moments)}


def _vae(key, size, vae, params, x, log_p) -> dict[str, Any]:
  """Bounds by importance weights, and the integral over the latent plane."""
  bounds = bounds_lib.by_seed(key, vae, params, x, jnp.zeros(len(x), jnp.int32), size["counts"],
                              at_once=64)
  integrated = jax.jit(lambda params: jax.lax.map(lambda params: [
      bounds_lib.integrated(vae, params, x, points=size["nodes"] // k) for k in (1, 2)], params))
  whole, half = (np.asarray(v, np.float64) for v in integrated(params))
  gap = bounds - bounds[:, :1]
  return {
      "vae_gap": over_seeds(gap[:, 1:]), "vae_exact_gap": over_seeds(whole - bounds[:, 0]),
      "vae_kl": over_seeds(log_p[None] - whole),
      "vae_iw_kl": over_seeds(log_p[None] - bounds[:, -1]),
      "vae_joint_kl": over_seeds(log_p[None] - bounds[:, 0]),
      "vae_over": over_seeds(bounds[:, -1] - whole),
      # The error of the integral: its difference from the rule with half as many nodes per axis.
      "vae_integral": float(np.abs(np.mean(whole - half, 1)).max())}


def _chain(key, size, network, x, log_p, moments) -> dict[str, Any]:
  """Bounds of the network as a hierarchical VAE of `chain` steps, and likelihood of its ODE."""
  bounds = bounds_lib.chain(
      key, network, PATH, grid(size["chain"]), x, size["chain_counts"], moments)
  # The divergence is exact: the key is not used.
  flow = np.asarray(jax.jit(lambda x: likelihood.log_prob(
      jax.random.key(0), network, PATH, x, batch_axes=1, steps=size["ode_steps"], moments=moments,
      rho_min=RHO_MIN, rho_max=RHO_MAX))(x), np.float64)
  return {
      "chain_gap": [estimate(g) for g in bounds[1:] - bounds[:1]],
      "chain_path_kl": estimate(log_p - bounds[0]), "chain_kl": estimate(log_p - bounds[-1]),
      "flow_kl": estimate(log_p - flow)}


def _ladder(key, size, network, truth, clean, x, moments) -> dict[str, Any]:
  """The path KL by number of steps, from the ledger, for the exact score and the network."""
  points = jnp.asarray(clean[:_GROUP * size["ledger"]["repeats"]])
  exact = mixtures.denoiser(truth, PATH)
  keys = iter(jax.random.split(key, 3 * len(size["ladder"]) + 1))

  def entries(denoise: predictions.Denoise, steps: int, more: int = 1):
    """Entries in nats, each with its error. steps = 0: in continuous time. more: more draws."""
    options = size["ledger"] | {"draws_per_bin": more * size["ledger"]["draws_per_bin"]}
    made = jax.jit(lambda key, points: likelihood.ledger(
        key, denoise, PATH, points, exact=truth, grid=grid(steps) if steps else None,
        moments=moments, rho_min=RHO_MIN, rho_max=RHO_MAX, **options))(next(keys), points)
    one = lambda e: [float(jnp.sum(e.value)), float(jnp.sqrt(jnp.sum(e.error**2)))]
    return {name: one(getattr(made, name))
            for name in ("prior", "score", "discretisation", "total")}

  def gap(steps):
    counts = (1, size["chain_counts"][-1])
    weighed = jax.jit(lambda key, x: bounds_lib.bounds(bounds_lib.of_chain(
        key, exact, PATH, grid(steps), x, draws=counts[-1], moments=moments), counts))
    bounds = np.asarray(weighed(next(keys), x), np.float64)
    return estimate(bounds[1] - bounds[0])

  found = {"ladder": size["ladder"], "network_ladder": size["network_ladder"],
           "weighed": [steps for steps in size["ladder"] if steps <= 128]}
  # In the order of the keys.
  found["exact_gap"] = [gap(steps) for steps in found["weighed"]]
  found["exact"] = [entries(exact, steps, 4)["total"] for steps in size["ladder"]]
  found["network"] = [entries(network, steps) for steps in size["network_ladder"]]
  return found | {"continuous": entries(network, 0)}


def _samples(key, size, vae, params, network, blurred, moments) -> dict[str, Any]:
  """Distances of samples to the blurred density, over independent sets; clouds for pictures."""
  count = size["samples"]

  of_vae = jax.jit(lambda key, params: training.samples(
      key, vae, params, jnp.zeros(count, jnp.int32))[1])
  # The state before the last step is at ρ_min, as the data of the likelihoods are.
  walk = lambda method, grid: jax.jit(lambda key: samplers.trajectory(
      key, network, PATH, shape=(count, 2), method=method, grid=grid, moments=moments).x[-2])
  chain = walk(samplers.ddim(1.0), grid(size["chain"]))
  flow = walk(samplers.heun(), samplers.karras(
      size["flow_steps"] + 1, rho_min=RHO_MIN, rho_max=RHO_MAX))
  real = jax.jit(lambda key: blurred.sample(key, count))
  names = {"VAE": lambda key, i: of_vae(key, jax.tree.map(lambda leaf: leaf[i], params)),
           "diffusion, chain": lambda key, i: chain(key),
           "diffusion, ODE": lambda key, i: flow(key), "real": lambda key, i: real(key)}
  rows, clouds = {name: [] for name in names}, {}
  for i, key_set in enumerate(jax.random.split(key, size["seeds"])):
    key_real, *keys = jax.random.split(key_set, 1 + len(names))
    reference = np.asarray(real(key_real))
    for own, (name, draw) in zip(keys, names.items(), strict=True):
      points = np.asarray(draw(own, i))
      clouds.setdefault(name, np.round(points[:2500], 3))
      rows[name].append({
          "KL by histogram": mixture_metrics.kl_to_samples(blurred, points, reference)[0],
          **distances.two_sample(reference, points, seed=i, max_n=size["compared"])})
  return {"clouds": clouds, "distances": over_sets(rows)}


def over_sets(rows: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
  """(mean, standard error) over sets of samples, by name and metric."""
  return {name: {metric: estimate([row[metric] for row in sets]) for metric in sets[0]}
          for name, sets in rows.items()}


def over_seeds(values: np.ndarray) -> Any:
  """(mean, standard error) of values (seeds, examples), or a list of pairs of (seeds, k, examples).

  The variance of the mean is the sum of those over seeds and over examples, shared by all seeds.
  """
  if values.ndim > 2:
    return [over_seeds(values[:, i]) for i in range(values.shape[1])]
  seeds, examples = values.shape
  between = values.mean(1).var(ddof=1) / seeds if seeds > 1 else 0.0
  return [float(values.mean()),
          float(np.sqrt(between + values.mean(0).var(ddof=1) / examples))]
