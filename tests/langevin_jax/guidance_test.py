"""Guidance: products of powers of exact densities, limits, calls counted, one double batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import round_mixture, round_parts

from langevin_jax import guidance, mixtures, paths, predictions, samplers

# Five round Gaussians in the plane; two classes, and 2 stands for none.
WEIGHTS = np.array([0.15, 0.3, 0.2, 0.25, 0.1])
MEANS = np.array([[-1.0, 0.3], [0.8, 0.9], [0.2, -1.1], [1.3, -0.2], [-0.4, -0.6]])
STDS = np.array([0.3, 0.4, 0.25, 0.5, 0.35])
CLASSES = np.array([0, 0, 1, 1, 1])
NULL = 2
MEMBERS = np.stack([CLASSES == 0, CLASSES == 1, CLASSES >= 0])

ELLS = -np.log(np.array([20.0, 3.0, 1.0, 0.3, 0.05]))
PATH = paths.rectified_flow()
N = 6
LABELS = np.arange(N) % 2


def parts(x, ell):
  """`round_parts` of the five Gaussians at unit scale."""
  alpha, sigma, *_ = predictions.unit_frame(ell)
  return round_parts((WEIGHTS, MEANS, STDS), x, alpha, sigma)


def network(x, ell, labels, *, prediction="x0"):
  """A perfect class-conditional network, elementwise: (x, ell, labels) → its row."""
  log_parts, estimates = parts(x, ell)
  member = jnp.asarray(MEMBERS)[labels]
  r = jax.nn.softmax(jnp.where(member, log_parts, -jnp.inf), -1)
  denoised = jnp.sum(r[..., None] * estimates, -2)
  frame = predictions.unit_frame(ell)
  a, b = predictions.named(prediction)(frame)
  return a * denoised + b * (x - frame.alpha * denoised) / frame.sigma


def log_class(x, ell):
  """log p(y | x) of the labels `LABELS`, exactly."""
  log_parts, _ = parts(x, ell)
  joint = jnp.where(jnp.asarray(MEMBERS)[LABELS], log_parts, -jnp.inf)
  return jax.nn.logsumexp(joint, -1) - jax.nn.logsumexp(log_parts, -1)


def states(dtype=np.float64):
  return jnp.asarray(np.random.default_rng(0).standard_normal((N, 2)), dtype)


def plain(label):
  return lambda x, ell: network(x, ell, jnp.full(x.shape[:-1], label))


def conditional(x, ell):
  return network(x, ell, jnp.asarray(LABELS))


def denoiser(at):
  return predictions.Denoiser(at, PATH)


def free(weight, **options):
  options = {"null": NULL, **options}
  return guidance.classifier_free(network, PATH, LABELS, weight=weight, **options)


def at_levels(*models, dtype=np.float64):
  """Every model at every level, compiled as one: a list of (levels, n, 2)."""
  each = lambda at, x, ells: jax.lax.map(lambda ell: at(x, ell), ells)
  run = jax.jit(lambda x, ells: [each(model.at, x, ells) for model in models])
  return [np.asarray(v) for v in run(states(dtype), jnp.asarray(ELLS, dtype))]


def exact_scores():
  """Scores of p(x) and of p(x | y) of each label by `mixtures`, (levels, n, 2)."""
  model = lambda k: round_mixture((WEIGHTS[MEMBERS[k]], MEANS[MEMBERS[k]], STDS[MEMBERS[k]]))

  @jax.jit
  def run(x, ells):
    def one(ell):
      alpha, sigma, *_ = predictions.unit_frame(ell)
      score = [model(k).score(x, alpha, sigma) for k in range(3)]
      return score[2], jnp.where(jnp.asarray(LABELS)[:, None] == 0, score[0], score[1])

    return jax.lax.map(one, ells)

  return [np.asarray(v) for v in run(states(), jnp.asarray(ELLS))]


def score_of(denoised):
  frame = [np.asarray(v)[:, None, None] for v in predictions.unit_frame(jnp.asarray(ELLS))]
  return (frame[0] * denoised - np.asarray(states())[None]) / frame[1] ** 2


def test_every_guided_score_is_that_of_the_product_of_powers(x64):
  """∇ log p(x)^{1−w} p(x|y)^w at every level, for constant and varying w and every row."""
  ramp = lambda ell: 1.0 + jax.nn.sigmoid(ell)
  row = lambda name: lambda x, ell, labels: network(x, ell, labels, prediction=name)
  models = {
      "classifier_free(3)": (3.0, free(3.0)),
      "classifier_free(-0.5)": (-0.5, free(-0.5)),
      "classifier_free(ramp)": (ramp, free(ramp)),
      "velocity": (3.0, guidance.classifier_free(
          row("velocity"), PATH, LABELS, null=NULL, weight=3.0, prediction="velocity")),
      "eps": (3.0, guidance.classifier_free(
          row("eps"), PATH, LABELS, null=NULL, weight=3.0, prediction="eps")),
      "autoguidance": (3.0, guidance.autoguidance(
          denoiser(conditional), denoiser(plain(NULL)), PATH, weight=3.0)),
      "classifier(1)": (1.0, guidance.classifier(denoiser(plain(NULL)), log_class, PATH)),
      "classifier(ramp)": (ramp, guidance.classifier(
          denoiser(plain(NULL)), log_class, PATH, weight=ramp)),
  }
  free_score, class_score = exact_scores()
  assert np.abs(free_score - class_score).max() > 1.0  # or every weight would do
  values = at_levels(*(model for _, model in models.values()))
  for (name, (w, _)), value in zip(models.items(), values, strict=True):
    w = np.asarray(w(ELLS))[:, None, None] if callable(w) else w
    wanted = (1.0 - w) * free_score + w * class_score
    # float64 rounding times 3 of the weight and 1/σ² = 400 of the score at ρ = .05.
    np.testing.assert_allclose(score_of(value), wanted, rtol=1e-10, atol=1e-10, err_msg=name)


def test_guidance_of_gaussians_with_one_covariance_is_the_diffusion_of_the_tilted_one(x64):
  """N(m₀, S)^{1−w} N(m₁, S)^w ∝ N(m₀ + w (m₁ − m₀), S): its denoiser, at every level."""
  covariance, w = jnp.array([[0.5, 0.2], [0.2, 0.3]]), 3.0
  means = np.array([[-1.0, 0.2], [0.8, 0.5]])
  of = lambda mean: mixtures.Mixture(jnp.ones(1), mean[None], covariance[None])
  laws = [of(jnp.asarray(mean)) for mean in means]

  def network(x, ell, label):
    alpha, sigma, *_ = predictions.unit_frame(ell)
    both = [law.denoise(x, alpha, sigma) for law in laws]
    return jnp.where(label[:, None] == 0, *both)

  model = guidance.classifier_free(network, PATH, jnp.ones(N, int), null=0, weight=w)
  tilted = mixtures.denoiser(of(jnp.asarray(means[0] + w * (means[1] - means[0]))), PATH)
  both = jax.jit(lambda x, ell: (model.at(x, ell), tilted.at(x, ell)))
  for ell in ELLS:
    np.testing.assert_allclose(*both(states(), ell), rtol=1e-12)


def test_weights_nought_and_one_are_the_plain_models():
  """Numbers 0 and 1 bit for bit, and a traced 1; a traced 0 to rounding of two subtractions."""
  good, bad = denoiser(conditional), denoiser(plain(NULL))
  make = {
      "classifier_free": lambda w: free(w),
      "autoguidance": lambda w: guidance.autoguidance(good, bad, PATH, weight=w),
  }

  @jax.jit
  def run(x, zero, one):
    at = lambda model: model.at(x, jnp.float32(0.3))
    return at(bad), at(good), {
        name: [at(f(w)) for w in (0, 0.0, zero, 1, 1.0, one)] for name, f in make.items()}

  zeros, ones, values = run(states(np.float32), 0.0, 1.0)
  scale = np.abs(zeros).max() + np.abs(ones).max()
  for name, value in values.items():
    for v in value[:2]:
      np.testing.assert_array_equal(v, zeros, name)
    np.testing.assert_allclose(value[2], zeros, atol=4 * np.finfo(np.float32).eps * scale)
    for v in value[3:]:
      np.testing.assert_array_equal(v, ones, name)
  model = guidance.classifier(bad, log_class, PATH, weight=0.0)
  program = lambda at: str(jax.make_jaxpr(at)(states(np.float32), jnp.float32(0.3)))
  assert program(model.at) == program(bad.at)


def counted(counts, name, at):
  """A model that records the rows it is called with when it runs, not when it is compiled."""
  def call(x, ell, *labels):
    jax.debug.callback(lambda ell, rows: counts.append((name, float(ell), int(rows))),
                       ell, jnp.asarray(x.shape[0]))
    return at(x, ell, *labels)

  return call


def test_one_double_batch_inside_the_interval_and_single_calls_outside():
  """Counted where they run, in a compiled loop over levels."""
  counts = []
  good = denoiser(counted(counts, "good", conditional))
  bad = denoiser(counted(counts, "bad", plain(NULL)))
  log_prob = counted(counts, "class", log_class)
  options = {"weight": 3.0, "interval": (0.3, 3.0)}
  models = {
      "classifier_free": guidance.classifier_free(
          counted(counts, "network", network), PATH, LABELS, null=NULL, **options),
      "autoguidance": guidance.autoguidance(good, bad, PATH, **options),
      "classifier": guidance.classifier(bad, log_prob, PATH, **options)}
  want = {
      "classifier_free": ([("network", N)], [("network", 2 * N)]),
      "autoguidance": ([("good", N)], [("bad", N), ("good", N)]),
      "classifier": ([("bad", N)], [("bad", N), ("class", N)])}
  x, ells = states(np.float32), jnp.asarray(ELLS, jnp.float32)
  for name, model in models.items():
    counts.clear()
    [value] = at_levels(model, dtype=np.float32)
    jax.effects_barrier()
    for i, ell in enumerate(ells):
      inside = i in (1, 2)  # ρ = 3, the upper end, and 1; not .3, the lower end
      calls = sorted((who, rows) for who, level, rows in counts if level == float(ell))
      assert calls == want[name][inside], (name, float(ell), calls)
      outside = conditional if name != "classifier" else plain(NULL)
      same = np.allclose(value[i], outside(x, ell), atol=1e-6)
      assert same != inside, (name, float(ell))


def test_any_leading_axes_and_single_examples(x64):
  """Labels of shape (), (n,) and (2, n/2) lead x's shape and give the same rows."""
  x = states()
  model = lambda labels: guidance.classifier_free(
      network, PATH, labels, null=NULL, weight=2.0, rescale=0.5)

  @jax.jit
  def run(x):
    at = lambda labels, x: model(labels).at(x, 0.4)
    t = PATH.time(0.4)
    along = model(LABELS)(jnp.hypot(PATH.alpha(t), PATH.sigma(t)) * x, t)
    return at(LABELS, x), at(LABELS.reshape(2, 3), x.reshape(2, 3, 2)), at(LABELS[1], x[1]), along

  rows, square, single, along = run(x)
  np.testing.assert_allclose(square.reshape(N, 2), rows, rtol=1e-12)
  np.testing.assert_allclose(single, rows[1], rtol=1e-12)
  np.testing.assert_allclose(along, rows, rtol=1e-12)


