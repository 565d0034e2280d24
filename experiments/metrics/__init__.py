"""Metrics of samples and models.

`distances` compares two sets of samples. `classifier` computes features of labelled images.
`comparisons` uses both for the rows of an evaluation, and `samples` collects all rows.
`few_calls` evaluates flow maps, `likelihoods` computes nats and bits, and `ngrams` those of a text
without a network; `mixture_metrics` compares with an exact mixture. `budgets` finds the step at
which a metric reaches a target. `certificate` finds the noise levels at which a network violates
duality.
"""
