"""Tables 1–7 of the paper: proved with sympy as printed (errata corrected), then found in the code.

The formulas are read from the paper's own notation in `experiments/paper/tables/printed.toml`;
`printed.py` says what the symbols mean. The code is compared with their float64 values.
"""

import itertools

import jax
import numpy as np
import pytest
import sympy as sp

from experiments.paper.tables.printed import (
  LEVEL,
  LEVELS,
  MISSING,
  NAMES,
  NOISE,
  PATHS,
  ROW_NAMES,
  TABLES,
  VELOCITY,
  a,
  cell,
  dt,
  dw,
  eps,
  eta,
  meaning,
  s,
  score,
  sigma,
  t,
  value,
  x,
  x_0,
)
from langevin_jax import paths, predictions, splitting

VP_TIME = {a: sp.exp(-t)}
TIMES = {"vp": t, "ve": sigma, "rf": s}
# Table 5: each path's native prediction as a row (x₀ coefficient, ε coefficient).
ROWS = {"vp": (0, -1 / sp.sqrt(1 - a)), "ve": (0, 1), "rf": (-1, 1)}
NATIVE = {NOISE: -sigma * score, VELOCITY: -(s * score + x) / (1 - s)}


def _read_rows():
  """The tables as formulas by row, for comparisons with the theory."""
  noise = lambda e: e.coeff(dw)
  drift = lambda e: e.coeff(dt)
  # Table 1: signal scale, noise standard deviation; f and g of dx = f x dt + g dW.
  states = {n: meaning(1, n, 2) for n in NAMES}
  forward = {n: (e.coeff(x_0), e.coeff(eps)) for n, e in states.items()}
  sdes = {n: meaning(1, n, 3) for n in NAMES}
  table_1 = {n: (drift(e).coeff(x), noise(e)) for n, e in sdes.items()}
  # Tables 2 and 5: (given, wanted) → the state per unit of the given one, and the noise level; the
  # wanted prediction in the given path's own state `x` and prediction `value`.
  pairs = [(g, w) for g in NAMES for w in NAMES if g != w]
  column = {name: 1 + i for i, name in enumerate(NAMES)}
  table_2 = {(g, w): (meaning(2, g, column[w]).coeff(x), meaning(2, g, column[w], 1))
             for g, w in pairs}
  table_5 = {(g, w): meaning(5, g, column[w]) for g, w in pairs}
  # Table 3, with what it lacks: path, η, the clock H of dx = H s dτ + √(2H) dW, and drift and
  # noise amplitude of the reverse split.
  table_3 = {row: (row[:2], eta(row), drift(meaning(3, row, 1)).coeff(score),
                   drift(meaning(3, row, 2)), noise(meaning(3, row, 2)))
             for row in (*TABLES[3].rows, *MISSING)}
  # Table 4: drift and noise in the reverse clock, noise and velocity replaced by `NATIVE`.
  table_4 = {row: (row[:2], eta(row), drift(meaning(4, row, 1)), noise(meaning(4, row, 1)))
             for row in TABLES[4].rows}
  # Table 6: the network's score in terms of its output, the score of p(x_t | x₀), and the loss.
  table_6 = {n: tuple(meaning(6, n, i) for i in (3, 4, 5)) for n in NAMES}
  # Table 7: forward process, reverse drift, η, loss up to a weight.
  table_7 = {row: (meaning(7, row, 1), drift(meaning(7, row, 2)), eta(row), meaning(7, row, 3))
             for row in TABLES[7].rows}
  return forward, states, table_1, table_2, table_3, table_4, table_5, table_6, table_7


FORWARD, STATE, TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7 = _read_rows()

eps_hat = sp.symbols("epsilon_hat", real=True)
PAIRS = tuple(itertools.permutations(NAMES, 2))

# Interior times; every path's noise level lies between ρ = .05 and ρ = 20 there.
POINTS = {"vp": np.array([0.01, 0.4, 1.3, 5.0]), "ve": np.array([0.05, 0.7, 1.9, 20.0]),
          "rf": np.array([0.05, 0.4, 0.7, 0.95])}
