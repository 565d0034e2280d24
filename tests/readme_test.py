"""The README's example runs as it stands, and says what it claims."""

import pathlib
import re

import numpy as np

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_example_runs_and_paths_agree():
  code = re.search(r"```python\n(.*?)```", README.read_text(), re.S).group(1)
  said = []
  exec(code, {"print": lambda *values: said.append(values)})
  means = [np.asarray(values[0]) for values in said[:3]]
  np.testing.assert_allclose(means[1:], [means[0]] * 2, atol=1e-5)
  assert all(np.all(np.isfinite(value)) for values in said for value in values)


def test_pictures_and_files_that_it_names_exist():
  text = README.read_text()
  for name in re.findall(r"\]\((docs/[^)]+)\)", text) + re.findall(
      r"`((?:langevin_jax|experiments|tests)/[\w/.]+)[`:]", text):
    assert (README.parent / name).exists(), name
