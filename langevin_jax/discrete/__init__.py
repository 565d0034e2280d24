"""Diffusion on finite state spaces: text, categories (theory.md#finite-state-spaces).

A state is an array (..., L) of integers. Each position forgets its value independently: it is kept
with probability α(t), and else drawn from a fixed law π,

  q(x_t | x_0) = α δ(x_t, x_0) + (1 − α) π(x_t).

π is a mask token (`absorbing`) or uniform over the vocabulary (`uniform`). The forward process plus
its time reversal is in detailed balance with p_t, so it is the Langevin dynamics of this space, and
reverse = Langevin − forward, as on ℝ^d. The finite step of `splitting` is the STEP of the library's
continuous part with one-hot vectors as states and 1 − α in the place of σ.

The names are those of the continuous rooms. Reading order: `paths`, `splitting`, `mixtures`,
`objectives`, `samplers`.
"""

from langevin_jax.discrete import mixtures, objectives, paths, samplers, splitting

__all__ = ["mixtures", "objectives", "paths", "samplers", "splitting"]
