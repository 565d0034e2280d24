"""The README's example runs as it stands and says what it claims, and the page stays short."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_the_example_runs_and_paths_agree():
  code, = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
  printed = []
  exec(code, {"print": lambda *values: printed.append(values)})
  assert len(printed) == 3
  for value in zip(*printed, strict=True):
    np.testing.assert_allclose(value[1:], [value[0]] * 2, atol=1e-4)
    assert np.all(np.isfinite(value))


def test_it_is_read_on_one_page():
  lines = README.read_text().splitlines()
  assert len(lines) <= 100
  assert max(len(line) for line in lines if not line.startswith("|")) <= 120
