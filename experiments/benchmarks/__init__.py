"""Benchmarks: comparisons with the alternatives of a user, and the quality of trained models.

In reading order: `measure` times alternating tasks and writes reports. `dispatches` and `starts`
define the timed parts of training. Programs: `speed` (with `speed_sampling`, `torch_dit`) compares
with the bare network and PyTorch; `imported` (with `torch_images`) with networks of diffusers, and
`recipes` with what they learn; `scale` (with `scale_host`) measures long runs; `sweeps` measures
many runs in one program; `learning`, `quality`, `few_calls`, `conditions` (with `exact_conditions`,
`conditional_digits`) and `text` measure trained models; `solvers` (with `rivals`) compares with the
samplers of other libraries; `inpainting` compares inpainting methods.
"""
