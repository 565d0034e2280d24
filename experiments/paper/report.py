"""The report: one HTML file made from the records of the parts."""

import functools
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe

from experiments.paper import claim, contents, record
from experiments.report import page
from experiments.run import records

_FOLDER = pathlib.Path(__file__).parent
_TITLE = "Rethinking the Diffusion Model from a Langevin Perspective, reproduced"
_HEAD = ["", "statement", "by", "where", "measured", "expected"]


class Section(NamedTuple):
  """A part in the report. A part that failed has only a name, a title and an error."""

  name: str
  title: str
  error: str = ""
  body: markupsafe.Markup = markupsafe.Markup()
  answer: markupsafe.Markup = markupsafe.Markup()
  command: str = ""
  settings: str = ""
  claims: Sequence[claim.Claim] = ()


def write(
    out: pathlib.Path, parts: Sequence[contents.Part], errors: Mapping[str, str],
    command: Sequence[str],
) -> pathlib.Path:
  """Writes <out>/report.html. errors: messages of parts that failed, by name.

  Raises:
    OSError: `out` cannot be written.
    ValueError: a part has neither a record nor an error, or a record is damaged.
  """
  found = {}
  for part in parts:
    file = record.record_file(out, part.name)
    if part.name not in errors:
      if not file.is_file():
        raise ValueError(f"{file} is not there: run {shlex.join(command)}")
      found[part.name] = record.read(file)
  sections = [
      Section(part.name, part.name, errors[part.name]) if part.name in errors else
      section(part, found[part.name], out) for part in parts]
  fast = any(one["fast"] for one in found.values())
  picture = lambda name: out / "figures" / f"{name}.png"
  file = out / "report.html"
  records.write_text(file, page.html(
      "paper.html.j2", title=_TITLE, command=shlex.join([
          "python", "-m", "experiments.paper", *command]), parts=sections,
      introduction=page.markup(
          str(page.fill("introduction.md.j2", _FOLDER, fast=fast)), picture),
      provenance=_provenance(list(found.values())), explorer=(out / "explorer.html").is_file(),
      answered=[one for one in sections if one.answer],
      holds=page.markup(_holds(sections, fast), picture)))
  return file


def section(part: contents.Part, found: Mapping[str, Any], out: pathlib.Path) -> Section:
  """The section of a part, from its template and record."""
  pictures, shown = record.draw(part, found, out), []

  def picture(name: str) -> pathlib.Path:
    if name not in pictures:
      raise ValueError(f"{part.package}/text.md.j2 shows {name!r}, but figures.py draws "
                       f"{', '.join(pictures)}")
    shown.append(name)
    return out / "figures" / f"{part.name}-{name}.png"

  text = template(part, found)
  convert = functools.partial(page.markup, picture=picture)
  body, answer = convert(str(text)), convert(getattr(text, "answer", ""))
  if missing := set(pictures) - set(shown):
    raise ValueError(f"{part.package}/text.md.j2 does not show {', '.join(missing)}")
  settings = [f"seed {found['seed']}", f"density {found['density']}",
              *([f"workdir {found['workdir']}"] if found["workdir"] else []),
              *(["--fast"] if found["fast"] else []), f"commit {found['commit'] or 'unknown'}"]
  return Section(
      part.name, text.title.strip(), body=body, answer=answer,
      claims=part.claims(found["data"]),
      command=shlex.join(["python", *found["command"]]),
      settings=f"{', '.join(settings)}, {found['seconds']:.0f} s on {found['cores']} core(s); "
      f"numbers in data/{part.name}.json")


def template(part: contents.Part, found: Mapping[str, Any]) -> Any:
  """The filled text.md.j2: str(…) is the Markdown of its body; attributes `title` and `answer`."""
  data, fast = found["data"], found["fast"]
  claims = page.table([_HEAD, *([
      c.verdict(fast=fast), c.text, c.by, c.source, c.measured(), c.expected]
      for c in part.claims(data))])
  return page.fill(
      "text.md.j2", part.folder, _FOLDER, data=data, fast=fast, seed=found["seed"],
      workdir=found["workdir"], claims=claims, number=claim.number, pm=claim.pm, table=page.table,
      **part.context(data))


def _holds(sections: Sequence[Section], fast: bool) -> str:
  """The number of claims that hold, those that do not, and the parts that failed."""
  judged = [(one, c) for one in sections for c in one.claims if not (fast and c.trained)]
  counts = [f"{sum(c.holds for c in mine)} of {len(mine)} statements of the {by}"
            for by in ("paper", "theory") if (mine := [c for _, c in judged if c.by == by])]
  rows = [["part", *_HEAD[1:]]] + [
      [f"[{page.literal(one.title)}](#{one.name})", c.text, c.by, c.source, c.measured(),
       c.expected] for one, c in judged if not c.holds]
  skipped = sum(len(one.claims) for one in sections) - len(judged)
  lines = [
      *([f"{' and '.join(counts)} hold."] if counts else []),
      *([f"{skipped} more depend on how long networks were trained: with --fast they are not "
         "judged."] if skipped else []),
      *(["These do not (✗):", page.table(rows)] if len(rows) > 1 else [])]
  failed = [f"- {one.title}: {page.literal(one.error)}" for one in sections if one.error]
  return "\n\n".join(lines + (["These parts did not end:", "\n".join(failed)] if failed else []))


def _provenance(found: Sequence[Mapping[str, Any]]) -> str:
  commits = sorted({one["commit"] or "unknown" for one in found})
  versions = sorted({f"Python {r['python']}, jax {r['jax']}, {r['device']}" for r in found})
  seconds = sum(one["seconds"] for one in found)
  return (f"Made at commit {', '.join(commits)} with {'; '.join(versions)}; {seconds / 60:.1f} "
          "minutes of computing in all.")
