"""One number of an evaluation: what a machine reads, a key, and what people read, a label."""

from typing import Any, NamedTuple


class Result(NamedTuple):
  """value: of samples or of the model. floor: the same number for real data, where there is one.

  key: stable from one version to the next. n: examples in each set that is compared, or judged.
  error: the standard error of the value, where it is known.
  """

  key: str
  label: str
  value: float
  floor: float | None
  n: int | None = None
  error: float | None = None

  def plain(self) -> dict[str, Any]:
    """For JSON, under its key."""
    fields = {"value": self.value, "floor": self.floor, "n": self.n, "label": self.label}
    return fields if self.error is None else fields | {"error": self.error}

  def described(self) -> str:
    """The label with what is known of its accuracy."""
    facts = [] if self.error is None else [f"± {self.error:.2g}"]
    facts += [] if self.n is None else [f"n = {self.n}"]
    return f"{self.label} ({', '.join(facts)})" if facts else self.label
