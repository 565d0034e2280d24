"""Finds arms that are the same experiment under different names.

A training objective is three functions of the half log-SNR ℓ: the density π(ℓ) of the noise levels,
the weight w(ℓ) on ‖ε − ε̂‖², and the row (a, b)(ℓ) of Table 5 that the network predicts. Two arms
are related if all other fields of training are equal and

  π, w, row equal         the runs are equal, number by number
  row equal up to sign    the runs are equal up to the sign of the output layer, because steps of
                          Adam, clipping and weight decay are odd functions of it
  π w proportional        the expected losses are proportional; the noise levels differ

Flow maps are also in a canonical form: the identity with its pairs, `stop="none"` where v has no
gradient to stop, and one name for all identities on the diagonal alone, which is the ordinary loss.

A learned density counts by its base, of which it has the expected loss. A learned weight has no
relation but with the same call. The functions are compared on a grid of ℓ in float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as config_lib
from experiments.config import build
from experiments.sweeping import arms
from langevin_jax import objectives, predictions

# Fields of sampling, evaluation and execution, which do not change the trained parameters.
_NOT_TRAINING = (
    "sampling.", "evaluation.", "mesh.", "seed", "training.cpu_devices", "training.log_every",
    "training.checkpoint_every", "training.keep_checkpoints", "training.dispatches_in_flight",
    "training.steps_per_dispatch", "training.snapshot_every", "training.logger",
    "training.sample_every", "training.evaluate_every", "training.evaluate_metrics")
# Fields that determine π, w and the row.
_OBJECTIVE = ("objective.density", "objective.prediction", "objective.weight", "path")
_POINTS = 2001
_TOLERANCE = 1e-9  # relative, in float64
_MOST = 30.0  # |ℓ| on the grids; the levels of tokens reach to −∞
# Relations, the strongest first.
_KINDS = ("identical", "mirrored", "expectation", "mirrored expectation")

Fields = tuple[tuple[str, Any], ...]


class Form(NamedTuple):
  """The functions of an objective on grids of n points, float64.

  ends: (2,), the smallest and largest ℓ. density, weight: π and w at equal steps of ℓ, (n,).
  row: (a, b) there, (n, 2). quantile: ℓ at equal steps of u, (n,).
  others: the other fields of training. learned: the calls of a density and of a weight that are
    learned, else None.
  """

  ends: np.ndarray
  density: np.ndarray
  weight: np.ndarray
  row: np.ndarray
  quantile: np.ndarray
  others: Fields
  learned: tuple[config_lib.Call | None, config_lib.Call | None] = (None, None)


class Finding(NamedTuple):
  """`arm` is related to the earlier arm `like`.

  kind: identical, mirrored (row equal up to sign), expectation (π w proportional), mirrored
    expectation; or sampling (all fields of training are equal).
  factor: loss of arm / loss of like. sampled_alike: whether the fields of sampling are equal.
  """

  arm: str
  like: str
  kind: str
  factor: float
  sampled_alike: bool = False


def other_training_fields(config: config_lib.Config) -> Fields:
  """The (name, value) of all fields of training except objective and path.

  The noise of tokens is one of them: networks of two noises have other tokens.
  """
  noise = (("path", config.path.name),) if build.is_discrete(build.path(config.path)) else ()
  return noise + tuple((name, value) for name, value in config_lib.flatten(_canonical(config))
                       if not name.startswith((*_NOT_TRAINING, *_OBJECTIVE)))


def training_fields(config: config_lib.Config) -> Fields:
  """The (name, value) of all fields of training. Arms with equal ones differ only in sampling."""
  return tuple((name, value) for name, value in config_lib.flatten(config)
               if not name.startswith(_NOT_TRAINING))


def _canonical(config: config_lib.Config) -> config_lib.Config:
  """The config with the canonical call of its flow map."""
  call = config.objective.flow_map
  if call is None or call.name not in ("semigroup", "eulerian", "lagrangian"):
    return config
  given = dict(call.arguments)
  identity = build.flow_map(config.objective)
  if identity.pairs.diagonal == 1.0 and not identity.is_guided:
    call = f"semigroup(uniform(diagonal=1.0), adaptive={identity.adaptive})"
  else:
    given["pairs"] = given["pairs"] or (
        "uniform()" if call.name == "semigroup" else "uniform(diagonal=0.75)")
    if given["stop"] == "velocity" and (
        call.name == "semigroup" or given.get("velocity") == "data"):
      given["stop"] = "none"
    call = config_lib.Call(call.name, tuple(given.items()))
  return config_lib.override(config, {"objective.flow_map": call})


def form(config: config_lib.Config) -> Form:
  """The functions of a config's objective on grids."""
  with jax.enable_x64(True):
    choices = build.objective(config)[:2]
    density, weight = map(objectives.base, choices)
    learned = tuple(call if choice is not base else None for call, choice, base in zip(
        (config.objective.density, config.objective.weight), choices, (density, weight),
        strict=True))
    prediction = build.prediction(config.objective)
    row = lambda ell: jnp.stack(prediction(predictions.unit_frame(ell)))
    quantile = jnp.clip(
        jax.vmap(density.quantile)(jnp.linspace(0.0, 1.0, _POINTS)), -_MOST, _MOST)
    ells = jnp.linspace(quantile[0], quantile[-1], _POINTS)
    values = (jnp.stack([quantile[0], quantile[-1]]), jax.vmap(density.density)(ells),
              jax.vmap(weight)(ells), jax.vmap(row)(ells), quantile)
    return Form(*map(np.asarray, values), other_training_fields(config), learned)


