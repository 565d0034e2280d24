"""Drawing from a trained run.

`samplers_from_config` makes the library's methods, `drawing` runs them in batches, `inpaint` and
`starts` give samples something to begin with, `optimized_grids` finds levels for a model,
`resumable_npy` writes samples as they come, `pictures` shows them.
"""
