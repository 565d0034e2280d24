"""One number of an evaluation, with a key for programs and a label for people."""

from typing import Any, NamedTuple


class Result(NamedTuple):
  """A number and its context.

  key: stable between versions. label: text for tables. value: of samples or of the model.
  floor: the same number for real data, if there is one. n: number of examples in each set.
  error: the standard error of the value, if it is known.
  """

  key: str
  label: str
  value: float
  floor: float | None
  n: int | None = None
  error: float | None = None

  def to_plain(self) -> dict[str, Any]:
    """The fields for JSON, without the key."""
    fields = {"value": self.value, "floor": self.floor, "n": self.n, "label": self.label}
    return fields if self.error is None else fields | {"error": self.error}

  def description(self) -> str:
    """The label with the standard error and the number of examples."""
    facts = [] if self.error is None else [f"± {self.error:.2g}"]
    facts += [] if self.n is None else [f"n = {self.n}"]
    return f"{self.label} ({', '.join(facts)})" if facts else self.label
