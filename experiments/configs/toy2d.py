"""Two-dimensional point sets: moons, checkerboard, swiss_roll, pinwheel or rings.

  python -m experiments.train --config=experiments/configs/toy2d.py --workdir=runs/toy2d \\
    --config.data.toy=checkerboard
"""

import dataclasses

from experiments.config import Config
from experiments.configs import mixture2d


def get_config() -> Config:
  return dataclasses.replace(mixture2d.get_config(), data="toy2d(toy='moons')")
