"""Arms in canonical form, and which of them are provably the same experiment.

A training objective is three functions of the half log-SNR ℓ and no more: the density π(ℓ) of the
noise levels, the weight w(ℓ) on ‖ε − ε̂‖², and the row (a, b)(ℓ) that the network predicts. Two arms
that agree in them, and in every other field that training reads, are one experiment whatever their
paths, densities and weights are called:

  π, w, row equal         the same run, number by number
  row equal up to sign    the same with the output layer's sign turned: every step of Adam, clipping
                          and decay is an odd function of it
  π w proportional        the same expected loss up to a factor, drawn with other noise

What is found on a grid of ℓ in float64 is then checked on gradients of the network itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments import data
from experiments.config import build
from experiments.sweeping import arms
from langevin_jax import predictions

# What is of sampling, judging and carrying out: two runs that differ in these learn the same.
_NOT_LEARNED = (
    "sampling.", "evaluation.", "mesh.", "seed", "training.cpu_devices", "training.log_every",
    "training.checkpoint_every", "training.keep_checkpoints", "training.dispatches_in_flight",
    "training.steps_per_dispatch", "training.snapshot_every")
# What is in the three functions.
_OBJECTIVE = ("objective.", "path")
_POINTS = 2001
_LIMIT = 1e-9  # of relative differences in float64
HOLDS = 1e-4  # of relative differences of gradients in float32


class Form(NamedTuple):
  """`ends` of ℓ; on a grid between them π, w and the row; ℓ at equal steps of u; other fields."""

  ends: np.ndarray
  density: np.ndarray
  weight: np.ndarray
  row: np.ndarray
  quantile: np.ndarray
  others: tuple[tuple[str, Any], ...]


class Finding(NamedTuple):
  """`arm` is `like` an earlier one: `kind` is identical, mirrored, expectation or both of the last.

  Or it is sampling: the same fields of training, so that there is nothing to be shown.
  factor: of the losses, arm's/like's. difference: relative, of their gradients. holds: whether that
  is rounding. sampled_alike: whether the samples of equal models would be equal.
  """

  arm: str
  like: str
  kind: str
  factor: float
  difference: float = float("nan")
  holds: bool = False
  sampled_alike: bool = False


def learned(config: config_lib.Config) -> tuple[tuple[str, Any], ...]:
  """Every (name, value) that training depends on, objective and path left out."""
  return tuple((name, value) for name, value in config_lib.flatten(config)
               if not name.startswith((*_NOT_LEARNED, *_OBJECTIVE)))


def training_fields(config: config_lib.Config) -> tuple[tuple[str, Any], ...]:
  """`learned` with objective and path: arms that agree in them differ in sampling alone."""
  return (*learned(config), *((name, value) for name, value in config_lib.flatten(config)
                              if name.startswith(_OBJECTIVE)))


def form(config: config_lib.Config) -> Form:
  """The canonical form, in float64."""
  with jax.enable_x64(True):
    density = build.density(config.objective, build.path(config.path))
    weight = build.weight(config.objective, density)
    u = jnp.linspace(0.0, 1.0, _POINTS)
    quantile = jax.vmap(density.quantile)(u)
    ells = jnp.linspace(quantile[0], quantile[-1], _POINTS)
    row = jax.vmap(lambda ell: jnp.stack(
        build.prediction(config.objective)(predictions.unit_frame(ell))))(ells)
    values = (jnp.stack([quantile[0], quantile[-1]]), jax.vmap(density.density)(ells),
              jax.vmap(weight)(ells), row, quantile)
    return Form(*(np.asarray(value) for value in values), learned(config))


def relation(a: Form, b: Form) -> tuple[str, float] | None:
  """(kind, factor b/a) of two forms; None where nothing is proven."""
  if a.others != b.others or not _equal(a.ends, b.ends):
    return None
  if _equal(a.row, b.row):
    mirrored = ""
  elif _equal(a.row, -b.row):
    mirrored = "mirrored"
  else:
    return None
  if _equal(a.density, b.density) and _equal(a.weight, b.weight) and _equal(a.quantile, b.quantile):
    return mirrored or "identical", 1.0
  ratio = (b.density * b.weight) / (a.density * a.weight)
  if _equal(ratio, np.full_like(ratio, ratio[_POINTS // 2])):
    return " ".join(filter(None, (mirrored, "expectation"))), float(ratio[_POINTS // 2])
  return None


def find(configs: dict[str, config_lib.Config]) -> list[Finding]:
  """For each arm the earlier one that it is most alike, by the functions alone.

  Of arms whose fields of training are equal, the first speaks for all; the others are identical to
  an earlier one that is sampled alike, or sample from the first one's model.
  """
  first, whole, findings = {}, {}, []
  for name, config in configs.items():
    fields, sampling = training_fields(config), arms.sampling_fields(config)
    twin = whole.setdefault((fields, sampling), name)
    model = first.setdefault(fields, name)
    if twin != name:
      findings.append(Finding(name, twin, "identical", 1.0, sampled_alike=True))
    elif model != name:
      findings.append(Finding(name, model, "sampling", 1.0, 0.0, True))
  forms = {name: form(configs[name]) for name in first.values()}
  order = ("identical", "mirrored", "expectation", "mirrored expectation")
  names = list(forms)
  for i, name in enumerate(names):
    found = [(order.index(kind[0]), j, kind) for j, other in enumerate(names[:i])
             if (kind := relation(forms[other], forms[name])) is not None]
    if found:
      _, j, (kind, factor) = min(found, key=lambda item: item[:2])
      alike = arms.sampling_fields(configs[names[j]]) == arms.sampling_fields(configs[name])
      findings.append(Finding(name, names[j], kind, factor, sampled_alike=alike))
  place = list(configs).index
  return sorted(findings, key=lambda finding: place(finding.arm))


def verify(
    finding: Finding, configs: dict[str, config_lib.Config], gradient: Callable[..., Any],
    batch: tuple[np.ndarray, np.ndarray],
) -> Finding:
  """The finding with the relative difference of the two arms' gradients; as it is, of sampling.

  Both at the same parameters, examples and noise; levels are the arms' own at equal u where they
  are to be equal draw by draw, else a quadrature over ℓ.

  Args:
    gradient: of `gradient`. batch: training examples and labels, (n, …) and (n,).
  """
  if finding.kind == "sampling":
    return finding
  x_0, labels = batch
  pair = [configs[finding.like], configs[finding.arm]]
  objectives = [(density := build.density(config.objective, build.path(config.path)),
                 build.weight(config.objective, density)) for config in pair]
  n = len(x_0)
  u = (np.arange(n, dtype=np.float32) + 0.5) / n
  if "expectation" in finding.kind:
    # The midpoint rule needs no more than the levels to be the same: the integrands are equal.
    low, high = (float(objectives[0][0].quantile(jnp.float32(end))) for end in (0.0, 1.0))
    ells = [jnp.asarray(low + (high - low) * u)] * 2
    scale = [(high - low) * density.density(ells[0]) for density, _ in objectives]
  else:
    ells = [density.quantile(jnp.asarray(u)) for density, _ in objectives]
    scale = [jnp.ones(n)] * 2
  values = []
  for i, (config, (_, weight)) in enumerate(zip(pair, objectives, strict=True)):
    row = build.prediction(config.objective)
    a, b = jax.vmap(lambda ell, row=row: jnp.stack(row(predictions.unit_frame(ell))))(ells[i]).T
    sign = -1.0 if i and "mirrored" in finding.kind else 1.0
    values.append(gradient(x_0, labels, ells[i], scale[i] * jax.vmap(weight)(ells[i]), a, b, sign))
  first, second = values
  gap = np.linalg.norm(second / finding.factor - first) / np.linalg.norm(first)
  return finding._replace(difference=float(gap), holds=bool(gap < HOLDS))


def examples(dataset: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
  """Training examples to compare gradients on."""
  return data.batch(dataset, seed=0, step=0, batch_size=min(256, len(dataset.train)))


def network(config: config_lib.Config, dataset: data.Dataset):
  """(init, apply) of the config's network; a ValueError where it does not fit the data."""
  return build.network(config.network, dataset.train.shape[1:], dataset.num_classes)


