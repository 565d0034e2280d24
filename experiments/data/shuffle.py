"""The order of training examples: each epoch is a permutation, a function of (seed, epoch).

Every place of the sequence is computed independently, so that a run resumes from its step.
"""

import functools

import numpy as np

# Up to this many examples, the permutation of an epoch is computed and cached: at most 32 MB and
# 0.1 s. For more examples, a cipher computes each index without memory.
WHOLE_UP_TO = 2**22
_ROUNDS = 6


def indices(places: np.ndarray, *, seed: int, n: int) -> np.ndarray:
  """The indices of examples at places of an endless sequence of epochs.

  Args:
    places: integers ≥ 0 of any shape; place p is in epoch ⌊p/n⌋.
    n: the number of examples.

  Returns:
    int64 in [0, n), in the shape of `places`. Each epoch contains each example once.
  """
  places = np.asarray(places, np.int64)
  epochs, within = np.divmod(places, n)
  index = np.empty_like(places)
  for epoch in np.unique(epochs):
    mask = epochs == epoch
    if n <= WHOLE_UP_TO:
      index[mask] = _permutation(seed, int(epoch), n)[within[mask]]
    else:
      index[mask] = _encipher(within[mask], seed, int(epoch), n)
  return index


def bits(places: np.ndarray, *, seed: int, stream: int) -> np.ndarray:
  """64 random bits for each place, uint64, a function of (seed, stream, place)."""
  key = np.random.SeedSequence(seed % 2**64, spawn_key=(stream, 0)).generate_state(2, np.uint64)
  return _mix_bits(_mix_bits(np.asarray(places, np.uint64) ^ key[0]) ^ key[1])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> np.ndarray:
  """The permutation of an epoch, int64 (n,)."""
  # A batch may span several epochs, so four are cached. The array is shared, so it is read-only.
  order = np.random.default_rng(_sequence(seed, epoch)).permutation(n)
  order.setflags(write=False)
  return order


def _encipher(within: np.ndarray, seed: int, epoch: int, n: int) -> np.ndarray:
  """The values at `within` of a permutation of 0 … n − 1, by a Feistel network.

  The network permutes [0, 4^k) for the smallest 4^k ≥ n. An index outside of [0, n) is enciphered
  again until it lies inside (cycle walking), fewer than 4 times on average.

  Reference: Luby and Rackoff 1988; Black and Rogaway 2002.
  """
  keys = _sequence(seed, epoch).generate_state(_ROUNDS, np.uint64)
  half = np.uint64(((n - 1).bit_length() + 1) // 2)
  mask = (np.uint64(1) << half) - np.uint64(1)
  x = within.astype(np.uint64)
  outside = np.ones(x.shape, bool)
  while outside.any():
    left, right = x[outside] >> half, x[outside] & mask
    for key in keys:
      left, right = right, left ^ (_mix_bits(right ^ key) & mask)
    x[outside] = left << half | right
    outside = x >= np.uint64(n)
  return x.astype(np.int64)


def _mix_bits(z: np.ndarray) -> np.ndarray:
  """The output function of SplitMix64: each bit of the result depends on all bits of z.

  Reference: Steele et al. 2014.
  """
  z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
  return z ^ z >> np.uint64(31)


def _sequence(seed: int, epoch: int) -> np.random.SeedSequence:
  return np.random.SeedSequence(seed % 2**64, spawn_key=(epoch,))
