"""What a part is asked to measure."""

import pathlib
from typing import NamedTuple

from experiments.paper.exact import densities


class Setting(NamedTuple):
  """The options of a report, with the density loaded in the part's precision.

  out: the report's directory. fast: small sizes. workdir: of a user's run, which the certificate
  alone asks for; None for the report's own run.
  """

  out: pathlib.Path
  fast: bool
  seed: int
  density: densities.Density
  workdir: pathlib.Path | None = None
