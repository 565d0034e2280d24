"""The data of a run: in memory, or shards that are read as they are needed.

In reading order: `dataset` is what the runner sees of data, `sources` finds them, `readers` opens
files, `standardize` has their units, `shuffle` their order, `shards` and `shard_writer` the files
of data that do not fit in memory, `facts` what a run keeps of its data, and `toy_data` draws
points in a plane.
"""

from experiments.data.dataset import *  # noqa: F403
