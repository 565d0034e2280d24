"""Flow maps: identities, composition and limits of exact maps; losses at and beside them."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import LINE, PATHS, round_mixture
from scipy import optimize, special, stats

from langevin_jax import (
  flow_maps,
  guidance,
  inpainting,
  mixtures,
  networks,
  objectives,
  paths,
  predictions,
  samplers,
  training,
)

INF = np.inf
# (ℓ, ℓ′): inside, at both ends, and nearly equal.
PAIRS = [(-1.0, 0.5), (0.3, 2.0), (1.0, 1.01), (-INF, 0.7), (0.4, INF), (-INF, INF)]
PLANE = np.array([0.4, 0.6]), np.array([[-1.0, 0.2], [0.8, -0.5]]), np.array([0.5, 0.3])


@pytest.fixture(scope="module")
def plane():
  """States (16, 2), pairs of finite levels, and the exact D̄ of a mixture in the plane."""
  with jax.enable_x64(True):
    key = jax.random.key(0)
    low, gap = jnp.linspace(-1.5, 1.5, 16), jnp.tile(jnp.array([0.05, 0.6, 1.5, 4.0]), 4)
    average = jax.jit(flow_maps.exact(round_mixture(PLANE)))
    return jax.random.normal(key, (16, 2)), low, low + gap, average


def ellipse():
  """One Gaussian in the plane, whose exact map is a formula that compiles fast."""
  return mixtures.Mixture(jnp.ones(1), jnp.array([[0.3, -0.2]]),
                          jnp.array([[[0.5, 0.3], [0.3, 0.4]]]))


def denoised(x, ell):
  """D of the mixture in the plane, at levels of a batch."""
  frame = predictions.unit_frame(ell)
  return jax.vmap(round_mixture(PLANE).denoise)(x, frame.alpha, frame.sigma)


def lift(level):
  return level[:, None]


def moved(average, x, ell, ell_s):
  return jax.vmap(lambda *one: flow_maps.move(average, *one))(x, ell, ell_s)


def quantile_map(x, ell, ell_s):
  """z′ = F_ρ′⁻¹(F_ρ(z)) of the mixture on the line, from the side of the smaller tail."""
  weights, means, stds = LINE

  def tails(z, rho):
    scaled = (z - means[:, 0]) / np.hypot(stds, rho)
    return weights @ stats.norm.cdf(scaled), weights @ stats.norm.sf(scaled)

  alpha = 1.0 / np.hypot(1.0, np.exp(-ell))
  below, above = (stats.norm.cdf(x), stats.norm.sf(x)) if ell == -INF else (
      tails(x / alpha, np.exp(-ell)))
  side, goal = (0, below) if below < above else (1, above)
  gap = lambda z: np.log(tails(z, np.exp(-ell_s))[side]) - np.log(goal)
  return optimize.brentq(gap, -30.0, 30.0, xtol=1e-14, rtol=1e-14)


def test_exact_is_the_quantile_map(x64):
  x = jnp.linspace(-3.0, 3.0, 7)[:, None]
  average = flow_maps.exact(round_mixture(LINE))
  out = jax.jit(jax.vmap(lambda *levels: flow_maps.move(average, x, *levels)))(*np.array(PAIRS).T)
  for (ell, ell_s), z in zip(PAIRS, np.asarray(out)[..., 0], strict=True):
    np.testing.assert_allclose(
        z * np.hypot(1.0, np.exp(-ell_s)), [quantile_map(float(v), ell, ell_s) for v in x[:, 0]],
        atol=1e-8, err_msg=f"{ell} {ell_s}")


def test_gaussian_closed_form_is_the_integral(x64):
  """Two equal components are integrated, one is a formula."""
  one = ellipse()
  two = mixtures.Mixture(jnp.ones(2), *(np.repeat(v, 2, 0) for v in one[1:]))
  x = jax.random.normal(jax.random.key(1), (len(PAIRS) + 1, 2))
  ell, ell_s = np.array([*PAIRS, (0.5, 0.5)]).T
  formula, integral = jax.jit(lambda *at: [flow_maps.exact(m)(*at) for m in (one, two)])(
      x, ell, ell_s)
  np.testing.assert_allclose(formula, integral, atol=1e-9)


def test_identities(x64, plane):
  """The limit, the additivity in λ, and the two derivatives (docs/flow_maps.md)."""
  x, *levels, average = plane

  @jax.jit
  def sides(ell, ell_s):
    half = 0.5 * (ell + ell_s)
    d_bar, d = average(x, ell, ell_s), denoised(x, ell)
    lam, lam_m, lam_s = (lift(jnp.exp(level)) for level in (ell, half, ell_s))
    middle = moved(average, x, ell, half)
    parts = (lam_m - lam) * average(x, ell, half) + (lam_s - lam_m) * average(middle, half, ell_s)
    # The total derivative is along dz/dλ = (D − z)/λ, z = x √(1 + λ⁻²).
    scale = lambda lam: jnp.sqrt(1.0 + lam**-2)
    in_z = lambda z, lam: average(z / scale(lam), jnp.log(lam[:, 0]), ell_s)
    z, one = x * scale(lam), jnp.ones_like(lam)
    total = jax.jvp(in_z, (z, lam), ((d - z) / lam, one))[1]
    at_end = jax.jvp(lambda lam: average(x, ell, jnp.log(lam[:, 0])), (lam_s,), (one,))[1]
    end = denoised(moved(average, x, ell, ell_s), ell_s)
    return {"limit": (average(x, ell, ell), d), "additivity": ((lam_s - lam) * d_bar, parts),
            "eulerian": (d_bar, d + (lam_s - lam) * total),
            "lagrangian": (d_bar + (lam_s - lam) * at_end, end)}

  for name, (left, right) in sides(*levels).items():
    np.testing.assert_allclose(left, right, atol=1e-8, err_msg=name)


def test_every_row_is_the_same_map(x64, plane):
  x, average, frame = plane[0], flow_maps.exact(ellipse()), predictions.unit_frame(0.3)

  @jax.jit
  def found():
    rows = {}
    for row in (*predictions.ROWS, predictions.edm(0.5)):
      a, b = predictions.named(row)(frame)

      def network(x, ell, ell_s, a=a, b=b):
        d_bar = average(x, ell, ell_s)
        return a * d_bar + b * (x - frame.alpha * d_bar) / frame.sigma

      denoise = flow_maps.denoiser(network, paths.vp(), prediction=row)
      rows[str(row)] = denoise.average(x, 0.3, 1.7), denoise.at(x, 0.3)
    return rows, (average(x, 0.3, 1.7), average(x, 0.3, 0.3))

  rows, wanted = found()
  for name, maps in rows.items():
    np.testing.assert_allclose(maps, wanted, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("name", PATHS)
def test_sampling_is_exact_on_every_path_and_grid(x64, name):
  """One step is as good as four, and both end at the quantile map, of a mixture on one path.

  On the others it is that of a Gaussian: z′ − m = (z − m) √(S/(S + ρ²)).
  """
  path, rho = PATHS[name], (2.0, 1.1, 0.7, 0.4)
  x = np.array([-1.5, 0.2, 1.1])
  if name == "vp":
    data, goal = round_mixture(LINE), [quantile_map(v, -np.log(2.0), INF) for v in x]
  else:
    mean, var = 0.7, 0.3
    data = mixtures.Mixture(jnp.ones(1), jnp.array([[mean]]), jnp.array([[[var]]]))
    goal = mean + (x * np.sqrt(5.0) - mean) * np.sqrt(var / (var + 4.0))
  denoise = flow_maps.denoiser(flow_maps.exact(data), path, prediction="x0")
  scale = jax.jit(lambda ell: jnp.hypot(*(f(path.time(ell)) for f in (path.alpha, path.sigma))))
  ends = [samplers.sample(jax.random.key(0), denoise, path, shape=(3, 1), grid=samplers.explicit(g),
                          method=samplers.flow_map(), initial=x[:, None] * scale(-np.log(2.0)))
          for g in (rho, rho[:1])]
  np.testing.assert_allclose(ends[0], ends[1], atol=1e-8)
  np.testing.assert_allclose(ends[1][:, 0], goal, atol=1e-8)


@pytest.mark.parametrize("stochasticity", [0.0, 0.7, INF, lambda ell: 1.0 + 0.0 * ell],
                         ids=["0", "0.7", "inf", "function"])
def test_law_is_exact_for_every_stochasticity(x64, stochasticity):
  """On Gaussian data a step is affine in (x, ξ): its variance is that of the path at each level."""
  mean, var, path = 0.7, 0.3, paths.vp()
  data = mixtures.Mixture(jnp.ones(1), jnp.array([[mean]]), jnp.array([[[var]]]))
  denoise = flow_maps.denoiser(flow_maps.exact(data), path, prediction="x0")
  method = samplers.flow_map(stochasticity)
  places = samplers.levels.place_levels(np.array([INF, 3.0, 0.5, 0.0]), path)
  numbers, model = method.plan(places, path), samplers.levels.model(denoise)
  step = jax.jit(jax.vmap(
      lambda x, xi, n: method.step(lambda _: xi[None], x[None], (), model, n)[0], (0, 0, None)))
  for i in range(3):
    now, after = (samplers.levels.pick(places, i + j) for j in (0, 1))
    n = jax.tree.map(operator.itemgetter(i), numbers)
    at_mean, origin, by_x, by_noise = step(
        np.array([now.alpha * mean, 0.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 1.0]), n)
    slope, noise = by_x - origin, by_noise - origin
    np.testing.assert_allclose(at_mean, after.alpha * mean, atol=1e-12)
    variance = slope**2 * (now.alpha**2 * var + now.sigma**2) + noise**2
    np.testing.assert_allclose(variance, after.alpha**2 * var + after.sigma**2, rtol=1e-12)


def test_log_determinant_is_the_density(x64, plane):
  """log p′(x′) = log p(x) − log |det ∂x′/∂x|, from noise to data."""
  x, *_, average = plane
  ell = -2.0
  frame = predictions.unit_frame(ell)

  @jax.jit
  def sides(x):
    mixture = round_mixture(PLANE)
    out, log_det = flow_maps.move_and_log_det(average, x, ell, INF)
    return mixture.log_prob(out), mixture.log_prob(x, frame.alpha, frame.sigma) - log_det

  np.testing.assert_allclose(*sides(x), atol=1e-7)


def test_guidance_and_inpainting_take_the_average(x64, plane):
  x, average = plane[0], jax.jit(flow_maps.exact(ellipse()))
  path = paths.rectified_flow()
  labelled = lambda x, ell, ell_s, labels: average(x, ell, ell_s) + labels[:, None]

  def guided(x, ell, ell_s):
    return guidance.classifier_free(
        lambda x, ell, labels: labelled(x, ell, ell_s, labels), path, jnp.full(16, 2.0),
        null=0, weight=3.0).at(x, ell)

  denoise = flow_maps.denoiser(guided, path, prediction="x0")
  np.testing.assert_allclose(
      jax.jit(denoise.average)(x, 0.0, 1.0), average(x, 0.0, 1.0) + 6.0, atol=1e-12)
  plain = flow_maps.denoiser(average, path, prediction="x0")
  mask, known = (jnp.broadcast_to(jnp.array(row), (16, 2)) for row in (
      [True, False], [0.4, jnp.nan]))
  out = samplers.sample(
      jax.random.key(0), plain, path, shape=(16, 2), grid=samplers.karras(3),
      method=inpainting.replacement()(samplers.flow_map(1.0), known, mask))
  np.testing.assert_array_equal(out[:, 0], 0.4)
  assert np.isfinite(out).all()


# The losses.

IDENTITIES = {
    "semigroup": flow_maps.semigroup(), "semigroup, uneven": flow_maps.semigroup(fraction=0.2),
    "semigroup, none": flow_maps.semigroup(stop="none"),
    **{f"eulerian, {stop}": flow_maps.eulerian(stop=stop) for stop in ("target", "none")},
    "eulerian, own": flow_maps.eulerian(velocity="diagonal", stop="velocity"),
    **{f"lagrangian, {stop}": flow_maps.lagrangian(stop=stop)
       for stop in ("target", "velocity", "none")}}


def family(average, theta):
  """Networks that predict v, and are the exact map at θ = 0."""
  def network(x, ell, ell_s):
    frame = predictions.unit_frame(ell)
    d_bar = average(x, ell, ell_s)
    gap = lift(jax.nn.sigmoid(-ell) - jax.nn.sigmoid(-ell_s))
    d_bar = d_bar + theta[0] * jnp.cos(x) + theta[1] * gap * x + theta[2] * gap
    eps = (x - lift(frame.alpha) * d_bar) / lift(frame.sigma)
    return lift(frame.alpha) * eps - lift(frame.sigma) * d_bar

  return network


def flow_matching():
  return objectives.flow_matching(objectives.logit_normal_s())


@pytest.mark.parametrize("name", IDENTITIES)
def test_gradients_vanish_at_the_exact_map_alone(x64, plane, name):
  """With the exact velocity as the teacher the residual is 0 for each example.

  The data are one Gaussian, whose map compiles fast; the next test has a mixture.
  """
  x, ell, ell_s, _ = plane
  average = flow_maps.exact(ellipse())
  ell_s = ell_s.at[::5].set(ell[::5])
  drawn = flow_maps.Corruption(ell, ell_s, x)
  teacher = flow_maps.velocity(lambda x, ell: average(x, ell, ell), prediction="x0")

  @jax.jit
  @jax.value_and_grad
  def loss(theta):
    return flow_maps.corrupted_loss(
        family(average, theta), 0.5 * x[::-1], drawn, identity=IDENTITIES[name],
        weight=flow_matching(), prediction="v", teacher=teacher)[0]

  value, slope = loss(jnp.zeros(3))
  assert value < 1e-15 and np.abs(slope).max() < 1e-8
  for theta in np.eye(3) * 0.05:
    value, slope = loss(jnp.asarray(theta))
    assert value > 1e-6 and np.abs(slope).max() > 1e-3


def expected_slope(identity):
  """A slope at the exact map over all (x₀, ε) at one pair of levels, by the midpoint rule."""
  weights, means, stds = LINE
  points = [(np.arange(-n, n) + 0.5) * (7.5 / n) for n in (13, 32)]
  mass = np.multiply.outer(weights, np.multiply.outer(*(
      stats.norm.pdf(p) * (p[1] - p[0]) for p in points)))
  x_0 = np.broadcast_to((means + stds[:, None] * points[0])[:, :, None], mass.shape)
  eps = np.broadcast_to(points[1], mass.shape)
  x_0, eps = (jnp.asarray(v.reshape(-1, 1)) for v in (x_0, eps))
  n = len(eps)
  drawn = flow_maps.Corruption(jnp.zeros(n), jnp.full(n, 0.8), eps)
  average = flow_maps.exact(round_mixture(LINE), steps=1, sweeps=8)

  def loss(theta):
    one = lambda x_0, drawn: flow_maps.corrupted_loss(
        family(average, theta), x_0[None], jax.tree.map(lambda v: v[None], drawn),
        identity=identity, weight=jnp.ones_like, prediction="v")[0]
    return jnp.sum(jnp.asarray(mass.reshape(-1)) * jax.vmap(one)(x_0, drawn))

  along = jnp.array([1.0, 0.5, -1.0])
  return float(jax.jit(lambda: jax.jvp(loss, (0.0 * along,), (along,))[1])())


def test_from_data_only_the_plain_stopped_loss_is_unbiased(x64):
  """Published variants whose minimiser is not the map, by the slope of their loss there.

  Without the stop the full residual makes the variance of (s − s′) v·∂ū/∂r small. An adaptive
  weight is a function of the error, noise included. A first piece by v of one example is a step of
  a solver, with noise.
  """
  slope = {name: expected_slope(identity) for name, identity in {
      "plain": flow_maps.eulerian(), "lagrangian": flow_maps.lagrangian(),
      "full": flow_maps.eulerian(stop="none"), "adaptive": flow_maps.eulerian(adaptive=1.0),
      "discrete": flow_maps.semigroup(first="velocity")}.items()}
  print(slope)
  assert abs(slope["plain"]) < 1e-7 and abs(slope["lagrangian"]) < 1e-7
  assert abs(slope["full"]) > 0.05 and abs(slope["adaptive"]) > 0.05
  assert abs(slope["discrete"]) > 5e-3


def test_eulerian_steps_contract_with_uniform_times_and_not_with_uniform_levels(x64):
  """The rates at which a gradient stopped at the target moves errors of ū, functions of (s, s′).

  Errors of a negative rate grow at any learning rate (docs/flow_maps.md). The data are the point 0,
  whose D̄ is 0.
  """
  average = lambda x, *levels: jnp.zeros_like(x)
  teacher = flow_maps.velocity(average, prediction="x0")
  centres = np.array([-3.0, 0.0, 3.0])
  size, n = len(centres) ** 2, 40

  def loss(theta, drawn):
    def network(x, ell, ell_s):
      bumps = [jnp.exp(-0.5 * (lift(level) - centres[None]) ** 2) for level in (ell, ell_s)]
      error = jnp.einsum("ni,nj,ij->n", *bumps, theta.reshape(3, 3))
      return -lift(jax.nn.sigmoid(-ell) * error)

    return flow_maps.corrupted_loss(
        network, 0.0 * drawn.eps, drawn, identity=flow_maps.eulerian(), weight=flow_matching(),
        prediction="x0", teacher=teacher)[0]

  # The derivative of a gradient that is stopped at the target needs differences: a stop has none.
  slopes = jax.jit(lambda drawn: jax.vmap(jax.grad(loss), (0, None))(
      1e-4 * np.concatenate([np.eye(size), -np.eye(size)]), drawn))
  gram = jax.jit(jax.jacfwd(jax.grad(loss)))

  def slowest(quantile):
    ell = np.asarray(jax.jit(quantile)((np.arange(n) + 0.5) / n))
    i, j = np.triu_indices(n, 1)
    levels = np.sort(np.stack([ell[i], ell[j]]), axis=0)
    drawn = flow_maps.Corruption(*levels, jax.random.normal(jax.random.key(0), (len(i), 1)))
    up, down = np.reshape(slopes(drawn), (2, size, size))
    rates = np.linalg.solve(gram(np.zeros(size), drawn), (up - down).T / 2e-4)
    return np.linalg.eigvals(rates).real.min()

  uniform_time = slowest(lambda u: jnp.log1p(-u) - jnp.log(u))
  uniform_level = slowest(objectives.uniform_half_log_snr(rho_min=0.01, rho_max=100.0).quantile)
  print(uniform_time, uniform_level)
  assert uniform_time > 0.1 and uniform_level < -1.0


def test_eulerian_errors_rotate_which_momentum_makes_grow(x64):
  """The largest stable rate with momentum grows with the share of the diagonal, ¾ by default.

  Errors are functions of (s, s′), the data are the point 0. With momentum β and rate η an error
  whose gradient has the eigenvalue κ is multiplied by the roots of
  z² − (1 + β − η (1 − β) κ) z + β. Of a gradient of a function κ is real.
  """
  average = lambda x, *levels: jnp.zeros_like(x)
  teacher = flow_maps.velocity(average, prediction="x0")
  centres = jnp.linspace(0.0, 1.0, 4)
  n = 40
  ell = jnp.log1p(-(jnp.arange(n) + 0.5) / n) - jnp.log((jnp.arange(n) + 0.5) / n)
  levels = jnp.sort(jnp.stack([ell[i] for i in jnp.triu_indices(n, 1)]), axis=0)

  def curvature(identity, ell, ell_s):
    drawn = flow_maps.Corruption(ell, ell_s, jnp.ones((len(ell), 1)))

    def gradient(theta):
      def network(x, *levels):
        bumps = [jnp.exp(-8.0 * (lift(jax.nn.sigmoid(-level)) - centres[None]) ** 2)
                 for level in levels]
        return -lift(jax.nn.sigmoid(-levels[0]) * jnp.einsum(
            "ni,nj,ij->n", *bumps, theta.reshape(4, 4)))

      return flow_maps.corrupted_loss(
          network, 0.0 * drawn.eps, drawn, identity=identity, weight=flow_matching(),
          prediction="x0", teacher=teacher)[0]

    slopes = jax.jit(jax.vmap(jax.grad(gradient)))(
        1e-4 * jnp.concatenate([jnp.eye(16), -jnp.eye(16)]))
    return np.asarray(slopes[:16] - slopes[16:]).T / 2e-4

  def fastest(matrix, momentum):
    rates = np.geomspace(0.1, 100.0, 200)
    middle = 1 + momentum - (1 - momentum) * rates[:, None] * np.linalg.eigvals(matrix)
    root = np.sqrt(middle**2 - 4 * momentum + 0j)
    growth = np.maximum(np.abs(middle + root), np.abs(middle - root)).max(1) / 2
    return rates[np.argmax(growth > 1 + 1e-9)]

  same = curvature(flow_maps.semigroup(), ell, ell[:0])
  mixed = lambda identity, share: share * same + (1 - share) * curvature(identity, *levels)
  half, default = (mixed(flow_maps.eulerian(), share) for share in (0.5, 0.75))
  semigroup = mixed(flow_maps.semigroup(), 0.5)
  limits = {name: [fastest(matrix, momentum) for momentum in (0.0, 0.9)] for name, matrix in {
      "half": half, "default": default, "semigroup": semigroup}.items()}
  print(limits)
  assert flow_maps.eulerian().pairs.diagonal == 0.75
  assert np.abs(np.linalg.eigvals(semigroup).imag).max() < 1e-9
  # Real eigenvalues allow (1 + β)/(1 − β) = 19 times the rate that they allow without momentum.
  assert limits["semigroup"][1] > 17.0 * limits["semigroup"][0]
  assert limits["half"][1] < 5.0 * limits["half"][0]
  assert limits["default"][1] > 2.0 * limits["half"][1]


def test_a_full_lagrangian_gradient_has_no_feedback(x64):
  """Where v falls along r by more than 1/(s − s′) errors grow if the gradient stops at v.

  The target v(r′, s′) of a constant ū = θ at r = 0 is c (s − s′) θ for v = −c r.
  """
  drawn = flow_maps.Corruption(-jnp.ones(1), jnp.ones(1), jnp.zeros((1, 1)))

  def slope(stop):
    loss = lambda theta: flow_maps.corrupted_loss(
        lambda x, *levels: jnp.full_like(x, theta), jnp.zeros((1, 1)), drawn,
        identity=flow_maps.lagrangian(stop=stop), weight=flow_matching(), prediction="velocity",
        teacher=lambda x, ell: -5.0 * x)[0]
    return jax.grad(loss)(1.0)

  assert slope("velocity") < -0.1 and slope("none") > 0.1


def test_guidance_inside_the_target(x64):
  """ū = ω v + κ ū + (1 − ω − κ) ū(no label), so the fixed point has the weight ω/(1 − κ)."""
  n, omega, kappa = 4, 1.5, 0.4
  constant = lambda value: lambda x, *_: jnp.full_like(x, value)
  drawn = flow_maps.Corruption(jnp.zeros(n), jnp.zeros(n), jnp.ones((n, 1)))
  fixed = (omega * 2.0 + (1.0 - omega - kappa) * 0.5) / (1.0 - kappa)

  half = constant(0.5)

  def run(identity_omega, free=half, **given):
    return jax.jit(lambda given: flow_maps.corrupted_loss(
        constant(fixed), jnp.zeros((n, 1)), drawn, weight=flow_matching(), prediction="velocity",
        identity=flow_maps.eulerian(omega=identity_omega, kappa=kappa), teacher=constant(2.0),
        free=free, **given)[0])(given)

  assert run(omega) < 1e-20
  with pytest.raises(ValueError, match="need a network with conditions"):
    run(omega, free=None)
  assert run("w", omega=np.full(n, omega)) < 1e-20 < run("w", omega=np.full(n, 1.0))
  with pytest.raises(ValueError, match="pass omega"):
    run("w")


def test_a_guidance_weight_as_a_condition(x64):
  """The weight of an example is its condition, and 1 where that is not given."""
  condition = {"w": jnp.array([3.0, 2.0, 5.0]), "w_mask": jnp.array([True, True, False])}
  x_0 = jnp.zeros((3, 1))
  drawn = flow_maps.Corruption(jnp.zeros(3), jnp.zeros(3), jnp.ones((3, 1)))

  def apply(params, x, ell, given, ell_s):
    """v = 1 with the condition, .5 without."""
    del params, ell, ell_s
    return jnp.where(given["w_mask"].any(), 1.0, 0.5) * jnp.ones_like(x)

  loss = training.flow_map_loss(
      apply, identity=flow_maps.eulerian(omega="w"), density=objectives.logit_normal_s(),
      weight=jnp.ones_like, prediction="velocity")
  errors = jax.jit(loss.value)({}, (x_0, condition, drawn))[1]["eps_error"]
  # v = ε − x₀ = 1, so the target is ω + (1 − ω)/2, and the model's ū is 1: the error (ω − 1)/2.
  np.testing.assert_allclose(errors, ((np.array([3.0, 2.0, 1.0]) - 1.0) / 4.0) ** 2)
  with pytest.raises(ValueError, match="no condition of the data"):
    loss.value({}, (x_0, jnp.zeros(3, int), drawn))


def test_adaptive_weight(x64):
  """p = 1 is the logarithm's gradient: e/(e + 10⁻³)."""
  drawn = flow_maps.Corruption(jnp.zeros(2), jnp.zeros(2), jnp.array([[1.0], [3.0]]))
  value, _ = jax.jit(lambda drawn: flow_maps.corrupted_loss(
      lambda x, *_: jnp.zeros_like(x), jnp.zeros((2, 1)), drawn, weight=flow_matching(),
      prediction="velocity", identity=flow_maps.semigroup(adaptive=1.0)))(drawn)
  np.testing.assert_allclose(value, 0.5 * (1.0 / 1.001 + 9.0 / 9.001), rtol=1e-12)


