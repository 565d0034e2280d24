"""Adapters that make (init, apply) of a user's own network: Linen, NNX, Equinox, functions.

Every network gets (x, half_log_snr, condition): x (batch, *shape) at unit scale, float32; ℓ
(batch,); labels (batch,), or a dict of named arrays (`langevin_jax.conditions`). It returns a float
array in the shape of x.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.tree_util import keystr

from langevin_jax import conditions as conditions_lib
from langevin_jax import discrete, predictions

# Of the named arrays of a condition; empty where the condition is labels, or nothing.
Kinds = Mapping[str, conditions_lib.Kind]


class Network(NamedTuple):
  """init: key → parameters. apply: (params, x, half_log_snr, condition) → floats in x's shape.

  Of a flow map `apply` takes a fifth argument, the second level. In training, a call with an
  argument `dropout` > 0 gets `key=`, which a Linen module has as the stream "dropout".
  """

  init: Callable[[jax.Array], Any]
  apply: Callable[..., jax.Array]


def linen(module: nn.Module, shape: tuple[int, ...], example: Any) -> Network:
  """A Flax Linen module: `init` and `apply` are its own, for whole batches.

  The collection "params" is all that is trained. A module with another, such as the statistics of
  BatchNorm, is refused.

  Args:
    shape: of one example as the module takes it. example: a condition of one example.
  """
  def init(key):
    variables = module.init(key, jnp.zeros((1, *shape)), jnp.zeros((1,)), example)
    if others := sorted(set(variables) - {"params"}):
      raise ValueError(f"it has the collections {', '.join(others)}; only params are trained, so "
                       "take LayerNorm or GroupNorm in the place of BatchNorm")
    return variables["params"]

  def call(params, *inputs, key=None):
    return module.apply({"params": params}, *inputs, rngs=None if key is None else {"dropout": key})

  return _batched(init, call, shape, random=True)


def nnx(make: Callable[[jax.Array], Any], shape: tuple[int, ...]) -> Network:
  """A Flax NNX module, for whole batches: its graph is kept, its `nnx.Param` are trained.

  Other variables, such as the statistics of BatchNorm or the stream of Dropout, are refused.

  Args:
    make: key → module.
  """
  from flax import nnx as flax_nnx  # half a second that no other network needs

  def parts(module):
    graph, params, others = flax_nnx.split(module, flax_nnx.Param, ...)
    leaves = jax.tree.leaves(others, is_leaf=lambda leaf: isinstance(leaf, flax_nnx.Variable))
    if kinds := sorted({type(leaf).__name__ for leaf in leaves}):
      raise ValueError(f"it has variables of the types {', '.join(kinds)}; only nnx.Param are "
                       "trained, so take LayerNorm or GroupNorm in the place of BatchNorm, and no "
                       "Dropout")
    return params, lambda params: flax_nnx.merge(graph, params)

  init, module = _opened(make, parts)
  return _batched(init, lambda params, *inputs: module(params)(*inputs), shape)


def equinox(make: Callable[[jax.Array], Any], shape: tuple[int, ...]) -> Network:
  """An Equinox module, or any callable pytree, for one example: it is called under `jax.vmap`.

  Its arrays of floats are trained. NumPy arrays and everything else are constants. A module with
  state (`equinox.nn.State`) is refused.

  Args:
    make: key → module.
  """
  def parts(module):
    if any(type(leaf).__name__ == "StateIndex" for leaf in jax.tree.leaves(
        module, is_leaf=lambda node: type(node).__name__ == "StateIndex")):
      raise ValueError("it has layers with state, which is not kept: take LayerNorm or GroupNorm "
                       "in the place of BatchNorm")
    leaves, structure = jax.tree.flatten(module)
    trained = [isinstance(leaf, jax.Array) for leaf in leaves]
    if others := [leaf for leaf in leaves if isinstance(leaf, jax.Array) and not jnp.issubdtype(
        leaf.dtype, jnp.floating)]:
      raise ValueError(f"it has a jax array of {others[0].dtype}, which cannot be trained: make "
                       "it a NumPy array, which is a constant")
    constants = [None if free else leaf for free, leaf in zip(trained, leaves, strict=True)]
    params = structure.unflatten([leaf if free else None
                                  for free, leaf in zip(trained, leaves, strict=True)])

    def merge(params):
      arrays = iter(jax.tree.leaves(params))
      return structure.unflatten([next(arrays) if free else constant for free, constant in zip(
          trained, constants, strict=True)])

    return params, merge

  init, module = _opened(make, parts)
  return _batched(init, lambda params, *inputs: jax.vmap(module(params))(*inputs), shape)


def adapted(
    make: Callable[[jax.Array | None], Any], shape: tuple[int, ...], *, seeded: bool, example: Any,
) -> Network:
  """What a call of the network slot makes, as a `Network`.

  Args:
    make: key → a network. seeded: whether the key is used, as a parameter `key` or `rngs`.
    example: a condition of one example.

  Raises:
    ValueError: it is neither a Linen, NNX or Equinox module nor an (init, apply) pair.
  """
  made = _made(make) if seeded else make(None)
  if isinstance(made, Network):  # of this file
    return made
  make = make if seeded else lambda key: made
  if isinstance(made, nn.Module):
    return linen(made, shape, example)
  if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
    return _batched(*made, shape)
  if any(kind.__module__.startswith("flax.nnx") for kind in type(made).__mro__):
    return nnx(make, shape)
  if callable(made) and jax.tree.structure(made) != jax.tree.structure(0):
    return equinox(make, shape)
  raise ValueError("a network is a Flax Linen, Flax NNX or Equinox module, or a pair "
                   f"(init, apply), got {type(made).__name__}")


def of_tokens(network: Network, path: discrete.paths.Path) -> Network:
  """A network of sequences as one of tokens: (params, x (batch, length), ℓ, …) → logits of D.

  It sees each token as its one-hot vector, scaled to unit mean square, which is to say that its
  first layer is the embedding. Of what it returns the channels of clean tokens are the logits.
  """
  states, vocabulary = len(path.base), path.vocabulary

  def apply(params, x, ell, condition):
    vectors = states**0.5 * jax.nn.one_hot(x, states, dtype=jnp.float32)
    return network.apply(params, vectors, ell, condition)[..., :vocabulary]

  return Network(network.init, apply)


def rngs(key: jax.Array) -> Any:
  """The streams of random numbers from which NNX modules draw their parameters."""
  from flax import nnx as flax_nnx
  return flax_nnx.Rngs(key)


def example_condition(conditions: Kinds) -> Any:
  """A condition of one example, zeros."""
  return conditions_lib.example(conditions, 1) if conditions else jnp.zeros((1,), jnp.int32)


def check_output(network: Network, shape: tuple[int, ...], example: Any) -> None:
  """Raises ValueError where the network cannot be called, or returns another shape or no floats."""
  x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
  two = jax.tree.map(lambda a: jnp.concatenate([a, a]), example)
  jax.eval_shape(network.apply, jax.eval_shape(network.init, jax.random.key(0)), x, jnp.zeros(2),
                 two)


def _made(make: Callable[[jax.Array], Any]) -> Any:
  """What `make` makes of a key, without computing its arrays."""
  made = []
  jax.eval_shape(lambda key: made.append(make(key)), jax.random.key(0))
  return made[0]


def _opened(make: Callable, parts: Callable) -> tuple[Callable, Callable]:
  """(key → parameters, parameters → module) of a module that holds its arrays.

  Parameters are nested dicts by the names of attributes, so that checkpoints do not depend on the
  module's class.

  Args:
    parts: module → (tree of its parameters, the inverse).
  """
  def split(key):
    params, merge = parts(make(key))
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [tuple(filter(None, keystr(path, simple=True, separator="/").removesuffix(
        "/value").split("/"))) for path, _ in leaves]
    arrays = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
    return traverse_util.unflatten_dict(arrays), (names, structure, merge)

  rest: list[Any] = []
  # What is not parameters is the same for every key, and is found without computing them.
  jax.eval_shape(lambda key: rest.append(split(key)[1]), jax.random.key(0))
  names, structure, merge = rest[0]

  def module(params):
    flat = traverse_util.flatten_dict(params)
    return merge(structure.unflatten([flat[name] for name in names]))

  return lambda key: split(key)[0], module


def _batched(
    init: Callable, call: Callable, shape: tuple[int, ...], *, random: bool = False
) -> Network:
  """A `Network` of a function of batches (batch, *shape): the one place where x is reshaped.

  Args:
    random: whether `call` takes `key=`.
  """
  def apply(params, x, ell, condition, *ell_s, key=None):
    batch = x.reshape(-1, *shape)
    wide = lambda level: jnp.broadcast_to(level, (len(batch),))
    value = call(params, batch, wide(ell), condition, *map(wide, ell_s),
                 **({"key": key} if random and key is not None else {}))
    return predictions.like_state(value, batch, "network").reshape(x.shape)

  return Network(init, apply)
