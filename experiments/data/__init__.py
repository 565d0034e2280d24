"""The data of a run: in memory, or read from shards or from their source when indexed.

In reading order: `dataset` is the data set of a run, `batches` its training batches, `comparison`
the data that samples are compared with. `sources` are the shipped calls of data, with `readers`,
`image_files` and `toy_data`; `text` has crops of tokens and `tables` rows of categories;
`user_data` and `items` are for functions of the user. `splits` holds out examples, `kinds`
interprets shapes, `standardize` has the units, `shuffle` the order of examples, `augmentation` the
random changes of images, `fingerprints` the digests. `on_demand`, `shards` and `shard_writer` are
for data that do not fit in memory. `facts` is the record of a run's data.
"""

from experiments.data.comparison import *  # noqa: F403
from experiments.data.dataset import *  # noqa: F403
