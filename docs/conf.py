"""Sphinx settings of the documentation site: `make docs` writes it into build/docs.

The build asks no network for anything, and neither do the pages: formulas are MathML, and there is
no script or font from elsewhere. The cells of a page are executed once for each version of them and
of the library, and kept in build/notebooks.
"""

import hashlib
import os
import pathlib
import sys

from jupyter_cache import get_cache

import langevin_jax

_DOCS = pathlib.Path(__file__).parent
_BUILD = _DOCS.parent / "build"
sys.path[:0] = [str(_DOCS / "extensions")]
# Of the notebooks' processes.
os.environ |= {"JAX_PLATFORMS": "cpu", "MATPLOTLIBRC": str(_DOCS / "matplotlibrc"),
               "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(_DOCS.parent)}
_LIBRARY = hashlib.sha256(b"".join(
    file.read_bytes() for file in sorted(pathlib.Path(langevin_jax.__file__).parent.rglob("*.py"))))

project = "langevin_jax"
release = version = langevin_jax.__version__
copyright = "langevin_jax contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton",
              "mathml", "api", "explorer"]
exclude_patterns = ["explorer"]
templates_path = []

html_theme = "furo"
html_title = "langevin_jax"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False}

nitpicky = True
# Types in signatures are shown as the source has them, not as links.
nitpick_ignore_regex = [("py:class", ".*")]
# Several rooms have a type of one name, such as Path; signatures show it as the source does.
suppress_warnings = ["ref.python"]
maximum_signature_line_length = 88
add_module_names = False
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_typehints = "none"
viewcode_line_numbers = True

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "smartquotes"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_cache_path = str(_BUILD / "notebooks" / _LIBRARY.hexdigest()[:12])
# Made before the two processes of a build begin: each of them would make the tables of a new cache.
os.makedirs(nb_execution_cache_path, exist_ok=True)
get_cache(nb_execution_cache_path).db.dispose()
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"


def _home(app, page, source):
  """Puts the README, its links those of the site, into the home page."""
  if page == "index":
    readme = (_DOCS.parent / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    for name in "CONTRIBUTING.md", "CHANGELOG.md":
      readme = readme.replace(f"]({name})", f"]({name.lower()})")
    readme = readme.replace("[CITATION.cff](CITATION.cff)", "{download}`../CITATION.cff`")
    source[0] = source[0].replace("README\n", readme, 1)
    app.env.note_dependency(str(_DOCS.parent / "README.md"))


def setup(app):
  app.connect("source-read", _home)