def test_densities_of_pairs(x64):
  density, n, key = objectives.logit_normal_s(), 4000, jax.random.key(3)
  drawn = jax.jit(lambda key: [pairs.draw(key, n, density) for pairs in (
      flow_maps.ordered(to_data=0.5), flow_maps.uniform(to_data=0.25), flow_maps.dyadic(levels=3))])
  drawn = jax.tree.map(np.asarray, drawn(key))
  ell, ell_s = drawn[0]
  assert (ell_s >= ell).all()
  np.testing.assert_allclose((ell_s == INF).mean(), 0.5, atol=0.03)
  ell, ell_s = drawn[1]
  assert (ell_s >= ell).all()
  np.testing.assert_allclose((ell_s == INF).mean(), 0.25, atol=0.03)
  s = special.expit(-ell[ell_s > ell])
  np.testing.assert_allclose([s.mean(), (s**2).mean()], [2 / 3, 1 / 2], atol=0.02)
  ell, ell_s = drawn[2]
  gap = special.expit(-ell) - special.expit(-ell_s)
  assert {round(float(v), 9) for v in gap} == {1.0, 0.5, 0.25}
  assert (ell == -INF).any() and (ell_s == INF).any()


def test_the_diagonal_has_its_share_of_a_batch(x64):
  """The loss is a mean over both parts, each example with its own label, also in parts."""
  x_0, labels, key = jnp.arange(8.0)[:, None], jnp.arange(8), jax.random.key(0)
  network = lambda scale, x, ell, label, ell_s: x + scale * lift(label * (1.0 + ell - ell_s))
  loss = functools.partial(
      training.flow_map_loss, network, density=objectives.logit_normal_s(), weight=jnp.ones_like,
      prediction="velocity", num_classes=8, label_dropout=0.0)
  for share, pairs in ((0.0, 8), (0.5, 4), (0.75, 2), (1.0, 0)):
    one = loss(identity=flow_maps.semigroup(flow_maps.uniform(diagonal=share)))
    examples = jax.jit(one.draw)(key, (x_0, labels))
    value_of = jax.jit(one.value)
    ell, ell_s, _ = examples[2]
    assert len(ell) == 8 and len(ell_s) == pairs and (ell_s >= ell[8 - pairs:]).all()
    value, levels = value_of(0.3, examples)
    np.testing.assert_allclose(value, np.mean(levels["eps_error"]), rtol=1e-12)
    np.testing.assert_array_equal(levels["half_log_snr"], ell)
    examples = jax.tree.map(np.asarray, examples)
    halves = [value_of(0.3, jax.tree.map(operator.itemgetter(slice(i, None, 2)), examples))[0]
              for i in range(2)]
    np.testing.assert_allclose(value, np.mean(halves), rtol=1e-12)