STATES, SCORES = np.array([-1.7, 0.2, 0.9, 3.1]), np.array([0.8, -2.1, 0.4, -0.3])


def zero(expression) -> bool:
  return sp.simplify(sp.sympify(expression).subs(LEVEL)) == 0


def in_time(name: str, expression):
  """A formula of the noise level as one of the path's own time."""
  return sp.sympify(expression).subs(VP_TIME) if name == "vp" else sp.sympify(expression)


def forward_sde(name: str):
  """(f, g²) by matching moments of x_t given x₀: ṁ = f m and d(σ²)/dt = 2 f σ² + g²."""
  time = TIMES[name]
  scale, noise = (in_time(name, e) for e in FORWARD[name])
  f = sp.diff(scale, time) / scale
  return f, sp.diff(noise**2, time) - 2 * f * noise**2


def solved(name: str):
  """(x₀, ε) of the state `x` and the native prediction `value`: the 2×2 solve."""
  unknown = sp.symbols("u_0 u_1")
  (scale, noise), (row_0, row_1) = FORWARD[name], ROWS[name]
  solution = sp.solve([scale * unknown[0] + noise * unknown[1] - x,
                       row_0 * unknown[0] + row_1 * unknown[1] - value], unknown, dict=True)[0]
  return solution[unknown[0]], solution[unknown[1]]


def numbers(name: str, expression, **columns):
  """Values of a formula at the path's test times; symbols of `columns` by their names."""
  expression = in_time(name, expression)
  symbols = (TIMES[name], x, score, value)
  given = (POINTS[name], *(columns.get(n, np.zeros(4)) for n in ("x", "score", "value")))
  return np.broadcast_to(sp.lambdify(symbols, expression, "numpy")(*given), (4,))


