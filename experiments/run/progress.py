"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import tqdm


@contextlib.contextmanager
def bar(
    total: int, initial: int, what: str, *, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
  """Yields `update(done, note)`, which may be called as often as one likes; silent if not `shown`.
  """
  if not shown:
    yield lambda done, note="": None
    return
  if sys.stderr.isatty():
    with tqdm.tqdm(total=total, initial=initial, desc=what, dynamic_ncols=True) as line:
      def update(done: int, note: str = "") -> None:
        line.set_postfix_str(note, refresh=False)
        line.update(done - line.n)

      yield update
    return

  begun = last = time.monotonic()
  counted = initial, begun  # Where the rate is counted from.

  def update(done: int, note: str = "") -> None:
    nonlocal counted, last
    now = time.monotonic()
    if now - last >= 10.0 or done == total:
      last = now
      rate = (done - counted[0]) / max(now - counted[1], 1e-9)
      left = (total - done) / rate if rate else float("inf")
      print(f"{what}: {done}/{total} {note} ({rate:.1f}/s, {left:.0f} s left)", flush=True)
    if counted[1] == begun and done > initial:
      counted = done, now  # What comes first takes longer: its program is compiled.

  yield update
