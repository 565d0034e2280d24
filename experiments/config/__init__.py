"""What a config is, and what becomes of it.

In reading order: `calls` are choices, `slots` the functions that each may name, with `networks` and
`optimizers` of the runner's own and `adapters` for a user's networks; `schema` has the fields,
`build` makes the library's objects of them, `cli` reads the command line and `sampling_flags` those
of `sample` and `evaluate`.
"""

from experiments.config.calls import Call as Call
from experiments.config.schema import *  # noqa: F403
