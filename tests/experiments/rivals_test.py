"""Other libraries' solvers: they solve what ours solve, on the same grid, at the calls they state.

diffusers' Flax schedulers run here, without PyTorch. The rest run in the worker's environment, this
one or that of the interpreter that RIVALS_PYTHON names, and are skipped where they are absent.
"""

import importlib
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import rivals
from langevin_jax import paths, predictions, samplers

MEAN, VAR = 0.5, 0.3
WEIGHTS, MEANS, STDS = np.array([[0.35, 0.45, 0.2], [-1.2, 0.4, 1.6], [0.35, 0.25, 0.15]])
RIVALS = rivals.RIVALS


def gaussian(z, rho):
  """D of N(MEAN, VAR) data in z = x₀ + ρε."""
  return MEAN + VAR / (VAR + rho**2) * (z - MEAN)


@jax.jit
def line(z, rho):
  """D of the one-dimensional mixture of theory.md#exact-models, for z (n,)."""
  weights, means, stds = (jnp.asarray(v, z.dtype)[None] for v in (WEIGHTS, MEANS, STDS))
  var = stds**2 + rho**2
  offset = z[:, None] - means
  r = jax.nn.softmax(jnp.log(weights) - 0.5 * jnp.log(var) - 0.5 * offset**2 / var, -1)
  return jnp.sum(r * (means + stds**2 / var * offset), -1)


def line_denoiser(path):
  return predictions.Denoiser(
      lambda x, ell: line(jnp.sqrt(1.0 + jnp.exp(-2.0 * ell)) * x, jnp.exp(-ell)), path)


def quadratic(n):
  """ρ = 3(1 − i/n)²: smooth in i, with a last level that vanishes as the steps do."""
  return 3.0 * (1.0 - np.arange(n + 1) / n) ** 2


@pytest.fixture(scope="module")
def worker():
  with rivals.worker(os.environ.get("RIVALS_PYTHON", sys.executable)) as running:
    yield running


def here(worker, name):
  if name not in worker.names:
    pytest.skip(worker.absent[RIVALS[name].library])
  return RIVALS[name]


@pytest.mark.parametrize("name", [name for name, rival in RIVALS.items() if not rival.random])
def test_every_ode_rival_converges_to_the_exact_flow_at_its_order(worker, name):
  """Of a Gaussian: x₀ = m + (z − m)√(S/(S + ρ²)), from 32 to 128 steps, and calls as stated."""
  rival = here(worker, name)
  z = np.linspace(-4.0, 4.0, 9)[:, None]
  exact = MEAN + (z - MEAN) * np.sqrt(VAR / (VAR + 9.0))
  errors = {}
  for n in (32, 128):
    result = worker.solve(name, gaussian, z, quadratic(n))
    assert result.calls == rival.calls(n)
    errors[n] = np.sqrt(np.mean((result.x_0 - exact) ** 2))
  # Two halvings; a quarter of an order for what is not asymptotic yet.
  assert 0.5 * np.log2(errors[32] / errors[128]) > rival.order - 0.25, errors
  for calls in (5, 8, 10):
    n = rivals.steps(name, calls)
    result = worker.solve(name, gaussian, z, quadratic(n))
    assert result.calls == rival.calls(n) <= calls < rival.calls(n + 1)
    assert np.max(np.abs(result.x_0 - exact)) < 0.5


@pytest.mark.parametrize("name", [name for name, rival in RIVALS.items() if rival.random])
def test_every_random_rival_has_the_law_of_the_data(worker, name):
  rival = here(worker, name)
  rng = np.random.default_rng(0)
  z = MEAN + np.sqrt(VAR + 9.0) * rng.standard_normal((4000, 1))
  result = worker.solve(name, gaussian, z, quadratic(64), seed=1)
  again = worker.solve(name, gaussian, z, quadratic(64), seed=1).x_0
  other = worker.solve(name, gaussian, z, quadratic(64), seed=2).x_0
  assert result.calls == rival.calls(64)
  np.testing.assert_array_equal(result.x_0, again)
  assert np.std(result.x_0 - other) > 0.1
  # Four standard errors of 4000 draws, and the bias of 64 steps in the variance.
  assert abs(np.mean(result.x_0) - MEAN) < 4 * np.sqrt(VAR / 4000)
  assert abs(np.var(result.x_0) / VAR - 1.0) < 4 * np.sqrt(2 / 4000) + 0.06


