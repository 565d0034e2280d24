"""Eager calls: what is compiled once, what is found anew, and what is refused at the door."""

import functools

import chex
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx

from langevin_jax import (
    _programs,
    discrete,
    flow_maps,
    guidance,
    inpainting,
    likelihood,
    mixtures,
    paths,
    predictions,
    samplers,
)
from langevin_jax.samplers import correctors

KEY, VP, GRID = jax.random.key(0), paths.vp(), samplers.karras(4)
_COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: _COMPILED.append(name) if "backend_compile" in name else None)


def test_compiled_sums_of_products_are_those_of_eager_mode():
  """jaxlib 0.10.2 is excluded: on CPUs these two are wrong by .2 and 40 % (jax issue 39103)."""
  rows = jnp.zeros((32_769, 3)).at[:, 0].set(jnp.arange(32_769.0))
  squares = jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))
  unit = lambda h: h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True))
  x = jax.random.normal(KEY, (3, 24, 3, 8))
  cotangents = jnp.zeros((144, *x.shape)).at[7, 1].set(x[0])
  pull = lambda x: jax.vmap(lambda each: jax.vjp(unit, x)[1](each)[0])(cotangents)
  for function, value in ((squares, rows), (pull, x)):
    np.testing.assert_allclose(
        jax.jit(function, compiler_options=oracles.OPTIMIZED)(value), function(value), rtol=1e-5,
        atol=1e-5)


def test_a_jaxlib_that_computes_wrong_results_is_told():
  with pytest.warns(UserWarning, match=r"jaxlib 0\.10\.2 computes wrong"):
    _programs.check_jaxlib("0.10.2")


def compilations(run) -> int:
  before = len(_COMPILED)
  run()
  return len(_COMPILED) - before


def draw(denoise, **options):
  options = {"method": samplers.ddim(), "grid": GRID, "shape": (3, 2), **options}
  return np.asarray(samplers.sample(KEY, denoise, VP, **options))


def scaled(scale):
  return lambda x_t, t: scale * x_t


@pytest.fixture
def programs(monkeypatch):
  """(key, inputs) of each eager call, whose program is neither compiled nor run: ones come back.

  The key is the number of a program; calls with an equal key share one.
  """
  made, called = [], []

  def compiled(jaxpr):
    key = len(made)
    made.append(key)

    def run(consts, arguments):
      called.append((key, [np.asarray(jax.random.key_data(v) if jnp.issubdtype(
          v.dtype, jax.dtypes.prng_key) else v) for v in map(jnp.asarray, (*consts, *arguments))]))
      return [jnp.ones(v.aval.shape, v.aval.dtype) for v in jaxpr.outvars]

    return run

  monkeypatch.setattr(_programs, "_compiled", compiled)
  monkeypatch.setattr(_programs, "_programs", type(_programs._programs)())
  return called


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, t):
    return nn.Dense(2, kernel_init=nn.initializers.constant(0.1))(x)


class Tower(nnx.Module):
  def __init__(self):
    self.scale = nnx.Param(jnp.array(0.1))

  def __call__(self, x, t):
    return self.scale[...] * x


class Leaf(eqx.Module):
  scale: jax.Array

  def __call__(self, x, t):
    return self.scale * x


