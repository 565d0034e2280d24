"""The interactive page of the paper's processes, as a file of the site."""

import pathlib

from sphinx.application import Sphinx


def _write(app: Sphinx, error: Exception | None) -> None:
  """Puts the built page beside the page that shows it in a frame."""
  if error is None and app.builder.name == "html":
    from experiments.paper import explorer
    page = pathlib.Path(app.outdir) / "paper" / "explorer.page.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(explorer.build(), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
  app.connect("build-finished", _write)
  return {"parallel_read_safe": True, "parallel_write_safe": True}