SAME = {name: samplers.ddim() for name, rival in RIVALS.items()
        if rival.order == 1 and not rival.random and name != "azula reab_2"} | {
    # DPM-Solver++(2M) by its exact weight, and DEIS: polynomials of x₀ and of ε in ℓ.
    "k-diffusion dpmpp_2m heun": samplers.multistep(2),
    "diffusers dpmpp_2m heun": samplers.multistep(2),
    "azula xeab_2": samplers.multistep(2),
    "diffusers deis_2": samplers.multistep(2, prediction="eps"),
    "diffusers ipndm": samplers.multistep(
        4, prediction="eps", variable="step", corrected_start=False),
    "azula zeab_2": samplers.multistep(2, prediction="eps"),
}


@pytest.mark.parametrize("name", SAME)
def test_rivals_that_are_methods_of_ours(worker, name, x64):
  """On one grid and one mixture they are our numbers, to 1e-6 (some step in float32)."""
  here(worker, name)
  path = paths.ve()
  # From 15 steps on diffusers keeps its order in the last step.
  rho = samplers.karras(16, rho_min=0.05, rho_max=10.0)(path)
  z = 10.0 * np.linspace(-2.0, 2.0, 7)
  ours = samplers.sample(
      jax.random.key(0), line_denoiser(path), path, shape=z.shape, initial=jnp.asarray(z),
      method=SAME[name], grid=lambda path: rho)
  theirs = worker.solve(name, line, z, rho).x_0
  np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_what_is_absent_is_named(worker):
  """Each library is there or says why not, and what is asked of it is refused by that reason."""
  assert {RIVALS[name].library for name in worker.names}.isdisjoint(worker.absent)
  for library, why in worker.absent.items():
    assert why.startswith(library)
  for name, rival in RIVALS.items():
    if rival.library in worker.absent:
      with pytest.raises(ValueError, match=f"rival '{name}' is not available: {rival.library}"):
        worker.solve(name, gaussian, np.zeros((2, 1)), quadratic(4))
  with pytest.raises(ValueError, match="'best' is not available: choose one of k-diffusion euler"):
    worker.solve("best", gaussian, np.zeros((2, 1)), quadratic(4))
  for name in worker.names[:1]:
    with pytest.raises(ValueError, match="falling strictly to 0"):
      worker.solve(name, gaussian, np.zeros((2, 1)), quadratic(4)[:-1])


def test_a_worker_that_ends_is_an_error(tmp_path):
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\nexit 3\n")
  python.chmod(0o755)
  with pytest.raises(OSError, match="has ended"), rivals.worker(str(python)):
    pass


def test_equal_calls():
  """Two calls a step but for the last, one more in all, one a step."""
  count = lambda name: [rivals.steps(name, calls) for calls in (1, 2, 5, 8, 50)]
  assert count("k-diffusion heun") == [1, 1, 3, 4, 25]
  assert count("diffusers pndm") == [0, 1, 4, 7, 49]
  assert count("azula ddim") == [1, 2, 5, 8, 50]


# diffusers' Flax schedulers: integer times of a discrete VP schedule, whose ᾱ is our grid.


def flax(module, scheduler, n, options):
  """(step, state) of a scheduler set to n steps, and ρ of all its integer times."""
  pytest.importorskip("diffusers")
  made = getattr(importlib.import_module(f"diffusers.schedulers.{module}"), scheduler)(
      prediction_type="sample", **options)
  state = made.set_timesteps(made.create_state(), n, (7,))
  cumulative = np.asarray(state.common.alphas_cumprod, np.float64)
  return made.step, state, np.sqrt((1.0 - cumulative) / cumulative)


