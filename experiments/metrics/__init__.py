"""How good samples and models are.

`distances` compares two sets of samples, `classifier` gives features of labelled images,
`likelihoods` computes bits and nats, `mixture_metrics` compares with an exact mixture, and
`certificate` finds the noise levels at which a network breaks duality.
"""