def check_close(actual, desired):
  # float64 rounding of a few operations on numbers up to 1e3.
  np.testing.assert_allclose(np.asarray(actual), desired, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_table_1_follows_from_alpha_and_sigma(name):
  f, g_squared = forward_sde(name)
  assert sp.simplify(f - TABLE_1[name][0]) == 0
  assert sp.simplify(g_squared - TABLE_1[name][1] ** 2) == 0


@pytest.mark.parametrize("name", NAMES)
def test_table_1_in_code(name, x64):
  path = PATHS[name]
  rows = jax.vmap(lambda t: (path.alpha(t), path.sigma(t), path.drift(t), path.diffusion(t)))(
      POINTS[name])
  for actual, formula in zip(rows, (*FORWARD[name], *TABLE_1[name]), strict=True):
    check_close(actual, numbers(name, formula))


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_table_2_is_one_noise_to_signal_ratio(given, wanted):
  """The wanted state is (α_b/α_a) x, at the level where σ_b/α_b = σ_a/α_a."""
  scale, level = TABLE_2[given, wanted]
  (alpha_a, sigma_a), (alpha_b, sigma_b) = FORWARD[given], FORWARD[wanted]
  there = {LEVELS[wanted]: level}
  assert zero((sigma_b / alpha_b).subs(there) - sigma_a / alpha_a)
  assert zero(sp.sympify(alpha_b).subs(there) / alpha_a - scale)


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_table_2_in_code(given, wanted, x64):
  x_b, t_b = jax.vmap(lambda x, t: paths.convert(x, t, PATHS[given], PATHS[wanted]))(
      STATES, POINTS[given])
  scale, level = TABLE_2[given, wanted]
  check_close(x_b, numbers(given, scale * x, x=STATES))
  check_close(np.exp(-t_b) if wanted == "vp" else t_b, numbers(given, level))


@pytest.mark.parametrize("row", TABLE_3)
def test_table_3_langevin_is_forward_plus_reverse(row):
  name, eta, clock, drift, noise = TABLE_3[row]
  f, g_squared = (e.subs(t, -sp.log(a)) for e in forward_sde(name))
  assert zero(f * x + drift - clock * score)
  assert zero(g_squared + noise**2 - 2 * clock)
  # The clock that the stochasticity η stands for: 2H = (1 + η²) g².
  assert zero((1 + eta**2) * g_squared - 2 * clock)


def test_table_3_erratum():
  """The printed Langevin cell of rectified flow, τ/(1 + τ), is not the sum of its own row."""
  name, _, _, drift, noise = TABLE_3["rf-ode"]
  f, g_squared = forward_sde(name)
  printed = cell(3, "rf-ode", 1)[0].right
  assert zero(printed.coeff(dt) - s / (1 + s) * score)
  assert not zero(f * x + drift - printed.coeff(dt))
  assert not zero(g_squared + noise**2 - printed.coeff(dw) ** 2)


@pytest.mark.parametrize("row", TABLE_3)
def test_table_3_in_code(row, x64):
  name, eta, clock, drift, noise = TABLE_3[row]
  parts = splitting.split(PATHS[name], float(eta))
  f, g = TABLE_1[name]
  wanted = splitting.Split(
      (clock * score, sp.sqrt(2 * clock)), (f * x, g), (drift, noise))
  for part, (drift, noise) in zip(parts, wanted, strict=True):
    check_close(jax.vmap(part.drift)(STATES, POINTS[name], SCORES),
          numbers(name, drift, x=STATES, score=SCORES))
    check_close(jax.vmap(part.diffusion)(POINTS[name]), numbers(name, noise))


@pytest.mark.parametrize("row", TABLE_4)
def test_table_4_is_langevin_minus_forward(row):
  """−f x + (1 + η²)/2 g² s and η g, once noise and velocity are written with the score."""
  name, eta, drift, noise = TABLE_4[row]
  f, g_squared = (e.subs(t, -sp.log(a)) for e in forward_sde(name))
  wanted = -f * x + sp.Rational(1 + eta**2, 2) * g_squared * score
  assert zero(drift.subs(NATIVE) - wanted)
  assert zero(noise**2 - eta**2 * g_squared)


@pytest.mark.parametrize("row", TABLE_4)
def test_table_4_in_code(row, x64):
  """The reverse SDE, whose native prediction is made from the score by `predictions.convert`."""
  name, eta, drift, noise = TABLE_4[row]
  path = PATHS[name]
  reverse = splitting.split(path, float(eta)).reverse
  native = jax.vmap(lambda v, x, t: predictions.convert(
      v, x, t, path, source="score", target=ROW_NAMES[name]))(SCORES, STATES, POINTS[name])
  by_native = drift.subs({NOISE: value, VELOCITY: value})
  check_close(jax.vmap(reverse.drift)(STATES, POINTS[name], SCORES),
        numbers(name, by_native, x=STATES, score=SCORES, value=np.asarray(native)))
  check_close(jax.vmap(reverse.diffusion)(POINTS[name]), numbers(name, noise))


@pytest.mark.parametrize("name", NAMES)
def test_table_4_relation_to_score(name, x64):
  """`predictions.convert` knows ε = −σ s and v = −(s·s_r + r)/(1 − s), and the score itself."""
  formula = {"vp": score, "ve": NATIVE[NOISE], "rf": NATIVE[VELOCITY]}[name]
  native = jax.vmap(lambda v, x, t: predictions.convert(
      v, x, t, PATHS[name], source="score", target=ROW_NAMES[name]))(
          SCORES, STATES, POINTS[name])
  check_close(native, numbers(name, formula, x=STATES, score=SCORES))


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_table_5_is_one_linear_map(given, wanted):
  """Solve the given path's 2×2 system for (x₀, ε), read the wanted path's row at the same ρ."""
  data, noise = solved(given)
  row_0, row_1 = ROWS[wanted]
  derived = sp.sympify(row_0).subs(LEVEL) * data + sp.sympify(row_1).subs(LEVEL) * noise
  assert zero(derived - TABLE_5[given, wanted])


@pytest.mark.parametrize(("given", "wanted"), PAIRS)
def test_table_5_in_code(given, wanted, x64):
  """ε is the same number on every path: predictions cross from path to path through it."""
  def cross(value, x, t):
    noise = predictions.convert(
        value, x, t, PATHS[given], source=ROW_NAMES[given], target="eps")
    x_b, t_b = paths.convert(x, t, PATHS[given], PATHS[wanted])
    return predictions.convert(
        noise, x_b, t_b, PATHS[wanted], source="eps", target=ROW_NAMES[wanted])

  check_close(jax.vmap(cross)(SCORES, STATES, POINTS[given]),
        numbers(given, TABLE_5[given, wanted], x=STATES, value=SCORES))


@pytest.mark.parametrize("name", NAMES)
def test_table_6_network_score_and_true_score(name):
  """Its third and fourth columns: the score row, from the 2×2 solve, and −ε/σ_t."""
  network_score, true_score, _ = TABLE_6[name]
  noise = FORWARD[name][1]
  assert zero(network_score + solved(name)[1] / noise)
  assert zero(true_score + eps / noise)


@pytest.mark.parametrize("name", NAMES)
def test_table_6_losses_are_all_one(name):
  """L dt = ½ g² ‖∇log p(x_t|x₀) − s_θ‖² dt = ‖ε − ε̂‖² |dℓ|, and the printed loss is that."""
  network_score, true_score, loss = TABLE_6[name]
  time = TIMES[name]
  scale, noise = FORWARD[name]
  half_log_snr = sp.log(in_time(name, scale) / in_time(name, noise))
  speed = -sp.diff(half_log_snr, time).subs(t, -sp.log(a))
  # What the network says when its noise is ε̂, at the same state.
  row_0, row_1 = ROWS[name]
  state = STATE[name]
  output = row_0 * (state - noise * eps_hat) / scale + row_1 * eps_hat
  at_output = {value: output, x: state}
  common = (eps - eps_hat) ** 2 * speed
  _, g_squared = (e.subs(t, -sp.log(a)) for e in forward_sde(name))
  assert zero(loss.subs(at_output) - common)
  assert zero(g_squared / 2 * (true_score - network_score.subs(at_output)) ** 2 - common)


@pytest.mark.parametrize("row", TABLE_7)
def test_table_7_agrees_with_tables_1_4_and_6(row):
  state, drift, eta, loss = TABLE_7[row]
  name, eta_4, drift_4, _ = TABLE_4[row]
  assert zero(state - STATE[name])
  assert eta == eta_4
  assert zero((drift - drift_4).subs(NATIVE))
  # Up to a weight of the noise level alone.
  assert sp.simplify(TABLE_6[name][2] / loss).free_symbols <= {LEVELS[name]}


@pytest.mark.parametrize("row", TABLE_7)
def test_table_7_in_code(row, x64):
  """Forward state, the target of the loss, and one reverse drift along the three tables."""
  state, drift, eta, loss = TABLE_7[row]
  name = row[:2]
  path, noise_draws = PATHS[name], SCORES
  x_t = jax.vmap(lambda x, e, t: paths.corrupt(x, e, t, path))(STATES, noise_draws, POINTS[name])
  check_close(x_t, numbers(name, state.subs({x_0: x, eps: score}), x=STATES, score=noise_draws))
  target = jax.vmap(lambda e, x, t: predictions.convert(
      e, x, t, path, source="eps", target=ROW_NAMES[name]))(noise_draws, x_t, POINTS[name])
  # The loss is zero where the network says the target.
  residuals = numbers(name, sp.sqrt(loss).subs({x_0: x, eps: score}), x=STATES,
                      score=noise_draws, value=np.asarray(target))
  check_close(residuals, np.zeros(4))
  reverse = splitting.split(path, float(eta)).reverse
  check_close(jax.vmap(reverse.drift)(STATES, POINTS[name], SCORES),
        numbers(name, drift.subs(NATIVE), x=STATES, score=SCORES))