def run_flax(step, state, rho, z):
  """x at unit scale after all steps, float32, the model being `line`; and the levels visited."""
  levels = rho[np.asarray(state.timesteps)]

  def one(carry, now):
    x, state = carry
    t, level, scale = now
    return step(state, line(scale * x, level), t, x, return_dict=False), None

  @jax.jit
  def run(x, state):
    scale = np.sqrt(1.0 + levels**2)
    now = state.timesteps, jnp.asarray(levels, x.dtype), jnp.asarray(scale, x.dtype)
    return jax.lax.scan(one, (x / now[2][0], state), now)[0][0]

  return np.asarray(run(jnp.asarray(z, jnp.float32), state), np.float64), levels


Z = 100.0 * np.linspace(-2.0, 2.0, 7)
# Their λ = log α − log σ is good to 5e-7 in float32, at each of 20 steps of an O(1) state.
FLOAT32 = 5e-6


def test_diffusers_ddim_is_ours():
  """Its integer times visit levels ρ = √(1/ᾱ − 1), then 0; there the samples are the same."""
  n = 20
  step, state, rho = flax("scheduling_ddim_flax", "FlaxDDIMScheduler", n,
                          {"clip_sample": False})
  theirs, levels = run_flax(step, state, rho, Z)
  path = paths.vp()
  ours = samplers.sample(
      jax.random.key(0), line_denoiser(path), path, shape=Z.shape,
      initial=jnp.asarray(Z / np.sqrt(1.0 + levels[0] ** 2), jnp.float32),
      method=samplers.ddim(), grid=lambda path: np.append(levels, 0.0))
  np.testing.assert_allclose(theirs, ours, atol=FLOAT32)


def multistep(z, rho, weight):
  """DPM-Solver++(2M) in float64: z′ = e^{−h} z + Σ c_i D_i (theory.md#solvers), first step DDIM."""
  before = None
  for i in range(len(rho) - 1):
    h = np.log(rho[i] / rho[i + 1])
    denoised = np.asarray(line(z, jnp.asarray(rho[i])))
    slope = 0.0 if before is None else (denoised - before[1]) * h / before[0]
    z = np.exp(-h) * z - np.expm1(-h) * denoised + weight(h) * slope
    before = h, denoised
  return z


@pytest.mark.parametrize(("solver", "weight"), [
    ("midpoint", lambda h: -0.5 * np.expm1(-h)),
    ("heun", lambda h: 1.0 + np.expm1(-h) / h)])
def test_diffusers_multistep_is_the_formula(solver, weight, x64):
  """wφ₂ is the exact weight of the slope ("heun"); "midpoint" has (1 − e^{−h})/2 in its place."""
  with jax.enable_x64(False):
    step, state, rho = flax(
        "scheduling_dpmsolver_multistep_flax", "FlaxDPMSolverMultistepScheduler", 20,
        {"solver_type": solver})
    theirs, levels = run_flax(step, state, rho, Z)
  # It ends at its first integer time, not at 0.
  visited = np.append(levels, rho[0])
  expected = multistep(Z, visited, weight) / np.sqrt(1.0 + rho[0] ** 2)
  np.testing.assert_allclose(theirs, expected, atol=FLOAT32)
  path = paths.vp()
  ours = samplers.trajectory(
      jax.random.key(0), line_denoiser(path), path, shape=Z.shape,
      initial=jnp.asarray(Z / np.sqrt(1.0 + levels[0] ** 2)), method=samplers.multistep(2),
      grid=lambda path: np.append(visited, 0.0)).x[-2]
  # Ours is the exact form: float64's rounding and that of ρ through the path's time; the other
  # differs by w²/12 of a difference of D, far more than rounding.
  if solver == "heun":
    np.testing.assert_allclose(ours, expected, atol=1e-11)
    np.testing.assert_allclose(ours, theirs, atol=FLOAT32)
  else:
    assert np.max(np.abs(ours - theirs)) > 100.0 * FLOAT32