def closures():
  """A model of each kind, with how its parameter becomes 0.1, 0.2 or 0.3."""
  scale, held, tower = jnp.zeros(()), {}, Tower()

  def rebound(value):
    nonlocal scale
    scale = jnp.array(value)
    return lambda x, t: scale * x

  fixed = lambda x, t: scale * x

  def same_object(value):
    nonlocal scale
    scale = jnp.array(value)
    return fixed

  def in_place(value):
    held["scale"] = jnp.array(value)
    return held_model

  held_model = lambda x, t: held["scale"] * x

  def changed_module(value):
    tower.scale[...] = jnp.array(value)
    return tower

  linen = Net()
  variables = linen.init(KEY, jnp.zeros((3, 2)), 0.0)
  bound = lambda value: linen.bind(jax.tree.map(
      lambda leaf: leaf * 0 + value * jnp.eye(2) if leaf.ndim == 2 else leaf, variables))
  return {
      "fresh closure": rebound, "rebound closure": same_object, "dict": in_place,
      "nnx": changed_module, "equinox": lambda value: Leaf(jnp.array(value)), "linen": bound,
      "partial": lambda value: functools.partial(lambda s, x, t: s * x, jnp.array(value)),
      "pytree": lambda value: jax.tree_util.Partial(lambda s, x, t: s * x, jnp.array(value)),
      "jitted closure": lambda value: jax.jit(scaled(jnp.array(value))),
      "denoiser": lambda value: predictions.Denoiser(scaled(jnp.array(value)), VP)}


