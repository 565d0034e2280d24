"""The reading order: a room imports only rooms above it, and nothing of the library does I/O."""

import ast
import pathlib

import pytest

import langevin_jax

ROOT = pathlib.Path(langevin_jax.__file__).parent
# How the library meets JAX's transformations is below every room, and no part of what it offers.
PRIVATE = {"_values", "_programs"}
ROOMS = ("_values", "_programs", "paths", "predictions", "langevin", "splitting", "mixtures",
         "objectives", "samplers", "flow_maps", "likelihood", "conditions", "guidance",
         "inpainting", "discrete", "networks", "training")
# Flags, files, clocks, screens and processes belong to experiments/.
IMPURE = {"absl", "argparse", "datetime", "experiments", "io", "logging", "matplotlib",
          "ml_collections", "orbax", "os", "pathlib", "pickle", "random", "shutil", "subprocess",
          "sys", "tempfile", "tensorboardX", "time", "tqdm"}
PURE_PYTHON = {"collections", "dataclasses", "functools", "math", "string", "typing"}


def imports(source: str) -> set[str]:
  """The modules that a source text imports anywhere in it, as dotted names."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      module = "." * node.level + (node.module or "")
      found |= {f"{module}.{alias.name}" for alias in node.names}
  return found


def violations(room: str, source: str) -> set[str]:
  """What the room may not import: relative names, impure modules, rooms at or below its own."""
  allowed = set(ROOMS[:ROOMS.index(room) + 1])
  if room == "networks":
    allowed = {"_values", "_programs", "networks", "conditions"}
  wrong = set()
  for name in imports(source):
    first, *rest = name.split(".")
    if first in IMPURE or name.startswith("."):
      wrong.add(name)
    if first == "langevin_jax" and (not rest or rest[0] not in allowed):
      wrong.add(name)
    if room == "networks" and first not in {"flax", "jax", "langevin_jax", "numpy"} | PURE_PYTHON:
      wrong.add(name)
  return wrong


def room_of(file: pathlib.Path) -> str:
  return file.relative_to(ROOT).parts[0].removesuffix(".py")


# The command `langevin` only finds the runner.
FILES = sorted(f for f in ROOT.rglob("*.py") if f != ROOT / "_runner.py" and (
    f != ROOT / "__init__.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_room_imports_only_rooms_above_it(file):
  assert room_of(file) in ROOMS, f"{room_of(file)} has no place in the reading order"
  assert not violations(room_of(file), file.read_text())


def test_every_room_exists_and_the_package_offers_nothing_else():
  assert set(ROOMS) == {room_of(f) for f in FILES}
  assert imports((ROOT / "__init__.py").read_text()) == {
      f"langevin_jax.{room}" for room in set(ROOMS) - PRIVATE}


@pytest.mark.parametrize(("room", "source"), [
    ("paths", "from langevin_jax import predictions"),
    ("mixtures", "from langevin_jax.samplers import ddim"),
    ("networks", "from langevin_jax.paths import Path"),
    ("networks", "import optax"),
    ("training", "def f():\n  import time"),
    ("training", "from absl import flags"),
    ("samplers", "from .grids import karras"),
    ("objectives", "import langevin_jax")])
def test_the_check_would_notice(room, source):
  assert violations(room, source)
