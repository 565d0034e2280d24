"""Model FLOPs: the FLOPs of the matrix products of loss and gradient, from the traced program.

The convention is that of MFU (Chowdhery et al. 2022, appendix B): only products, with attention,
2 FLOPs per multiply-add, without recomputation. The forward pass is traced. A product C = A B
counts once, once more if the gradient reaches A (dA = dC Bᵀ), and once more if it reaches B
(dB = Aᵀ dC). Of a convolution's window, positions beyond the edges do not count, as in the compiled
step; papers count them.

The products of a compiled step differ: it has some twice to save memory, and those of the sums by
noise level in metrics.jsonl. It lacks those over an axis of length one, which XLA computes as
multiplications: of the one query of an `mlp` that attends to tokens.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments import config as config_lib
from experiments.planning import costs
from experiments.run import assembly
from langevin_jax import conditions, training


def of_step(
    config: config_lib.Config, shape: tuple[int, ...], num_classes: int, mesh: jax.sharding.Mesh,
    kinds: Mapping[str, conditions.Kind] = MappingProxyType({}), vocabulary: int = 0,
) -> int:
  """The model FLOPs of one training step, of all chips together.

  Args:
    kinds: of named conditions. vocabulary: the number of tokens, 0 of other data.
  """
  run = assembly.assemble(config, shape, num_classes, mesh, kinds, vocabulary)
  loss = run.loss
  if isinstance(loss, training.AdaptiveLoss):
    loss = loss.at(loss.init)
  batch = assembly.abstract_batch(shape, kinds, config.training.batch_size, vocabulary)
  examples = jax.eval_shape(loss.draw, jax.random.key(0), batch)
  params = jax.eval_shape(run.init, jax.random.key(0)).params
  traced = jax.make_jaxpr(loss.value)(params, examples)
  return count(traced, len(jax.tree.leaves(params)))


def count(traced: core.ClosedJaxpr, num_params: int, *, edges: bool = False) -> int:
  """The FLOPs of a traced forward pass and of its gradient in the first `num_params` arguments.

  A scan counts with its length, a conditional with its larger branch. A while loop counts once,
  because its length is not in the program.

  Args:
    edges: whether the positions of a window beyond the edges of its input count.
  """
  reached = [i < num_params for i in range(len(traced.jaxpr.invars))]
  return _count(traced.jaxpr, reached, edges)[0]


def _count(jaxpr, reached: list[bool], edges: bool) -> tuple[int, list[bool]]:
  """(FLOPs, whether the gradient reaches each result), if it reaches the arguments `reached`."""
  total, reached_by = 0, dict(zip(jaxpr.invars, reached, strict=True))
  read = lambda atom: not isinstance(atom, core.Literal) and reached_by.get(atom, False)
  for equation in jaxpr.eqns:
    arguments = [read(atom) for atom in equation.invars]
    flops, results = _equation(equation, arguments, edges)
    total += flops
    for variable, result in zip(equation.outvars, results, strict=True):
      # Integers and booleans have no gradient.
      reached_by[variable] = result and jnp.issubdtype(variable.aval.dtype, jnp.inexact)
  return total, [read(atom) for atom in jaxpr.outvars]


def _equation(equation, reached, edges):
  """(FLOPs, whether the gradient reaches each result) of one equation."""
  name, parameters = equation.primitive.name, equation.params
  all_results = [any(reached)] * len(equation.outvars)
  if name in ("dot_general", "conv_general_dilated", "product"):
    return _product(equation, edges) * (1 + sum(reached)), all_results
  if name == "scan":
    consts, carry = parameters["num_consts"], parameters["num_carry"]
    while True:  # until the gradient reaches no further part of the carry
      flops, results = _count(parameters["jaxpr"].jaxpr, reached, edges)
      carried = [a or b for a, b in zip(reached[consts:], results[:carry], strict=False)]
      if carried == reached[consts:consts + carry]:
        return parameters["length"] * flops, results
      reached = reached[:consts] + carried + reached[consts + carry:]
  if name == "cond":
    branches = [_count(branch.jaxpr, reached[1:], edges) for branch in parameters["branches"]]
    return max(flops for flops, _ in branches), all_results
  flops = 0
  for inner in core.jaxprs_in_params(parameters):
    # Calls of all kinds. Body and condition of a while loop have other arguments.
    same = len(inner.invars) == len(reached)
    flops += _count(inner, reached if same else [any(reached)] * len(inner.invars), edges)[0]
  return flops, all_results


def _product(equation, edges: bool) -> int:
  """The FLOPs of one product or convolution, 2 per multiply-add."""
  size = equation.outvars[0].aval.size
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2 * size * math.prod(lhs[axis] for axis in contracted)
  if equation.primitive.name == "product":  # of `networks.products`
    a, b, result = equation.params["axes"]
    sizes = zip(a + b, (n for operand in equation.invars for n in operand.aval.shape), strict=True)
    return 2 * size * math.prod(n for axis, n in dict(sizes).items() if axis not in result)
  (x, kernel), out = (each.aval for each in equation.invars), equation.outvars[0].aval
  of, numbers = equation.params, equation.params["dimension_numbers"]
  features = kernel.shape[numbers.rhs_spec[0]]
  if edges:
    return 2 * size * kernel.size // features
  # Batch, features of the result, and those of the input that one of them is made of.
  work = 2 * math.prod(out.shape[axis] for axis in numbers.out_spec[:2]) * (
      kernel.shape[numbers.rhs_spec[1]])
  for i, axes in enumerate(zip(numbers.lhs_spec[2:], numbers.out_spec[2:], numbers.rhs_spec[2:],
                               strict=True)):
    sides = (array.shape[axis] for array, axis in zip((x, out, kernel), axes, strict=True))
    work *= costs.places(
        *sides, stride=of["window_strides"][i], low=of["padding"][i][0],
        spacing=of["lhs_dilation"][i], dilation=of["rhs_dilation"][i])
  return work
