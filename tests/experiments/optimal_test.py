"""Optimised grids in a workdir: none is lost, and one found twice is one."""

import concurrent.futures
import json
import threading

import numpy as np

from experiments.sampling import optimized_grids


def test_commands_at_once_lose_no_grid_and_agree(tmp_path):
  """All have read the file before any has written; two by two they make the same grid."""
  file, n = tmp_path / "grids.json", 8
  with concurrent.futures.ThreadPoolExecutor(n) as pool:
    barrier = threading.Barrier(n)

    def find(i):
      make = lambda: [barrier.wait() * 0.0 + i + 1.0, 0.1]
      return optimized_grids._read_or_make(file, str(i // 2), make)

    found = list(pool.map(find, range(n)))
  known = json.loads(file.read_text())
  assert sorted(known) == ["0", "1", "2", "3"]
  assert found == [known[str(i // 2)] for i in range(n)]
  assert optimized_grids._read_or_make(file, "3", list) == known["3"]


def test_levels_are_told_to_the_last_bit():
  levels = [80.0, 1.0 / 3.0, float(np.nextafter(0.002, 1.0))]
  assert optimized_grids._broadcast(levels) == tuple(levels)
