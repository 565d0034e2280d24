"""What the part on finite state spaces claims of its measurements."""

import itertools

import numpy as np

from experiments.paper.claim import Data, Values, value
from experiments.paper.exact import estimates

_SCHEMES = {"STEP": "STEP", "rates": "Leaps with the rates R_η"}


def claims(data: Data) -> Values:
  yield from _triangle(data)
  yield from _duality(data["duality"], data["noises"])
  yield from _quality(data["quality"])
  yield from _trained(data["trained"])
  yield from _questions(data)


def context(data: Data) -> Data:
  """Numbers of the answer and of the tables."""
  quality, asked = data["quality"], data["questions"]
  return {
      "worst": {scheme: _worst(data["duality"], scheme)[-1].max() for scheme in _SCHEMES},
      "orders": {scheme: -np.diff(np.log2(np.moveaxis(_worst(data["duality"], scheme), 0, -1)))
                 for scheme in _SCHEMES},
      "certified": [_extrapolated(found) for found in data["trained"]],
      "few": _few(quality), "repair": _repair(data["duality"]),
      "jumps": np.array([found["reverse"] for found in asked["jumps"]]),
      "memory": np.array([found["limit"] for found in asked["memory"]]),
      "gap": asked["likelihood"][0]["none"] - asked["likelihood"][0]["drawn"],
      "power": np.log2(asked["chain"][0]["pair"][-1] / asked["chain"][0]["pair"][-2])}


def _pick(found, scheme, values):
  """The entries (noises, ETAS, …) of a scheme, of values (noises, methods, …)."""
  rows = [m for m, name in enumerate(found["methods"]) if name.startswith(scheme)]
  return np.asarray(values)[:, rows]


def _worst(found, scheme):
  """The largest KL of all levels, (counts, noises, ETAS)."""
  return np.array([_pick(found, scheme, level).max(-1) for level in found["level"]])


def _few(quality):
  """KL at η = 2 over that at η = 0 at the fewest calls, (noises,)."""
  return quality["end"][:, 3, 0] / quality["end"][:, 0, 0]


def _repair(duality):
  """KL at the last level at the largest η over that at η = 0, of a D that errs early, (noises,)."""
  return duality["broken"][:, -1, -1] / duality["broken"][:, 0, -1]


def _triangle(data):
  split, single = data["split"], data["single"]
  yield value("split", [found["balance"].max() for found in split], levels=len(single[0]["ells"]),
              etas=len(data["etas"]))
  yield value("unchanged", [found[name].max() for found in split for name in ("law", "reverse")])
  yield value("composition", data["composition"])
  yield value("forward", [found["forward"].max() for found in single])
  for name, words in (("reverse", "A reverse step from p_{ℓ−d} gives"),
                      ("cycle", "A forward and then a reverse step give"),
                      ("langevin", "A Langevin step leaves")):
    kl = np.array([found[name] for found in single])
    order = np.log2(kl[..., -2] / kl[..., -1]).ravel()
    yield value("single", estimates.farthest(order, 4.0)[1], step=words, count=order.size)


def _duality(found, noises):
  for k, noise in enumerate(noises):
    left = []
    for scheme in _SCHEMES:
      # The levels of the coarser run are every second one of the finer.
      coarse, fine = (np.sqrt(np.maximum(_pick(found, scheme, level)[k], 0.0))
                      for level in found["level"][-2:])
      left.append(np.abs(2.0 * fine[:, ::2] - coarse).max() / fine.max())
    yield value("duality", left, noise=noise)
  for (scheme, words), (k, noise) in itertools.product(_SCHEMES.items(), enumerate(noises)):
    order = np.log2(_worst(found, scheme)[-2] / _worst(found, scheme)[-1])[k]
    yield value("order", estimates.farthest(order, 2.0)[1], scheme=words, noise=noise,
                count=len(order))
  right = _worst(found, "STEP")[-1]
  yield value("broken", found["broken"].max(-1).min() / right.max(), power=found["power"])
  yield value("repair", _repair(found), power=found["power"])


def _quality(found):
  calls, kl = found["unmask"][-1]
  yield value("unmask", abs(kl), calls=int(calls))
  yield value("few", _few(found).min(), calls=found["counts"][0])


def _extrapolated(found):
  """KL at the last level of a trained model's runs, in the limit of small steps, (ETAS,)."""
  coarse, fine = (level[:, -1] for level in found["level"][-2:])
  return (4.0 * fine - coarse) / 3.0


def _trained(every):
  sde = list(every[0]["etas"]).index(1.0)
  yield value("certificate", min((_extrapolated(found) / found["exact"][:, -1]).min()
                                 for found in every),
              network=every[0]["network"], steps=every[0]["steps"], calls=every[0]["counts"][-1])
  yield value("certified", [_extrapolated(found)[sde] / found["excess"] for found in every])


def _questions(data):
  asked, etas = data["questions"], list(data["etas"])
  jumps, sde = asked["jumps"], etas.index(1.0)
  yield value("reversal", [abs(found["reverse"][sde] / found["forward"] - 1.0) for found in jumps])
  yield value("fewest", jumps[1]["reverse"][0] / jumps[1]["reverse"][sde])
  yield value("once", np.abs(jumps[0]["reverse"][:sde + 1] - jumps[0]["kept"]).max())
  yield value("flow", jumps[1]["flow"] / jumps[1]["reverse"][0], below=jumps[1]["reverse"][sde]
              / jumps[1]["reverse"][0])
  for noise, found in zip(data["noises"], asked["memory"], strict=True):
    yield value("memory", found["limit"][sde], near=found["forward"], noise=noise)
  yield value("no_map", [found["limit"][0] for found in asked["memory"]])
  for noise, found in zip(data["noises"], asked["likelihood"], strict=True):
    yield value("bound", found["exact"], near=found["entropy"], noise=noise)
    yield value("divergence", found["other"], near=found["cross"], noise=noise)
  yield value("gap", asked["likelihood"][0]["none"] - asked["likelihood"][0]["drawn"],
              power=asked["power"])
  for noise, found in zip(data["noises"], asked["chain"], strict=True):
    yield value("pair", np.log2(found["pair"][-1] / found["pair"][-2]), noise=noise)
  vae, quality = asked["vae"], data["quality"]
  yield value("vae", vae["kl"][-1] / quality["end"][0, 0, -1], latents=vae["latents"][-1],
              numbers=vae["numbers"][-1], free=vae["free"], calls=quality["counts"][-1])
  for name, of in (("ratios", "ratios"), ("denoised", "denoised"), ("velocity", "flow")):
    yield value(name, [found[of] for found in asked["readings"]])
  yield value("posterior", asked["readings"][0]["posterior"])
  yield value("losses", asked["losses"])