@pytest.mark.parametrize("kind", closures())
def test_every_call_runs_the_model_as_it_is_now_and_compiles_once(kind):
  make = closures()[kind]
  want = [draw(scaled(value)) for value in (0.1, 0.2, 0.3)]
  first = draw(make(0.1))
  rest = []
  assert compilations(lambda: rest.extend(draw(make(value)) for value in (0.2, 0.3))) == 0
  for got, expected in zip((first, *rest), want, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert not np.allclose(want[0], want[1])


def numbers_alone():
  """Calls that differ in numbers alone, as functions of i."""
  mixture = lambda i: mixtures.Mixture(
      jnp.array([0.4, 0.6]), jnp.array([[-1.0, 0.0], [1.0, 0.01 * i]]),
      jnp.stack([0.1 * jnp.eye(2)] * 2))
  denoise = lambda i: mixtures.denoiser(mixture(i), VP)
  x = jnp.array([[0.1, 0.2], [0.3, 0.4]])
  network = lambda x, ell, labels: 0.1 * x * labels[:, None]
  masked, clean = discrete.paths.absorbing(3), jnp.array([[0, 2], [1, 1]])
  tokens = lambda i: discrete.mixtures.denoiser(
      discrete.mixtures.Table(jnp.arange(1.0 + i, 10.0 + i).reshape(3, 3) / (45.0 + 9.0 * i)),
      masked)
  guided = lambda i: guidance.classifier_free(
      network, VP, jnp.arange(3) + i, null=9, weight=1.5 + 0.1 * i)
  return {
      "eta": lambda i: draw(scaled(0.1), method=samplers.ddim(0.1 * (i + 1))),
      "multistep eta": lambda i: draw(scaled(0.1), method=samplers.multistep(2, 0.1 * (i + 1))),
      "brownian": lambda i: draw(scaled(0.1), method=samplers.ddim(0.1 * (i + 1)),
                                 brownian=samplers.brownian(depth=4)),
      "levels": lambda i: draw(scaled(0.1), grid=samplers.karras(4, rho_max=10.0 + i)),
      "mixture": lambda i: draw(denoise(i)),
      "guidance": lambda i: draw(guided(i)),
      "inpainting": lambda i: inpainting.sample(
          KEY, denoise(i), VP, known=x + i, mask=np.arange(4).reshape(2, 2) % 3 == i % 2,
          grid=GRID, method=inpainting.lanpaint(2)),
      "log_prob": lambda i: likelihood.log_prob(KEY, denoise(i), VP, x + i, steps=2, batch_axes=1),
      "log_prob to a tolerance": lambda i: likelihood.log_prob(
          KEY, denoise(i), VP, x + i, tolerance=0.1 / (i + 1), batch_axes=1),
      "bound": lambda i: likelihood.bound(KEY, denoise(i), VP, x + i, draws=2, batch_axes=1),
      "discrete bound": lambda i: discrete.objectives.elbo(
          KEY, tokens(i), masked, (clean + i) % 3, levels=4),
      "discrete importance weights": lambda i: discrete.objectives.importance_weighted(
          KEY, tokens(i), masked, (clean + i) % 3, grid=samplers.uniform_time(4), particles=2),
      "adaptive": lambda i: samplers.adaptive(
          KEY, denoise(i), VP, shape=(3, 2), tolerance=0.1 / (i + 1), rho_max=5.0 + i)}


@pytest.mark.parametrize("kind", numbers_alone())
def test_calls_that_differ_in_numbers_alone_share_one_program(kind, programs):
  """And the numbers are among its inputs."""
  call = numbers_alone()[kind]
  for i in range(4):
    call(i)
  (key, first), (_, second), *_ = programs
  assert len(programs) == 4 and {key for key, _ in programs} == {key}
  assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_structure_is_told_apart(programs):
  """Same shapes and another operation, constant or table is another program."""
  jitted = [jax.jit(functools.partial(lambda table, x: x * table, np.float32([[a, b]])))
            for a, b in ((1.0, 2.0), (2.0, 1.0))]
  for denoise in (
      lambda x, t: jnp.sin(x), lambda x, t: jnp.cos(x), lambda x, t: 0.5 * x, lambda x, t: 0.25 * x,
      lambda x, t: jitted[0](x), lambda x, t: jitted[1](x),
      lambda x, t: jax.lax.cond(True, jnp.sin, jnp.cos, x),
      lambda x, t: jax.lax.cond(True, jnp.cos, jnp.sin, x)):
    draw(denoise)
  assert [key for key, _ in programs] == list(range(8))


def test_settings_of_jax_are_structure():
  """The generator's layout is decided where an operation is traced, not where it is compiled."""
  noisy = {"method": samplers.ddim(1.0)}
  plain = draw(scaled(0.1), **noisy)
  with jax.threefry_partitionable(False):
    other = draw(scaled(0.1), **noisy)
  assert not np.allclose(plain, other)
  np.testing.assert_array_equal(draw(scaled(0.1), **noisy), plain)


def test_a_program_holds_no_model_alive():
  import gc
  import weakref
  leaf = jnp.ones((2, 2))
  reference = weakref.ref(leaf)
  draw(functools.partial(lambda w, x, t: x @ w, leaf))
  del leaf
  gc.collect()
  assert reference() is None


METHODS = {
    "ddim": samplers.ddim(1.0), "multistep": samplers.multistep(2), "unipc": samplers.unipc(2),
    "singlestep": samplers.singlestep(2), "heun": samplers.heun(),
    "predictor_corrector": samplers.predictor_corrector(
        samplers.multistep(2), correctors.midpoint()),
    "baoab": samplers.predictor_corrector(samplers.ddim(), correctors.baoab()),
    "annealed": samplers.annealed_langevin(corrections=2)}


@pytest.mark.parametrize("name", METHODS)
def test_a_half_precision_model_is_sampled_in_float32(name):
  """D is cast where it comes in; so is a half-precision first state."""
  half = lambda x, t: (0.1 * x).astype(jnp.bfloat16)
  x = jax.eval_shape(lambda key, start: samplers.sample(
      key, half, VP, shape=(3, 2), method=METHODS[name], grid=GRID, initial=start),
      KEY, jnp.ones((3, 2), jnp.bfloat16))
  assert x.dtype == np.float32


MODEL = scaled(0.1)


def paint(denoise=MODEL, **options):
  options = {"known": jnp.zeros((3, 2)), "mask": np.array([True, False]), "grid": GRID, **options}
  return inpainting.sample(KEY, denoise, VP, **options)


def sample(key=KEY, denoise=MODEL, path=VP, **options):
  return samplers.sample(key, denoise, path, shape=(3, 2), **options)


SHAPE = r"denoise must return floats .* of shape \(3, 1\)"
REFUSED = [
    # What a denoiser returns, at every door.
    *((lambda call=call: call(lambda x, t: x[..., :1]), SHAPE) for call in (
        draw, paint, lambda denoise: draw(predictions.Denoiser(denoise, VP)),
        lambda denoise: samplers.adaptive(KEY, denoise, VP, shape=(3, 2)),
        lambda denoise: samplers.encode(denoise, VP, jnp.zeros((3, 2)), grid=GRID))),
    (lambda: draw(lambda x, t: 0.5), r"in the shape \(3, 2\) of the state, got .* of shape \(\)"),
    (lambda: draw(lambda x, t: x.astype(int)), "got int32"),
    (lambda: draw(lambda x, t: x + 1j), "got complex64"),
    # Arguments of another kind.
    (lambda: sample(method="heun"), "sampling method, such as samplers.heun"),
    (lambda: sample(method=samplers.heun), "called"),
    (lambda: sample(grid=20), "samplers.karras"), (lambda: sample(path=paths.vp), "paths.vp"),
    (lambda: sample(denoise=3.0), "denoise must be a function"),
    (lambda: sample(key=3), "key must be a jax.random.key"),
    (lambda: sample(initial=jnp.zeros((3, 2)) + 1j), "real"),
    *((lambda rho=rho: sample(grid=lambda path: np.array(rho)), message) for rho, message in (
        ([3.0, 3.0, 0.0], "another level"), ([3.0, np.nan, 0.0], "rho >= 0"),
        ([1.0, 3.0], "fall strictly at the end"), ([1.0], "two or more levels"))),
    (lambda: paint(method=samplers.heun()), "inpainter"),
    (lambda: paint(method="lanpaint"), "inpainter"),
    (lambda: paint(outer=samplers.heun), "outer must be a sampling method"),
    (lambda: samplers.predictor_corrector(samplers.ddim, correctors.exact()),
     "a method and a corrector"),
    # Grids and parts of grids.
    *((lambda options=options: samplers.within(GRID, **options)(VP), message)
      for options, message in (({"start": 1.0, "stop": 2.0}, "stop >= 0"),
                               ({"stop": 100.0}, "below the grid's first level"))),
    *((lambda rho=rho: samplers.explicit(rho), "fall before it rises")
      for rho in ((1.0, 20.0, 1.0), (80.0, 5.0, 1.0, 5.0, 20.0, 1.0))),
    (lambda: samplers.ancestral(GRID, -1.0), "stochasticity"),
    *((lambda method=method: samplers.encode(scaled(0.1), VP, jnp.zeros(2), method=method),
       "no churn and no corrector") for method in (
           samplers.ddim(1.0), samplers.heun(5.0),
           samplers.predictor_corrector(samplers.ddim(), correctors.exact()))),
    (lambda: paint(grid=samplers.within(GRID, stop=1.0)), "ends at rho = 0"),
    (lambda: sample(grid=samplers.explicit((2.0, 1.0, 2.0, 1.0)), method=samplers.ddim(1.0),
                    brownian=samplers.brownian()), "fresh noise"),
    (lambda: samplers.ddpm("huge"), "variance must be one of"),
    *((lambda solve=solve, options=options: solve(
        KEY, MODEL, VP, shape=(3, 2), **options), "must be a number, got '1'")
      for solve in (samplers.adaptive, samplers.adaptive_sde)
      for options in ({"tolerance": "1"}, {"rho_min": "1"}, {"rho_max": "1"}, {"max_steps": "1"})),
    (lambda: samplers.adaptive_sde(KEY, MODEL, VP, shape=(3, 2), stochasticity="1"),
     "stochasticity must be a number"),
    *((lambda make=make: make("1"), "must be a number, got '1'")
      for make in (inpainting.langevin, inpainting.lanpaint, inpainting.repaint,
                   lambda v: inpainting.lanpaint(guidance=v),
                   lambda v: inpainting.lanpaint(friction=v),
                   lambda v: inpainting.langevin(step_size=v))),
    (lambda: draw(scaled(0.1), method=samplers.ddpm("learned")), r"returns \(D, v\)")]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_cannot_be_right_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_concrete_arrays_inside_jit_are_checked_on_the_host():
  """Under jit an operation on a concrete array is traced; checks must not be."""
  denoise = scaled(0.1)
  known, mask = jnp.array([0.0, 1.0]), jnp.array([False, True])
  paint = lambda key: inpainting.sample(key, denoise, VP, known=known, mask=mask, grid=GRID,
                                        method=inpainting.replacement())
  np.testing.assert_allclose(jax.jit(paint)(KEY), paint(KEY), rtol=1e-5)
  everywhere = jnp.array([True, True])
  with pytest.raises(ValueError, match="everywhere"):
    jax.jit(lambda key: inpainting.sample(key, denoise, VP, known=known, mask=everywhere))(KEY)

  def corrected(budget, weight):
    method = samplers.predictor_corrector(samplers.ddim(), correctors.baoab(budget))
    guided = guidance.autoguidance(denoise, scaled(0.2), VP, weight=weight)
    return samplers.sample(KEY, guided, VP, shape=(2,), method=method, grid=GRID)

  jax.eval_shape(lambda: corrected(jnp.float32(0.3), jnp.float32(1.5)))
  np.testing.assert_allclose(jax.jit(corrected)(0.3, 1.5), corrected(0.3, 1.5), rtol=1e-5)


POINT = jnp.zeros((4, 2))
COUNTS = {  # (name in messages, call of a count)
    "karras": ("n, the number of steps,", samplers.karras),
    "shifted": ("n, the number of steps,", samplers.shifted),
    "bound": ("draws", lambda n: likelihood.bound(KEY, MODEL, VP, POINT, draws=n)),
    "log_prob": ("steps", lambda n: likelihood.log_prob(KEY, MODEL, VP, POINT, steps=n)),
    "probes": ("probes", lambda n: likelihood.log_prob(
        KEY, MODEL, VP, POINT, steps=2, divergence="hutchinson", probes=n)),
    "ledger": ("bins", lambda n: likelihood.ledger(KEY, MODEL, VP, POINT, bins=n, repeats=2)),
    "corrections": ("corrections", lambda n: samplers.predictor_corrector(
        samplers.ddim(), correctors.exact(0.1), corrections=n)),
    "iterations": ("iterations", lambda n: inpainting.inverse.mmps(
        MODEL, VP, observed=POINT, operator=lambda x: x, noise_std=0.1, shape=(2,),
        iterations=n)),
    "resamples": ("resamples", lambda n: inpainting.repaint(resamples=n)),
    "inner_steps": ("inner_steps", lambda n: inpainting.langevin(inner_steps=n)),
    "dyadic": ("levels", lambda n: flow_maps.dyadic(levels=n)),
    "bits_per_dim": ("dims", lambda n: likelihood.bits_per_dim(jnp.zeros(3), dims=n)),
    "vocabulary": ("vocabulary", lambda n: discrete.paths.uniform(n)),
    "corrected": ("corrections", lambda n: discrete.samplers.corrected(
        discrete.samplers.ancestral(), n)),
    "adaptive": ("max_steps", lambda n: samplers.adaptive(
        KEY, MODEL, VP, shape=(2,), max_steps=n)),
    "event_axes": ("event_axes", lambda n: correctors.snr(event_axes=n)),
}


@pytest.mark.parametrize("case", COUNTS)
def test_counts_are_whole_numbers_also_as_arrays_inside_jit(case):
  name, call = COUNTS[case]
  three = jnp.int32(3)

  def run():
    call(three)
    return ()

  jax.eval_shape(run)
  for wrong, message in ((2.5, "must be a whole number, got 2.5"), (0, "must be at least")):
    with pytest.raises(ValueError, match=f"^{name} {message}"):
      call(wrong)


def test_a_known_interval_of_guidance_is_read_on_the_host():
  ends = jnp.array([0.3, 2.0])
  model = lambda ends: guidance.autoguidance(MODEL, scaled(0.2), VP, weight=2.0, interval=ends)
  at = lambda ends, ell: model(ends).at(jnp.ones(2), ell)
  for ell in (-2.0, 0.0, 2.0):
    inside = jax.jit(lambda ell: at(ends, ell))(ell)
    np.testing.assert_allclose(inside, at((0.3, 2.0), ell), rtol=1e-6)
  with pytest.raises(ValueError, match="each entry of interval must be a number, not traced"):
    jax.eval_shape(lambda ends: at(ends, jnp.float32(0.0)), ends)


def test_the_numbers_of_an_adaptive_solve_are_read_on_the_host():
  """Arrays are their numbers inside jit; a traced range is refused; η and a tolerance are not."""
  value = jnp.float32(0.5)
  ode = lambda **options: samplers.adaptive(KEY, MODEL, VP, shape=(2,), **options).x
  sde = lambda **options: samplers.adaptive_sde(KEY, MODEL, VP, shape=(2,), **options).x
  for solve in (ode, sde):
    for name in ("rho_min", "rho_max"):
      jax.eval_shape(lambda solve=solve, name=name: solve(**{name: value}))
      with pytest.raises(ValueError, match=f"{name} must be a number, not traced"):
        jax.eval_shape(lambda v, solve=solve, name=name: solve(**{name: v}), value)
  jax.eval_shape(lambda: sde(stochasticity=value))
  solve = lambda eta, tolerance: sde(stochasticity=eta, tolerance=tolerance, rho_min=0.1)
  np.testing.assert_allclose(jax.jit(solve)(0.5, 0.1), solve(0.5, 0.1), rtol=1e-4)


def test_adaptive_solvers_need_no_implicit_promotion():
  with jax.numpy_dtype_promotion("strict"):
    for solve in (samplers.adaptive, samplers.adaptive_sde):
      x, _ = solve(KEY, MODEL, VP, shape=(3, 2), tolerance=1e-1, rho_min=0.1)
      assert np.all(np.isfinite(x))


def test_lists_are_arrays():
  data = [1.0, 2.0]
  for draw in (lambda x: samplers.encode(MODEL, VP, x, grid=GRID),
               lambda x: samplers.sample(KEY, MODEL, VP, shape=(2,), grid=GRID, initial=x)):
    np.testing.assert_array_equal(draw(data), draw(jnp.asarray(data)))
  np.testing.assert_array_equal(
      paint(known=data, mask=[True, False]), paint(known=jnp.asarray(data)))


@pytest.mark.parametrize("shape", [(4, 4, 3), (4, 4), (4, 4, 1), (5, 1, 1, 1), (1, 4, 1)])
def test_masks_broadcast_over_channels(shape):
  """(h, w) holds for all channels, and axes of length 1 are repeated."""
  mask = np.zeros(shape, bool)
  mask.ravel()[: max(1, mask.size // 2)] = True
  full = np.broadcast_to(mask[..., None] if shape == (4, 4) else mask, (5, 4, 4, 3))
  known, made = inpainting.checked(jnp.ones((4, 4, 3)), mask, (5, 4, 4, 3))
  np.testing.assert_array_equal(made, full)
  np.testing.assert_array_equal(known, np.where(full, 1.0, 0.0))
  with pytest.raises(ValueError, match="mask must have the shape"):
    inpainting.checked(jnp.ones((4, 4, 3)), np.ones((3, 4), bool), (5, 4, 4, 3))


def test_noise_is_each_key_s_own_whatever_its_kind():
  """rbg draws of an array of keys depend on the whole array; typed or not, none does here."""
  keys = jax.random.split(jax.random.key(1, impl="rbg"), 4)
  options = {"method": samplers.ddim(1.0), "grid": GRID}
  sample = lambda keys, shape: np.asarray(
      samplers.sample(keys, scaled(0.1), VP, shape=shape, **options))
  batch = sample(keys, (4, 2))
  np.testing.assert_allclose(sample(keys[3], (2,)), batch[3], rtol=1e-5)
  mapped = jax.vmap(lambda key: samplers.sample(key, scaled(0.1), VP, shape=(2,), **options))(keys)
  np.testing.assert_allclose(mapped, batch, rtol=1e-5)
  assert len(np.unique(batch)) == batch.size
  with jax.default_prng_impl("rbg"):
    np.testing.assert_allclose(
        sample(jax.random.key_data(keys), (4, 2)), batch, rtol=1e-5)


def test_no_samples_are_an_empty_array():
  for adaptive in (samplers.adaptive, samplers.adaptive_sde):
    assert adaptive(KEY, scaled(0.1), VP, shape=(0, 2)).x.shape == (0, 2)
  assert draw(scaled(0.1), shape=(0, 2)).shape == (0, 2)


def test_brownian_noise_of_a_window_of_stochasticity_is_finite():
  window = samplers.ddim(lambda ell: jnp.where((ell > -2.0) & (ell < 0.0), 1.0, 0.0))
  for method in (window, samplers.ddim(lambda ell: 0.0 * ell)):
    options = {"method": method, "brownian": samplers.brownian(depth=4)}
    assert np.all(np.isfinite(draw(scaled(0.1), **options)))


def test_gradients_of_an_eager_call_reach_what_the_model_closes_over():
  def total(scale):
    return samplers.sample(KEY, scaled(scale), VP, shape=(2,), method=samplers.heun(),
                           grid=GRID).sum()

  step = 1e-2
  slope = (total(0.5 + step) - total(0.5 - step)) / (2 * step)
  chex.assert_trees_all_close(jax.grad(total)(0.5), slope, rtol=1e-2)


def test_guidance_rescaled_has_a_derivative_where_a_prediction_is_constant():
  network = lambda x, ell, labels: jnp.ones_like(x) * labels[:, None]
  denoise = lambda weight: guidance.classifier_free(
      network, VP, jnp.array([1]), null=0, weight=weight, rescale=0.7)
  slope = jax.jit(jax.grad(lambda weight: denoise(weight)(jnp.ones((1, 3)), 1.0).sum()))(2.0)
  assert np.isfinite(slope)


class TestSequencesOfLevels:
  """A grid falls, rises, begins and ends where it is asked to."""

  DENOISER = predictions.Denoiser(oracles.line, VP)

  def test_encoding_and_sampling_are_inverse(self):
    rng = np.random.default_rng(0)
    k = rng.choice(3, (200, 2), p=oracles.WEIGHTS)
    x_0 = oracles.MEANS[k] + oracles.STDS[k] * rng.normal(size=(200, 2))
    options = {"method": samplers.singlestep(3), "grid": samplers.karras(50)}
    z = samplers.encode(self.DENOISER, VP, jnp.asarray(x_0), **options)
    level = VP.sigma(VP.time(-np.log(80.0)))
    np.testing.assert_allclose(np.asarray(z).std() / level, 1.0, atol=0.1)
    back = samplers.sample(KEY, self.DENOISER, VP, shape=x_0.shape, initial=z, **options)
    assert np.sqrt(np.mean((back - x_0) ** 2)) < 1e-3

  def test_a_rise_is_the_exact_forward_kernel(self):
    """With the exact Gaussian model the law after many restarts is that of the data."""
    mean, var, n = 0.7, 0.09, 20_000
    denoise = predictions.Denoiser(
        functools.partial(oracles.gaussian, var=var, mean=mean), VP)
    falls = tuple(np.geomspace(80.0, 0.05, 24))
    grid = samplers.explicit(
        (*falls, *np.geomspace(2.0, 0.05, 16), *np.geomspace(1.0, 0.05, 12)))
    x, plain = (samplers.sample(jax.random.split(KEY, n), denoise, VP, shape=(n, 1),
                                method=samplers.heun(), grid=grid)
                for grid in (grid, samplers.explicit(falls)))
    # D at the last level has the spread of x₀ that ρ = 0.05 does not hide.
    assert abs(np.mean(x) - mean) < 0.008
    assert abs(np.std(x) - var / np.sqrt(var + 0.05**2)) < 0.006
    # Fresh noise: what is known of the state before is lost in part.
    assert abs(np.corrcoef(x[:, 0], plain[:, 0])[0, 1]) < 0.95

  def test_parts_of_a_grid(self):
    """Stopped and gone on with is the whole; begun with noised data is the data's law."""
    whole = samplers.explicit((80.0, 20.0, 5.0, 1.0, 0.3))
    sample = lambda grid, initial=None: samplers.sample(
        KEY, self.DENOISER, VP, shape=(5, 2), grid=grid, initial=initial)
    stopped = sample(samplers.within(whole, stop=5.0))
    rest = sample(samplers.within(whole, start=5.0), stopped)
    np.testing.assert_allclose(rest, sample(whole), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        samplers.within(samplers.karras(10), start=3.0, stop=0.5)(VP)[[0, -1]], [3.0, 0.5])
    flow = paths.rectified_flow()
    z = samplers.encode(scaled(0.1), flow, jnp.ones(2), grid=samplers.uniform_time(8),
                        method=samplers.multistep(2, variable="angle"))
    assert np.all(np.isfinite(z))

  def test_an_ancestral_grid_is_the_posterior_s_noise(self):
    """A fall by the ODE and a rise by the kernel, in which D drops out: STEP(h, h) exactly."""
    grid = samplers.karras(5, rho_max=20.0)
    planned = samplers.sampling.plan(VP, samplers.ddim(), samplers.ancestral(grid))
    whole = samplers.sampling.plan(VP, samplers.ddim(1.0), grid).numbers
    # From a level down by the ODE (step i), then up by the kernel before step i + 1.
    m, c = planned.kernel.m[1:], planned.kernel.c[1:]
    falls = planned.numbers
    np.testing.assert_allclose(m * falls.a[:-1], whole.a[:-1], rtol=1e-9)
    np.testing.assert_allclose(m * falls.b[:-1, 0], whole.b[:-1, 0], rtol=1e-9)
    np.testing.assert_allclose(c, whole.c[:-1], rtol=1e-9)
    np.testing.assert_array_equal(samplers.ancestral(grid, 0.0)(VP), grid(VP))

  def test_ancestral_variances(self):
    """Small is the posterior's, large the kernel's β = 1 − (α_t/α_s)², a learned one between."""
    grid = samplers.karras(5, rho_max=20.0)
    nodes = samplers.levels.place_levels(grid(VP), VP)
    beta = 1.0 - (nodes.alpha[:-2] / nodes.alpha[1:-1]) ** 2
    large = samplers.ddpm("large").plan(nodes, VP)
    np.testing.assert_allclose((large.step.c * large.ratio)[:-1] ** 2, beta, rtol=1e-9)
    assert large.step.c[-1] == 0.0
    options = {"grid": grid}
    learned = lambda v: draw(lambda x, t: (0.1 * x, jnp.full_like(x, v)),
                             method=samplers.ddpm("learned"), **options)
    plain = lambda variance: draw(scaled(0.1), method=samplers.ddpm(variance), **options)
    np.testing.assert_allclose(learned(0.0), plain("small"), rtol=1e-5)
    np.testing.assert_allclose(learned(1.0), plain("large"), rtol=1e-5)
    assert not np.allclose(plain("small"), plain("large"))
    # Any other method takes D alone.
    pair = lambda x, t: (0.1 * x, jnp.zeros_like(x))
    np.testing.assert_array_equal(draw(pair), draw(scaled(0.1)))

  def test_a_grid_that_falls_has_no_kernel(self):
    planned = samplers.sampling.plan(VP, samplers.ddim(), samplers.karras(5))
    assert planned.kernel is None
    # STEP with Λ = −h is the kernel: from the clean end too.
    nodes = samplers.levels.place_levels(np.array([0.0, 2.0]), VP)
    kernel = samplers.sampling._kernel(
        *(samplers.levels.pick(nodes, slice(i, i + 1)) for i in (0, 1)), np.array([True]))
    np.testing.assert_allclose([kernel.m[0], kernel.c[0]],
                               [1 / np.sqrt(5.0), 2 / np.sqrt(5.0)], rtol=1e-12)
