"""What a config is: `schema` has the fields, `build` makes objects of them, `cli` reads flags.

`sampling_flags` are the flags of `sample` and `evaluate`.
"""

from experiments.config.schema import *  # noqa: F403
