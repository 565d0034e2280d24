"""The order in which examples are seen: epochs, each a permutation by (seed, epoch).

A run resumes from its step alone, so any place of the sequence can be asked for at any time.
"""

import functools

import numpy as np

# Up to here an epoch's permutation is made whole and kept: 32 MB and 0.1 s at the most. Beyond, an
# index is found by itself, at no memory, from a permutation of another kind.
WHOLE_UP_TO = 2**22
_ROUNDS = 6


def indices(places: np.ndarray, *, seed: int, n: int) -> np.ndarray:
  """Which of n examples stand at these places of an endless sequence of epochs.

  Args:
    places: integers ≥ 0; place p is in epoch ⌊p/n⌋.

  Returns:
    int64 in [0, n), of the shape of `places`; every n places from a multiple of n hold each once.
  """
  places = np.asarray(places, np.int64)
  epochs, within = np.divmod(places, n)
  index = np.empty_like(places)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    if n <= WHOLE_UP_TO:
      index[here] = _permutation(seed, int(epoch), n)[within[here]]
    else:
      index[here] = _ciphered(within[here], seed, int(epoch), n)
  return index


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  # Four epochs are kept because a batch may straddle two; the array is shared, so it is frozen.
  order = np.random.default_rng(_sequence(seed, epoch)).permutation(n)
  order.setflags(write=False)
  return order


def _ciphered(within: np.ndarray, seed: int, epoch: int, n: int) -> np.ndarray:
  """A permutation of 0 … n − 1 at `within`, by a Feistel network (Luby and Rackoff 1988).

  The network permutes the least 4^k ≥ n numbers; one that leaves [0, n) is sent on until it is back
  (cycle walking, Black and Rogaway 2002), after fewer than 4 turns on average.
  """
  keys = _sequence(seed, epoch).generate_state(_ROUNDS, np.uint64)
  half = np.uint64(((n - 1).bit_length() + 1) // 2)
  mask = (np.uint64(1) << half) - np.uint64(1)
  x = within.astype(np.uint64)
  out = np.ones(x.shape, bool)
  while out.any():
    left, right = x[out] >> half, x[out] & mask
    for key in keys:
      left, right = right, left ^ (_mixed(right ^ key) & mask)
    x[out] = left << half | right
    out = x >= np.uint64(n)
  return x.astype(np.int64)


def _mixed(z: np.ndarray) -> np.ndarray:
  """64 bits, each of all bits of z: the finaliser of SplitMix64 (Steele et al. 2014)."""
  z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
  return z ^ z >> np.uint64(31)


def _sequence(seed: int, epoch: int) -> np.random.SeedSequence:
  return np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,))