def test_cost_of_a_gradient():
  """FLOPs of lowered gradients ÷ that of the ordinary loss, of a pair and of a batch by default.

  A Lagrangian pair passes the tangent too: forward, tangent, v at the end and two backward passes
  are 7 products where the ordinary gradient has 3.
  """
  labels, x_0 = jnp.zeros(256, int), jnp.zeros((256, 2))

  def flops(identity):
    network = networks.MLP(width=64, depth=2, second_level=identity is not None)
    params = jax.eval_shape(network.init, jax.random.key(0), x_0, jnp.zeros(256), labels)
    given = {"density": objectives.logit_normal_s(), "weight": flow_matching(),
             "prediction": "velocity"}
    loss = (training.diffusion_loss(network.apply, **given) if identity is None else
            training.flow_map_loss(network.apply, identity=identity, **given))
    examples = jax.eval_shape(loss.draw, jax.random.key(0), (x_0, labels))
    gradient = jax.grad(lambda *arguments: loss.value(*arguments)[0])
    return jax.jit(gradient).lower(params, examples).cost_analysis()["flops"]

  plain = flops(None)
  pairs = {"": None, ", pairs alone": flow_maps.uniform(diagonal=0.0)}
  cost = {f"{name}{share}": flops(identity(drawn)) / plain
          for name, identity in {
              "semigroup": flow_maps.semigroup, "eulerian": flow_maps.eulerian,
              "stopped": functools.partial(flow_maps.lagrangian, stop="target"),
              "lagrangian": flow_maps.lagrangian}.items() for share, drawn in pairs.items()}
  print(cost)
  assert max(cost[name] for name in ("semigroup", "eulerian", "lagrangian")) < 2.2
  assert cost["lagrangian, pairs alone"] < 2.5


