"""Compiles sharded programs with known collectives on eight CPU devices; prints texts as JSON.

A process has as many devices as it starts with, so this is a program of its own.
"""

import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

LOOPS = 5


def main() -> None:
  jax.config.update("jax_num_cpu_devices", 8)
  mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))

  def struct(shape, *axes):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place(*axes))

  def looped(x, ws):
    # Weights are split over b and gathered in each iteration; x stays split over a.
    def body(x, w):
      x = jax.lax.with_sharding_constraint(x @ jax.lax.with_sharding_constraint(w, place()),
                                           place("a", None))
      return x, None
    return jax.lax.scan(body, x, ws)[0]

  programs = {
      # Each device has a quarter of the contracted axis: the sums are added over b.
      "contracted": (lambda x, w: x @ w, place(),
                     (struct((16, 64), None, "b"), struct((64, 32), "b", None))),
      "looped": (looped, place("a", None),
                 (struct((16, 32), "a", None), struct((LOOPS, 32, 32), None, "b", None))),
      "gathered": (lambda x: x, place(), (struct((48, 8), ("a", "b"), None),)),
  }
  print(json.dumps({
      name: jax.jit(function, out_shardings=out).lower(*arguments).compile().as_text()
      for name, (function, out, arguments) in programs.items()}))


if __name__ == "__main__":
  main()