def test_another_class_to_move_away_from(x64):
  """A null label for each example: a negative prompt."""
  model = free(2.0, null=1 - LABELS)
  value, given, other = at_levels(
      model, denoiser(conditional), denoiser(lambda x, ell: network(x, ell, 1 - LABELS)))
  np.testing.assert_allclose(value, other + 2.0 * (given - other), rtol=1e-12, atol=1e-12)


def test_rescale_restores_the_spread_of_each_example(x64):
  """φ = 1 has the conditional's standard deviation over each example, φ = ½ is half way."""
  shape = (N, 5, 2)
  x = jnp.asarray(np.random.default_rng(1).standard_normal(shape))
  points = lambda x, ell, labels: network(x, ell, jnp.broadcast_to(labels[:, None], x.shape[:2]))
  model = lambda rescale: guidance.classifier_free(
      points, PATH, LABELS, null=NULL, weight=4.0, rescale=rescale)
  given, none, half, full = jax.jit(lambda x: [points(x, 0.4, jnp.asarray(LABELS))] + [
      model(phi).at(x, 0.4) for phi in (0.0, 0.5, 1.0)])(x)
  std = lambda y: np.std(y, axis=(1, 2))
  assert np.abs(std(none) / std(given) - 1.0).min() > 0.05
  np.testing.assert_allclose(std(full), std(given), rtol=1e-12)
  np.testing.assert_allclose(half, 0.5 * (np.asarray(none) + np.asarray(full)), rtol=1e-12)
  np.testing.assert_allclose(full / none, np.broadcast_to(
      (std(given) / std(none))[:, None, None], shape), rtol=1e-10)