@pytest.mark.parametrize("identity, dtype", [
    (flow_maps.semigroup, "bfloat16"), (flow_maps.eulerian, "bfloat16"),
    (flow_maps.eulerian, "float32"), (flow_maps.lagrangian, "bfloat16")])
def test_gradients_of_networks_are_finite(identity, dtype):
  """From ρ = 10⁴ to clean data, and on the diagonal."""
  network = networks.MLP(width=8, depth=1, dtype=dtype, second_level=True)
  labels, x_0 = jnp.zeros(4, int), 0.5 * jax.random.normal(jax.random.key(0), (4, 2))
  params = jax.jit(network.init)(jax.random.key(1), x_0, jnp.zeros(4), labels)
  params = jax.tree.map(lambda p: p + 0.05, params)
  drawn = flow_maps.Corruption(jnp.array([-9.21, -1.0, 0.5, 2.0]),
                               jnp.array([INF, INF, 0.5, 6.0]), x_0[::-1])

  @jax.value_and_grad
  def loss(params):
    call = lambda x, ell, ell_s: network.apply(params, x, ell, labels, ell_s)
    return flow_maps.corrupted_loss(
        call, x_0, drawn, identity=identity(), weight=flow_matching(), prediction="v")[0]

  value, slope = jax.jit(loss)(params)
  assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
  assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope["params"]["conditioning"])) > 0


