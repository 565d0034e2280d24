"""Model FLOPs: of the matrix products that loss and gradient need, counted in the traced program.

The convention of MFU (Chowdhery et al. 2022, appendix B): products alone, 2 FLOPs a multiply-add,
attention included, nothing that is computed twice. So the forward pass is what is counted: a
product C = A B once, once more where the gradient reaches A (dA = dC Bᵀ) and once more where it
reaches B (dB = Aᵀ dC). What rematerialisation recomputes is not in it.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend import core

from experiments import config as config_lib
from experiments.run import assembly


def of_step(
    config: config_lib.Config, shape: tuple[int, ...], num_classes: int, mesh: jax.sharding.Mesh
) -> int:
  """Model FLOPs of one training step of all chips together."""
  run = assembly.assemble(config, shape, num_classes, mesh)
  n = config.training.batch_size
  batch = (jax.ShapeDtypeStruct((n, *shape), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32))
  examples = jax.eval_shape(run.loss.draw, jax.random.key(0), batch)
  params = jax.eval_shape(run.init, jax.random.key(0)).params
  traced = jax.make_jaxpr(run.loss.value)(params, examples)
  return count(traced, len(jax.tree.leaves(params)))


def count(traced: core.ClosedJaxpr, learned: int) -> int:
  """FLOPs of a traced forward pass and of its gradient by the first `learned` arguments.

  Loops count by their trips, of a conditional the larger branch. A while loop, whose trips are not
  in the program, counts once.
  """
  reached = [i < learned for i in range(len(traced.jaxpr.invars))]
  return _count(traced.jaxpr, reached)[0]


def _count(jaxpr, reached: list[bool]) -> tuple[int, list[bool]]:
  """(FLOPs, which results the gradient reaches), where it reaches the arguments `reached`."""
  total, known = 0, dict(zip(jaxpr.invars, reached, strict=True))
  read = lambda atom: not isinstance(atom, core.Literal) and known.get(atom, False)
  for equation in jaxpr.eqns:
    arguments = [read(atom) for atom in equation.invars]
    flops, results = _equation(equation, arguments)
    total += flops
    for variable, result in zip(equation.outvars, results, strict=True):
      # Integers and truth values have no gradient.
      known[variable] = result and jnp.issubdtype(variable.aval.dtype, jnp.inexact)
  return total, [read(atom) for atom in jaxpr.outvars]


def _equation(equation, reached):
  name, parameters = equation.primitive.name, equation.params
  everything = [any(reached)] * len(equation.outvars)
  if name in ("dot_general", "conv_general_dilated", "product"):
    return _product(equation) * (1 + sum(reached)), everything
  if name == "scan":
    consts, carry = parameters["num_consts"], parameters["num_carry"]
    while True:  # until the gradient reaches no more of what is carried
      flops, results = _count(parameters["jaxpr"].jaxpr, reached)
      carried = [a or b for a, b in zip(reached[consts:], results[:carry], strict=False)]
      if carried == reached[consts:consts + carry]:
        return parameters["length"] * flops, results
      reached = reached[:consts] + carried + reached[consts + carry:]
  if name == "cond":
    branches = [_count(branch.jaxpr, reached[1:]) for branch in parameters["branches"]]
    return max(flops for flops, _ in branches), everything
  flops = 0
  for inner in core.jaxprs_in_params(parameters):
    # Calls of all kinds; the two of a while loop take other arguments.
    same = len(inner.invars) == len(reached)
    flops += _count(inner, reached if same else [any(reached)] * len(inner.invars))[0]
  return flops, everything


def _product(equation) -> int:
  """2 multiply-adds of one product or convolution."""
  size = equation.outvars[0].aval.size
  if equation.primitive.name == "dot_general":
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return 2 * size * math.prod(lhs[axis] for axis in contracted)
  if equation.primitive.name == "product":  # of `networks.products`
    a, b, result = equation.params["axes"]
    sizes = zip(a + b, (n for operand in equation.invars for n in operand.aval.shape), strict=True)
    return 2 * size * math.prod(n for axis, n in dict(sizes).items() if axis not in result)
  kernel = equation.invars[1].aval
  features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
  return 2 * size * kernel.size // features
