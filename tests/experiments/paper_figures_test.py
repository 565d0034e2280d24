"""Figures 1–4, 6 and 7 of the paper's report: what their parts compute, against theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper.exact import estimates, laws, plane
from experiments.paper.figures.clouds import measure as clouds
from experiments.paper.figures.cycle import measure as cycle
from experiments.paper.figures.identity import measure as identity
from experiments.report import charts
from langevin_jax import mixtures, predictions


@pytest.fixture
def normal():
  """N(0, 1) on the line, in float64."""
  with jax.enable_x64(True):
    yield mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))


def test_repeated_moves_are_the_same_move_again_and_again(normal):
  x = laws.nodes(normal, 201)
  law = laws.exact(normal, 0.0, x)
  numbers = 0.9, 0.1, 0.5
  together = laws.repeated(law, normal, 0.0, numbers, x, steps=3)
  for density in together:
    law = laws.moved(law, normal, 0.0, numbers, x)
    np.testing.assert_allclose(density, law.density, atol=1e-14)


def test_euler_on_a_gaussian_comes_to_its_own_variance(normal):
  """x + δ s + √(2δ) ξ on N(0, 1) rests at variance 1/(1 − δ/2): KL is that of two normals."""
  delta = 0.25
  x = laws.nodes(normal, 201)
  # Of N(0, 1) the score at any level is −x.
  after = laws.repeated(laws.exact(normal, np.inf, x), normal, 0.0,
                        (1.0 - delta, 0.0, np.sqrt(2.0 * delta)), x, steps=60)
  var = 1.0 / (1.0 - delta / 2.0)
  expected = 0.5 * (np.log(var) + 1.0 / var - 1.0)
  # The nodes end at six deviations, where e^{−18} of the sum is left.
  assert laws.kl(normal, np.inf, laws.fresh(x, after[-1])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["exact", "baoab"])
def test_methods_keep_a_gaussian(normal, name):
  """At a small step every method leaves the variance of each coordinate where it was."""
  n = 40_000
  twice = mixtures.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
  key_start, key = jax.random.split(jax.random.key(3))
  start = plane.draws(key_start, twice, identity.ELL, (n,))
  end = identity.moved(key, start, twice, 0.02, 50, name=name)
  # Λ σ² is the bias's size, √(2/n) the error of a variance; two coordinates are measured.
  frame = predictions.unit_frame(identity.ELL)
  bias = 0.02 * float(frame.sigma) ** 2
  assert np.mean(np.square(end)) == pytest.approx(1.0, abs=bias + 5.0 / np.sqrt(n))
  assert plane.correlation(start, end) < 0.97


@pytest.mark.parametrize("eta", cycle.ETAS)
def test_rows_of_a_gaussian_are_as_the_closed_form_says(eta):
  """The recursion of STEP goes to r^{1+η²}; at η = 0 it is there with any number of steps."""
  forward, reverse = cycle.recursion(0.6, eta, 64)
  rho = cycle.levels(64)[::-64]
  expected = cycle.row_correlation(0.6, rho, rho[-1], eta)
  tolerance = 1e-12 if eta == 0.0 else 0.02
  np.testing.assert_allclose((forward * reverse)[1:], expected[1:], atol=tolerance)
  assert forward[-1] == pytest.approx(1.0) and reverse[-1] == 1.0


def test_euler_maruyama_of_ve_is_a_sum():
  """dz = √(2σ) dW from 0 to Σ in n steps: v = Σ² (1 − 1/n), and the mean stays."""
  with jax.enable_x64(True):
    signal, var = clouds.em_kernel("VE", 0.0, 2.0, 10)
  assert signal == 1.0
  assert var == pytest.approx(4.0 * (1.0 - 0.1))


def test_moments_of_a_mixture_are_those_of_its_draws(normal):
  mixture = mixtures.Mixture(
      jnp.array([1.0, 3.0]), jnp.array([[1.0, 0.0], [-1.0, 2.0]]),
      jnp.tile(0.1 * jnp.eye(2), (2, 1, 1)))
  mean, covariance = clouds.moments_of(mixture)
  x = np.asarray(plane.data(jax.random.key(1), mixture, (50_000,)))
  np.testing.assert_allclose(x.mean(0), mean, atol=5.0 * 0.9 / np.sqrt(50_000))
  np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.03)


def test_correlation_is_of_points_that_belong_together():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 4000, 2))
  np.testing.assert_allclose(plane.correlation(x, 2.0 * x + 1.0), 1.0)
  mixed = 0.6 * x + 0.8 * rng.normal(size=x.shape)
  np.testing.assert_allclose(plane.correlation(x, mixed), 0.6, atol=5.0 / np.sqrt(8000))


def test_a_chart_has_its_marks_in_order_its_ticks_and_one_legend_for_all_panels():
  points = charts.measured([1.0, 2.0], [(3.0, 0.5), (4.0, 1.0)], "points", style="o", colour=1)
  marks = [charts.Band(2.0, 5.0, "band"), points, charts.Level(3.0, "level")]
  panel = charts.Panel(marks, "x", "y", log="xy", ticks={1.0: "one", 2.0: "two"})
  figure = charts.draw([panel, panel, panel], size=(6.0, 4.0), columns=2, share="xy", below=True)
  *drawn, empty = figure.axes
  assert len(drawn) == 3 and not empty.axison
  assert all(axes.get_legend() is None for axes in drawn) and len(figure.legends) == 1
  assert {text.get_text() for text in figure.legends[0].get_texts()} == {"band", "points", "level"}
  for axes in drawn:
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (bars,) = axes.containers
    np.testing.assert_allclose(
        bars.lines[2][0].get_segments(), [[[1.0, 2.5], [1.0, 3.5]], [[2.0, 3.0], [2.0, 5.0]]])
    assert bars.lines[0].get_color() == charts.SERIES[1]
  # Axes are shared: the labels stand at the outer panels alone.
  assert [text.get_text() for text in drawn[2].get_xticklabels()] == ["one", "two"]
  assert drawn[2].get_xlabel() == "x" and not drawn[0].get_xlabel() and not drawn[1].get_ylabel()
  charts.plt.close(figure)


def test_an_estimate_is_a_mean_and_its_standard_error_and_the_farthest_value_has_its_name():
  mean, error = estimates.estimate([[1.0, 2.0, 3.0, 6.0]], axis=1)
  np.testing.assert_allclose([mean[0], error[0]], [3.0, np.sqrt(14.0 / 3.0 / 4.0)])
  assert estimates.named("x", [1.0, 3.0]) == {"x": 2.0, "x_error": 1.0}
  assert estimates.farthest({"a": 0.5, "b": 2.5}, 1.0) == ("b", 2.5)
  assert estimates.farthest([1.0, -4.0, 3.0], 0.0) == (1, -4.0)
  # An order is read off the smallest sizes.
  sizes = np.array([0.25, 0.5, 1.0])
  assert laws.order(sizes, 3.0 * sizes**2 + (sizes > 0.5)) == pytest.approx(2.0)
  assert laws.order(sizes[::-1], 3.0 * sizes[::-1] ** 4) == pytest.approx(4.0)