def gradient(config: config_lib.Config, dataset: data.Dataset) -> Callable:
  """(x₀, labels, ℓ, w, a, b, sign) → ∇ mean w ‖y − sign ŷ‖²/(b − a σ/α)², one float64 vector.

  Away from the initial parameters, whose last layer is zero and hides the others.
  """
  init, apply = network(config, dataset)
  shape = dataset.train.shape[1:]
  key_init, key_move, key_eps = jax.random.split(jax.random.key(0), 3)

  @jax.jit
  def slope(x_0, labels, ells, weights, a, b, sign):
    params = init(key_init)
    flat, tree = jax.tree.flatten(params)
    keys = jax.random.split(key_move, len(flat))
    params = jax.tree.unflatten(tree, [
        leaf + 0.05 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(flat, keys, strict=True)])
    eps = jax.random.normal(key_eps, x_0.shape, x_0.dtype)
    frame = jax.vmap(predictions.unit_frame)(ells)
    wide = lambda v: v.reshape(-1, *[1] * len(shape))

    def loss(params):
      x = wide(frame.alpha) * x_0 + wide(frame.sigma) * eps
      error = wide(a) * x_0 + wide(b) * eps - sign * apply(params, x, ells, labels)
      per_eps = b - a * frame.sigma / frame.alpha
      return jnp.mean(weights / per_eps**2 * jnp.mean(error.reshape(len(ells), -1) ** 2, axis=1))

    return jax.tree.leaves(jax.grad(loss)(params))

  return lambda *arguments: np.concatenate(
      [np.asarray(leaf, np.float64).ravel() for leaf in slope(*arguments)])


def sentences(findings: Sequence[Finding], *, most: int | None = None) -> list[str]:
  """What a reader should know of them; of many arms that share a model, `most` by their names."""
  sharing: dict[str, list[str]] = {}
  for finding in findings:
    if finding.kind == "sampling":
      sharing.setdefault(finding.like, []).append(finding.arm)
  said = [_sentence(finding) for finding in findings if finding.kind != "sampling"]
  for model, names in sharing.items():
    some = "; ".join(names[:most]) + f" … ({len(names)})" * (len(names) > len(names[:most]))
    said.append(f"{some} sample{'s' * (len(names) == 1)} from the model of {model}")
  return said


def _sentence(finding: Finding) -> str:
  sign = ", up to the sign of the output layer," if "mirrored" in finding.kind else ""
  what = (f"has{sign} {finding.factor:.6g} × the expected loss of" if "expectation" in finding.kind
          else f"is{sign} the same experiment as" if finding.sampled_alike or sign
          else "learns the same as")
  then = "both trained"
  if finding.kind == "identical" and finding.holds:
    then = "trained once, " + ("and the results are shared" if finding.sampled_alike else
                               "and sampled as each is told")
  doubt = "" if finding.holds else " — THE GRADIENTS DIFFER, so it is not taken for granted"
  return (f"{finding.arm} {what} {finding.like}; relative difference of gradients "
          f"{finding.difference:.1e}{doubt}; {then}")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
  """To rounding in float64, relative to each value; infinities and NaN are equal to nothing."""
  with np.errstate(invalid="ignore"):
    return bool(np.all(np.abs(a - b) <= _LIMIT * np.maximum(np.abs(a), np.abs(b))))
