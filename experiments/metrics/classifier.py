"""A small convolutional classifier of real images, for label agreement and the features of FID.

It is trained in seconds, so that no weights are downloaded. Distances of its features compare runs
that use the same classifier. They are not comparable with the FID of papers.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

Extractor = Callable[[np.ndarray], np.ndarray]
"""Examples (n, *shape) → features (n, d)."""

LEAST_SIDE = 8  # pixels of an image
_EVALUATION_BATCH = 500
_LABEL_SMOOTHING = 0.1


class Classifier(NamedTuple):
  """A trained classifier: its parameters and the standardization of its inputs.

  Attributes:
    params: of the network, on the device.
    num_classes: labels are 0 … num_classes − 1.
    shape: (h, w, c) of an image.
    mean, scale: (c,) per channel over (some of) the training images, in their units.
  """

  params: Any
  num_classes: int
  shape: tuple[int, int, int]
  mean: np.ndarray
  scale: np.ndarray


class _Network(nn.Module):
  """3×3 convolutions that halve the image until it is at most 7 pixels wide, then two dense layers.

  The first layer, which costs most, halves images of 16 pixels or more.
  """

  num_classes: int
  num_features: int = 64

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Standardised images (n, h, w, c) → logits (n, classes), features (n, num_features) ≥ 0."""
    stride = 2 if min(x.shape[1:3]) >= 16 else 1
    x = nn.relu(nn.Conv(32, (3, 3), strides=stride)(x))
    while max(x.shape[1:3]) > 7:
      x = nn.relu(nn.Conv(64, (3, 3), strides=2)(x))
    features = nn.relu(nn.Dense(self.num_features)(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.num_classes)(features), features


class _State(NamedTuple):
  params: Any
  opt_state: optax.OptState


def train(
    images: np.ndarray, labels: np.ndarray, *, num_classes: int, seed: int, steps: int = 1000,
    batch_size: int = 128, progress: Callable[[int, str], None] | None = None,
) -> Classifier:
  """Trains a classifier with AdamW on label-smoothed cross-entropy and shifts of ±1 pixel.

  The same arguments on the same machine give the same parameters. The default number of steps is
  about 90 epochs of 1,437 images, or 2 epochs of 60,000.

  Args:
    images: (n, h, w, c) finite, any units, h and w ≥ 8.
    labels: (n,) integers in [0, num_classes).
    num_classes: ≥ 2.
    seed: of initial parameters, order and shifts; ≥ 0.
    steps: of the optimiser, ≥ 1.
    batch_size: number of images per step, ≥ 1.
    progress: called as progress(number of steps, text) after each step.

  Raises:
    ValueError: an argument is not as above.
  """
  images = _checked_images(images, None)
  labels = _checked_labels(labels, len(images), num_classes)
  for name, value in (("steps", steps), ("batch_size", batch_size)):
    if value < 1:
      raise ValueError(f"{name} must be at least 1, got {value}")
  if seed < 0:
    raise ValueError(f"seed must be at least 0, got {seed}")
  subset = images[::-(-len(images) // 10_000)].astype(np.float64)  # enough for two moments
  mean = subset.mean((0, 1, 2)).astype(np.float32)
  scale = subset.std((0, 1, 2)).astype(np.float32)
  scale = np.where(scale > 0.0, scale, np.float32(1.0))  # a constant channel has scale 0

  state = _init(jax.random.key(seed), jnp.zeros((1, *images.shape[1:])), num_classes=num_classes,
                steps=steps)
  rng = np.random.default_rng(seed)
  for step, index in enumerate(_batches(rng, len(images), steps, batch_size), start=1):
    x = _shift(rng, (images[index] - mean) / scale)
    state, loss = _step(state, x, labels[index], num_classes=num_classes, steps=steps)
    if progress is not None:
      # Reading the loss waits for the device, so the loss is read only every 50 steps.
      progress(step, f"loss {float(loss):.3f}" if step % 50 == 0 or step == steps else "")
  return Classifier(state.params, num_classes, images.shape[1:], mean, scale)


def logits(classifier: Classifier, images: np.ndarray) -> np.ndarray:
  """log p(label | image) up to a constant of each image.

  Args:
    images: (n, h, w, c) of the shape and in the units of the training images.

  Returns:
    (n, num_classes) float32.

  Raises:
    ValueError: images empty, of another shape or not finite.
  """
  return _evaluate(classifier, images)[0]


def features(classifier: Classifier, images: np.ndarray) -> np.ndarray:
  """The last hidden layer, (n, 64) float32, for distances such as FID. See `logits`."""
  return _evaluate(classifier, images)[1]


def extractor(model: Classifier) -> Extractor:
  """The last hidden layer of a classifier that is trained on the run's labelled images."""
  return functools.partial(features, model)


def pixels() -> Extractor:
  """The values of an example in standard units."""
  return lambda x: x.reshape(len(x), -1)


def label_agreement(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
  """The share of images, in [0, 1], for which the classifier predicts their label.

  For real images this is the accuracy of the classifier. It is the best value that samples reach.

  Args:
    images: (n, h, w, c), as for `logits`.
    labels: (n,) integers in [0, num_classes).

  Raises:
    ValueError: as `logits`, or labels not as above.
  """
  return agreement(logits(classifier, images), labels)


def agreement(values: np.ndarray, labels: np.ndarray) -> float:
  """`label_agreement` of images whose `logits` are given."""
  labels = _checked_labels(labels, *values.shape)
  return float(np.mean(values.argmax(-1) == labels))


def _optimizer(steps: int) -> optax.GradientTransformation:
  schedule = optax.cosine_onecycle_schedule(steps, 3e-3, pct_start=0.2)
  return optax.adamw(schedule, weight_decay=0.02)


@functools.partial(jax.jit, static_argnames=("num_classes", "steps"))
def _init(key: jax.Array, x: jax.Array, *, num_classes: int, steps: int) -> _State:
  params = _Network(num_classes).init(key, x)
  return _State(params, _optimizer(steps).init(params))


# One step per dispatch: on CPU, gradients of convolutions are several times slower in a scan.
@functools.partial(jax.jit, static_argnames=("num_classes", "steps"), donate_argnums=0)
def _step(
    state: _State, x: jax.Array, labels: jax.Array, *, num_classes: int, steps: int
) -> tuple[_State, jax.Array]:
  target = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), _LABEL_SMOOTHING)

  def loss(params):
    values, _ = _Network(num_classes).apply(params, x)
    return jnp.mean(optax.softmax_cross_entropy(values, target))

  value, gradient = jax.value_and_grad(loss)(state.params)
  updates, opt_state = _optimizer(steps).update(gradient, state.opt_state, state.params)
  return _State(optax.apply_updates(state.params, updates), opt_state), value


@functools.partial(jax.jit, static_argnames="num_classes")
def _apply(params: Any, x: jax.Array, *, num_classes: int) -> tuple[jax.Array, jax.Array]:
  return _Network(num_classes).apply(params, x)


def _evaluate(classifier: Classifier, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(logits (n, classes), features (n, 64)). Batches are padded, to compile only once."""
  images = _checked_images(images, classifier.shape)
  parts = []
  for start in range(0, len(images), _EVALUATION_BATCH):
    x = (images[start:start + _EVALUATION_BATCH] - classifier.mean) / classifier.scale
    padded = np.zeros((_EVALUATION_BATCH, *classifier.shape), np.float32)
    padded[:len(x)] = x
    values = _apply(classifier.params, padded, num_classes=classifier.num_classes)
    parts.append([np.asarray(value)[:len(x)] for value in values])
  return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _batches(
    rng: np.random.Generator, n: int, steps: int, batch_size: int
) -> Iterator[np.ndarray]:
  """Yields the indices (batch_size,) of each step: a sequence of permutations, cut into batches."""
  order = np.zeros(0, np.int64)
  for _ in range(steps):
    while len(order) < batch_size:
      order = np.concatenate([order, rng.permutation(n)])
    yield order[:batch_size]
    order = order[batch_size:]


def _shift(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Images, each shifted by −1, 0 or 1 pixel along both axes; the border is repeated."""
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:3], axis=(1, 2))
  down, right = rng.integers(0, 3, (2, len(x)))
  return np.moveaxis(windows[np.arange(len(x)), down, right], 1, -1)


def _checked_images(images: np.ndarray, shape: tuple[int, int, int] | None) -> np.ndarray:
  """The images as float32. Raises ValueError if they are invalid or not of `shape`, if given."""
  images = np.asarray(images)
  if (images.ndim != 4 or len(images) == 0 or min(images.shape[1:3]) < LEAST_SIDE
      or images.shape[3] < 1):
    raise ValueError(f"images must be (n, h, w, c) with n ≥ 1, h and w ≥ 8, c ≥ 1, "
                     f"got shape {images.shape}")
  if shape is not None and images.shape[1:] != shape:
    raise ValueError(f"images must be of the training images' shape {shape}, "
                     f"got {images.shape[1:]}")
  images = images.astype(np.float32, copy=False)
  if not np.isfinite(images).all():
    raise ValueError("images must be finite, got NaN or infinity")
  return images


def _checked_labels(labels: np.ndarray, n: int, num_classes: int) -> np.ndarray:
  """The labels as int32. Raises ValueError if they are not n integers in [0, num_classes)."""
  labels = np.asarray(labels)
  if num_classes < 2:
    raise ValueError(f"num_classes must be at least 2, got {num_classes}")
  if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(f"labels must be {n} integers, one for each image, "
                     f"got {labels.dtype} of shape {labels.shape}")
  if labels.min() < 0 or labels.max() >= num_classes:
    raise ValueError(f"labels must lie in 0 … {num_classes - 1}, "
                     f"got {labels.min()} … {labels.max()}")
  return labels.astype(np.int32)