def test_wrong_arguments():
  x = jnp.zeros((2, 2))
  exact = flow_maps.exact(round_mixture(PLANE))
  ordinary = mixtures.denoiser(round_mixture(PLANE), paths.vp())
  sample = functools.partial(samplers.sample, jax.random.key(0), path=paths.vp(), shape=(2, 2),
                             method=samplers.flow_map())
  one_level = networks.MLP(width=4, depth=0)
  identity = flow_maps.semigroup()
  cases = {
      "at least half_log_snr, got 1 and 0": lambda: exact(x, 1.0, 0.0),
      "got 2 and 1": lambda: flow_maps.move(exact, x, 2.0, 1.0),
      "no second level": lambda: one_level.init(
          jax.random.key(0), x, 0.0, jnp.zeros(2, int), jnp.ones(())),
      "denoiser of two levels": lambda: sample(denoise=ordinary),
      "encode needs an ordinary": lambda: samplers.encode(
          ordinary, paths.vp(), x, method=samplers.flow_map()),
      "leave out brownian": lambda: samplers.sample(
          jax.random.key(0), flow_maps.denoiser(exact, paths.vp(), prediction="x0"), paths.vp(),
          shape=(2, 2), method=samplers.flow_map(INF), grid=samplers.karras(3),
          brownian=samplers.brownian()),
      "stochasticity must be >= 0": lambda: samplers.flow_map(-1.0),
      "diagonal must lie": lambda: flow_maps.ordered(diagonal=2.0),
      "to_data must lie": lambda: flow_maps.uniform(to_data=-1.0),
      "fraction must lie": lambda: flow_maps.semigroup(fraction=1.0),
      "stop must be": lambda: flow_maps.lagrangian(stop="all"),
      "kappa must lie": lambda: flow_maps.eulerian(kappa=1.0),
      "adaptive must be": lambda: flow_maps.semigroup(adaptive=-1.0),
      "identity must be a call": lambda: flow_maps.corrupted_loss(
          exact, x, None, identity=flow_maps.semigroup, weight=None, prediction="v"),
      "levels must be": lambda: flow_maps.dyadic(levels=0),
      "steps must be at least 1": lambda: flow_maps.exact(round_mixture(PLANE), steps=0)}
  assert identity.adaptive == 0.0
  for words, call in cases.items():
    with pytest.raises(ValueError, match=words) as error:
      call()
    assert "\n" not in str(error.value)