def test_a_constant_prediction_is_not_divided_by_its_spread():
  """Nothing to rescale, and nothing that is not finite, also in its gradient."""
  model = guidance.classifier_free(
      lambda x, ell, labels: jnp.zeros_like(x) + labels[:, None], PATH, LABELS,
      null=NULL, weight=2.0, rescale=0.7)
  value, slope = jax.jvp(lambda x: model.at(x, 0.1), (states(np.float32),), (jnp.ones((N, 2)),))
  np.testing.assert_array_equal(value, np.broadcast_to(2.0 * LABELS[:, None] - NULL, (N, 2)))
  assert np.all(np.isfinite(slope))


def test_classifier_guidance_leaves_out_its_nought_over_nought():
  """At ρ = ∞ the state says nothing of y, and D is the data's mean."""
  x = states(np.float32)
  model = guidance.classifier(denoiser(plain(NULL)), log_class, PATH, weight=2.0)
  value = model.at(x, jnp.float32(-jnp.inf))
  np.testing.assert_allclose(
      value, np.broadcast_to(WEIGHTS @ MEANS / WEIGHTS.sum(), (N, 2)), atol=1e-6)


def test_guided_models_sample_and_differentiate(x64):
  """One denoiser for samplers and likelihood: its Jacobian crosses the branch, by JVP."""
  model = free(1.7, interval=(0.1, 2.0))

  @jax.jit
  def run(x):
    at = lambda x: jnp.stack([model.at(x, ell) for ell in (0.2, 3.0)])
    slopes = jax.jvp(at, (x,), (jnp.ones_like(x),))[1]
    near = (at(x + 1e-6) - at(x - 1e-6)) / 2e-6
    x_0 = samplers.sample(jax.random.key(0), model, PATH, shape=(N, 2),
                          grid=samplers.karras(6), initial=x)
    return slopes, near, x_0

  slopes, near, x_0 = run(states())
  np.testing.assert_allclose(slopes, near, atol=1e-8)
  assert np.all(np.isfinite(x_0))