def relation(a: Form, b: Form) -> tuple[str, float] | None:
  """(kind, factor b/a) of two forms; None if there is no relation."""
  sign = 1.0 if _equal(a.row, b.row) else -1.0
  if a.others != b.others or not _equal(a.ends, b.ends) or not _equal(a.row, sign * b.row):
    return None
  mirrored = "mirrored" if sign < 0.0 else ""
  if a.learned == b.learned and _equal(a.density, b.density) and _equal(a.weight, b.weight) and (
      _equal(a.quantile, b.quantile)):
    return mirrored or "identical", 1.0
  if dict(a.others)["objective.flow_map"] is not None or a.learned[1] or b.learned[1]:
    # A flow map draws pairs of levels, whose loss is no function of π w alone. Nor is that of a
    # learned weight.
    return None
  ratio = (b.density * b.weight) / (a.density * a.weight)
  middle = ratio[_POINTS // 2]
  return (f"{mirrored} expectation".strip(), float(middle)) if _equal(ratio, middle) else None


def find(configs: dict[str, config_lib.Config]) -> list[Finding]:
  """The earlier arm to which each arm is related most strongly, if there is one.

  Of arms with equal fields of training, the first represents all. Each other one is identical to an
  earlier arm with equal fields of sampling, or samples from the model of the first.
  """
  first, first_equal, findings = {}, {}, []
  for name, config in configs.items():
    fields, sampling = training_fields(config), arms.sampling_fields(config)
    model = first.setdefault(fields, name)
    twin = first_equal.setdefault((fields, sampling), name)
    if twin != name:
      findings.append(Finding(name, twin, "identical", 1.0, sampled_alike=True))
    elif model != name:
      findings.append(Finding(name, model, "sampling", 1.0))
  forms: dict[str, Form] = {}
  for name in first.values():
    form_ = form(configs[name])
    related = [(_KINDS.index(result[0]), other, *result) for other in forms
               if (result := relation(forms[other], form_)) is not None]
    if related:
      _, other, kind, factor = min(related, key=lambda item: item[0])
      equal = arms.sampling_fields(configs[other]) == arms.sampling_fields(configs[name])
      findings.append(Finding(name, other, kind, factor, sampled_alike=equal))
    forms[name] = form_
  index_of = list(configs).index
  return sorted(findings, key=lambda finding: index_of(finding.arm))


def sentences(findings: Sequence[Finding], *, most: int | None = None) -> list[str]:
  """The findings as sentences. At most `most` arms that sample from one model are named."""
  lines = [_sentence(finding) for finding in findings if finding.kind != "sampling"]
  sharing: dict[str, list[str]] = {}
  for finding in findings:
    if finding.kind == "sampling":
      sharing.setdefault(finding.like, []).append(finding.arm)
  for model, names in sharing.items():
    listed = "; ".join(names[:most]) + f" … ({len(names)})" * (len(names) > len(names[:most]))
    lines.append(f"{listed} sample{'s' * (len(names) == 1)} from the model of {model}")
  return lines


def _sentence(finding: Finding) -> str:
  sign = ", up to the sign of the output layer," if "mirrored" in finding.kind else ""
  if "expectation" in finding.kind:
    return (f"{finding.arm} has{sign} {finding.factor:.6g} × the expected loss of {finding.like}; "
            "both trained")
  if sign:
    return f"{finding.arm} is{sign} the same experiment as {finding.like}; both trained"
  if finding.sampled_alike:
    return (f"{finding.arm} is the same experiment as {finding.like}; trained once, and the "
            "results are shared")
  return (f"{finding.arm} learns the same as {finding.like}; trained once, and sampled as each is "
          "told")


def _equal(a: np.ndarray, b: np.ndarray | float) -> bool:
  """Whether all values are equal up to rounding. Infinities and NaN are never equal."""
  with np.errstate(invalid="ignore"):
    return bool(np.all(np.abs(a - b) <= _TOLERANCE * np.maximum(np.abs(a), np.abs(b))))
