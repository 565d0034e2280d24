"""A class-conditional VAE and diffusion model of handwritten digits.

The data are digits blurred by a quarter of a grey level, in standard units. Their distribution is
not known: likelihoods of held-out digits, samples, and gaps by one estimator are compared.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from experiments.metrics import classifier, distances
from experiments.paper import trained
from experiments.paper.exact.estimates import estimate
from experiments.paper.questions.vae import bounds as bounds_lib
from experiments.paper.questions.vae import training
from experiments.paper.questions.vae.plane import over_seeds, over_sets
from experiments.paper.setting import Setting
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import likelihood, networks, paths, samplers

RHO_MAX = 20.0
PATH = paths.ve()
_BLUR = 0.25  # of a grey level, as for likelihoods of discrete data
_SETS = 2  # of samples, each compared with another half of the real digits
_PARTS = 8  # of the digits for the continuous bound, each with its own noise levels

# every: steps between two evaluations of the VAE for early stopping; digits: held out (the others
# are for early stopping); counts: the K of L_K; chain: steps of the chain that is weighed
# `chain_counts` times; ladder: steps of those of which only the ELBO is taken; levels, flow_steps:
# of the continuous bound and of the ODE; samples: of a set; judge_steps: of the classifier.
FULL = {
    "vae": {"width": 256, "depth": 2}, "seeds": 2, "steps": 3000, "every": 100, "batch": 128,
    "digits": 128, "counts": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), "chain": 64,
    "chain_counts": (1, 2, 4, 8), "ladder": (16, 32, 128, 256), "levels": 64, "flow_steps": 24,
    "samples": 898, "judge_steps": 1000}
FAST = {
    "vae": {"width": 32, "depth": 1}, "seeds": 2, "steps": 100, "every": 20, "batch": 128,
    "digits": 32, "counts": (1, 2, 4, 8, 16), "chain": 8, "chain_counts": (1, 2), "ladder": (),
    "levels": 4, "flow_steps": 5, "samples": 50, "judge_steps": 40}


def measure(setting: Setting) -> dict[str, Any]:
  size = FAST if setting.fast else FULL
  workdir = trained.digits(setting)
  model, facts = trained.model(workdir), trained.facts(workdir)
  dataset, held_out = model.run.dataset, size["digits"]
  rho_min = _BLUR / float(dataset.scale)
  key_vae, key_x, key_weights, key_chain, key_samples = jax.random.split(
      jax.random.key(setting.seed), 5)
  network = networks.VAE(shape=dataset.train.shape[1:], latent=16,
                         num_classes=dataset.num_classes, **size["vae"])
  params, facts_of_vae = training.train(
      jax.random.split(key_vae, size["seeds"]), network, dataset.train, dataset.train_labels,
      watched=(dataset.test[held_out:], dataset.test_labels[held_out:]), rho_min=rho_min,
      steps=size["steps"], batch_size=size["batch"], learning_rate=1e-3, every=size["every"])
  clean, labels = dataset.test[:held_out], jnp.asarray(dataset.test_labels[:held_out])
  x = jnp.asarray(clean)
  x = x + rho_min * jax.random.normal(key_x, x.shape)
  bounds = bounds_lib.by_seed(
      key_weights, network, params, x, labels, size["counts"], at_once=16)
  return {
      "sizes": size, "facts": facts, "rho_min": rho_min, **facts_of_vae,
      "vae_gap": over_seeds(bounds[:, 1:] - bounds[:, :1]),
      "vae_elbo_nats": over_seeds(-bounds[:, 0]), "vae_iw_nats": over_seeds(-bounds[:, -1]),
      **_diffusion(key_chain, size, model, clean, x, labels, rho_min),
      **_samples(key_samples, size, model, network, params)}


def _diffusion(key, size, model, clean, x, labels, rho_min) -> dict[str, Any]:
  """Bounds of the network as a chain, its ELBO by number of steps, and their limits."""
  moments = data.moments(model.run.dataset)
  ends = {"batch_axes": 1, "moments": moments, "rho_min": rho_min, "rho_max": RHO_MAX}
  network = lambda labels: drawing.denoiser(model.run, model.params, PATH, labels)
  key_weights, key_ladder, key_bound, key_flow = jax.random.split(key, 4)

  def chain(key, steps, counts):
    grid = samplers.uniform_half_log_snr(steps + 1, rho_min=rho_min, rho_max=RHO_MAX)
    return bounds_lib.chain(key, network(labels), PATH, grid, x, counts, moments)

  bounds = chain(key_weights, size["chain"], size["chain_counts"])
  ladder = {size["chain"]: -bounds[0]} | {
      steps: -chain(own, steps, (1,))[0]
      for own, steps in zip(jax.random.split(key_ladder, max(len(size["ladder"]), 1)),
                            size["ladder"], strict=False)}
  parts = lambda a: jnp.asarray(a).reshape(_PARTS, -1, *a.shape[1:])
  bound = jax.jit(lambda keys, x, labels: jax.lax.map(lambda one: likelihood.bound(
      one[0], network(one[2]), PATH, one[1], draws=size["levels"], **ends), (keys, x, labels)))(
          jax.random.split(key_bound, _PARTS), parts(clean), parts(labels))
  flow = -np.asarray(jax.jit(lambda keys: likelihood.log_prob(
      keys, network(labels), PATH, x, steps=size["flow_steps"], divergence="hutchinson", **ends))(
          jax.random.split(key_flow, len(x))), np.float64)
  # Digits of a part share their noise levels: only the parts are independent.
  bound = np.asarray(bound, np.float64)
  limit = [float(bound.mean()), float(
      max(bound.mean(1).std(ddof=1) / np.sqrt(_PARTS), bound.std(ddof=1) / np.sqrt(bound.size)))]
  return {
      "chain_gap": [estimate(g) for g in bounds[1:] - bounds[:1]],
      "chain_iw_nats": estimate(-bounds[-1]),
      "ladder": sorted(ladder), "ladder_nats": [estimate(ladder[n]) for n in sorted(ladder)],
      "continuous_nats": limit, "flow_nats": estimate(flow),
      "continuous_over_flow": estimate((bound - flow.reshape(bound.shape)).mean(1))}


def _samples(key, size, model, vae, params) -> dict[str, Any]:
  """FID, C2ST and label agreement as in `experiments.evaluate`, and images by class."""
  run, dataset = model.run, model.run.dataset
  judge = classifier.train(dataset.train, dataset.train_labels, num_classes=dataset.num_classes,
                           seed=run.config.seed, steps=size["judge_steps"])
  real = np.concatenate([dataset.train, dataset.test])
  real_labels = np.concatenate([dataset.train_labels, dataset.test_labels])
  n = min(size["samples"], len(real) // 2)

  of_vae = jax.jit(lambda key, params, labels: training.samples(key, vae, params, labels))
  rows, pictures = {}, {}
  labels = [assembly.data_labels(run, n, i) for i in range(_SETS)]
  drawn = data.standardise(drawing.draw(
      run, model.params, run.config.sampling, run.path, np.concatenate(labels),
      seed=run.config.seed), dataset.mean, dataset.scale)
  for i, own in enumerate(jax.random.split(key, _SETS)):
    order = np.random.default_rng([run.config.seed, i]).permutation(len(real))
    half, other = order[:n], order[len(real) // 2:][:n]
    seed = i % size["seeds"]
    mean, noisy = of_vae(own, jax.tree.map(lambda leaf, seed=seed: leaf[seed], params),
                         jnp.asarray(labels[i]))
    sets = {
        "VAE, decoder’s mean": (_grey(dataset, mean), labels[i]),
        "VAE, decoder’s draw": (_grey(dataset, noisy), labels[i]),
        "diffusion": (drawn[n * i:n * (i + 1)], labels[i]),
        "real": (real[other], real_labels[other])}
    features = classifier.features(judge, real[half])
    for name, (images, given) in sets.items():
      flat = lambda a: a.reshape(len(a), -1)
      rows.setdefault(name, []).append({
          "FID": distances.frechet(features, classifier.features(judge, images)),
          "C2ST accuracy": distances.c2st(flat(real[half]), flat(images), seed=i),
          "label agreement": classifier.label_agreement(judge, images, given)})
      pictures.setdefault(name, _by_class(dataset, images, given))
  return {"distances": over_sets(rows), "judged": n, "sets": _SETS, "pictures": pictures,
          "sampler_steps": run.config.sampling.grid["n"]}


def _grey(dataset: data.Dataset, x: jax.Array) -> np.ndarray:
  """Samples rounded to grey levels of the data, in standard units."""
  levels = np.clip(np.round(data.restore(dataset, np.asarray(x))), *dataset.value_range)
  return data.standardise(levels, dataset.mean, dataset.scale)


def _by_class(dataset, images, labels, columns: int = 5) -> np.ndarray:
  """Images (classes, columns, h, w) in grey levels; black where a class has fewer."""
  sheet = np.zeros((dataset.num_classes, columns, *images.shape[1:3]), int)
  for label in range(dataset.num_classes):
    some = images[np.flatnonzero(labels == label)[:columns]]
    sheet[label, :len(some)] = np.round(data.restore(dataset, some))[..., 0]
  return sheet