def test_bad_input_is_named():
  good, bad = denoiser(conditional), denoiser(plain(NULL))
  for call, words in (
      (lambda: free(np.nan), "weight must be a finite number or a function of ell, got nan"),
      (lambda: free(np.ones(3)), "weight must be a finite number"),
      (lambda: free(2.0, interval=(2.0, 1.0)), r"0 <= rho_lo < rho_hi, got \(2.0, 1.0\)"),
      (lambda: free(2.0, interval=(-1.0, 1.0)), "interval"),
      (lambda: free("2"), "weight must be a finite number"),
      (lambda: free(2.0, interval=3.0), "interval"),
      (lambda: guidance.classifier_free("mlp", PATH, LABELS, null=NULL, weight=2.0),
       "network must be a function"),
      (lambda: guidance.classifier(good, 3, PATH), "log_prob must be a function"),
      (lambda: guidance.classifier(good, lambda x, ell: jnp.round(x).astype(int), PATH).at(
          states(), 0.0), "log_prob must return floats, got int"),
      (lambda: free(2.0, rescale=1.5), r"rescale must lie in \[0, 1\], got 1.5"),
      (lambda: free(2.0, prediction="noise"), "prediction"),
      (lambda: guidance.autoguidance(good, bad, PATH, weight=np.inf), "weight"),
      (lambda: guidance.classifier(good, log_class, PATH, interval=(1.0, 1.0)), "interval"),
      (lambda: free(2.0).at(jnp.zeros((4, 2)), 0.0), r"labels of shape \(6,\) must lead"),
      (lambda: free(1.0).at(jnp.zeros((4, 2)), 0.0), r"labels of shape \(6,\) must lead"),
  ):
    with pytest.raises(ValueError, match=words):
      call()
