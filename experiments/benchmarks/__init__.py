"""Comparisons with what a user would pick instead, and how good what is trained is.

In reading order: `measure` times rivals turn about and writes reports; `dispatches` and `starts`
are what is timed of training. The programs: `speed`, with `speed_sampling` and `torch_dit`, against
the bare network and PyTorch; `scale`, with `scale_host`, for long runs; `sweeps` for many runs at
once; `learning`, `quality` and `few_calls` for what is learned; `solvers`, with `rivals`, against
other libraries' samplers; `inpainting` against its baselines.
"""
