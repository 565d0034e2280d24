"""Trains the network."""

from typing import Any

from experiments.paper import trained
from experiments.paper.setting import Setting


def measure(setting: Setting) -> dict[str, Any]:
  return trained.facts(trained.digits(setting))
