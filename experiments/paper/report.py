"""The report: one HTML file of the parts' records and pictures, and of nothing else."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.paper import part
from experiments.report import page
from experiments.run import records

_MARK = {True: "✓", False: "✗"}
_TITLE = "Rethinking the Diffusion Model from a Langevin Perspective, reproduced"
_ANSWERED, _HOLDS = "The paper's questions, answered", "What holds and what does not"
_INTRODUCTION = """The paper (Zheng & Lan 2026) says that the forward and the reverse process of a
diffusion model are the two halves of one Langevin step, and that VP, VE and rectified flow, SDE and
ODE, score, noise and velocity are coordinates of one thing. Here each of its tables, figures and
questions is computed by langevin_jax. Statements of the paper are checked as they are printed:
**✓ holds, ✗ fails**, as its errata do. Statements of the theory behind the library should all hold.

A value is given with its standard error where it was sampled. Noise levels are told by the half
log-SNR ℓ = log(α/σ), which grows towards the data, or by ρ = σ/α = e^{−ℓ}."""


def write(
    out: pathlib.Path, parts: Sequence[part.Part], errors: Mapping[str, str], command: Sequence[str]
) -> pathlib.Path:
  """<out>/report.html. errors: of parts that did not end, in the place of their findings.

  Raises:
    OSError: `out` cannot be written. ValueError: a part has neither record nor error, or a record
      that is damaged.
  """
  found = {}
  for one in parts:
    file = part.record_file(out, one.name)
    if one.name not in errors:
      if not file.is_file():
        raise ValueError(f"{file} is not there: run {shlex.join(command)}")
      found[one.name] = part.read_record(file)
  answers = _answers(parts, found)
  blocks: list[page.Block] = [
      page.Heading(_TITLE), *map(page.Text, _INTRODUCTION.split("\n\n")),
      page.Code([shlex.join(["python", "-m", "experiments.paper", *command])]),
      page.Text(_provenance(list(found.values()))),
      *([page.Text("A page to play with, beside this one:"),
         page.Links([("explorer.html: forward, Langevin and reverse processes of a mixture that "
                      "you place, live", "explorer.html")])]
        if (out / "explorer.html").is_file() else []),
      page.Heading("Contents", 2), page.Links([
          *([(_ANSWERED, "#answers")] if answers else []), (_HOLDS, "#holds"),
          *((one.title, f"#{one.name}") for one in parts)]),
      *answers, page.Heading(_HOLDS, 2, "holds"), *_failures(parts, found, errors)]
  for one in parts:
    blocks += [page.Heading(one.title, 2, one.name), *map(page.Text, _paragraphs(one.text))]
    if one.name in errors:
      blocks.append(page.Text(f"**This part did not end:** {page.literal(errors[one.name])}"))
    else:
      blocks += _section(out, one.name, found[one.name])
  file = out / "report.html"
  records.write_text(file, page.html(blocks, out))
  return file


def _section(out: pathlib.Path, name: str, record: dict[str, Any]) -> list[page.Block]:
  blocks: list[page.Block] = []
  if record["claims"]:
    blocks.append(page.Table([
        ["", "statement", "by", "where", "measured", "expected"],
        *([_MARK[c["holds"]], c["text"], c["by"], c["source"], part.measured(c), c["expected"]]
          for c in record["claims"])]))
  blocks += [page.Picture(f"figures/{name}-{figure}.png", caption)
             for figure, caption in record["captions"].items()]
  for table in record["tables"]:
    blocks += [page.Heading(table["title"], 3),
               page.Table([[_cell(cell) for cell in row] for row in table["rows"]])]
  settings = page.literal("".join(f", {key} {value}" for key, value in record["settings"].items()))
  return [*blocks, page.Code([shlex.join(["python", *record["command"]])]), page.Text(
      f"seed {record['seed']}, density {page.literal(record['density'])}{settings}"
      f"{', --fast' if record['fast'] else ''}, commit {record['commit'] or 'unknown'}, "
      f"{record['seconds']:.0f} s on {record['cores']} core(s); numbers in data/{name}.json")]


def _answers(parts, found) -> list[page.Block]:
  answered = [(one, found[one.name]["answer"]) for one in parts
              if one.name in found and found[one.name]["answer"]]
  ended = lambda title: title if title.endswith("?") else f"{title}."
  blocks = [page.Text(f"**{ended(one.title)}** {answer}") for one, answer in answered]
  return [page.Heading(_ANSWERED, 2, "answers"), *blocks] if blocks else []


def _failures(parts, found, errors) -> list[page.Block]:
  claims = [claim for record in found.values() for claim in record["claims"]]
  said = [f"{sum(c['holds'] for c in mine)} of {len(mine)} statements of the {by}"
          for by in ("paper", "theory") if (mine := [c for c in claims if c["by"] == by])]
  blocks: list[page.Block] = [page.Text(f"{' and '.join(said)} hold.")] if said else []
  rows = [[page.link(one.title, f"#{one.name}"), c["text"], c["by"], c["source"],
           part.measured(c), c["expected"]]
          for one in parts if one.name in found
          for c in found[one.name]["claims"] if not c["holds"]]
  if rows:
    blocks += [page.Text(f"These do not ({_MARK[False]}):"), page.Table(
        [["part", "statement", "by", "where", "measured", "expected"], *rows])]
  broken = [f"{one.title}: {page.literal(errors[one.name])}" for one in parts if one.name in errors]
  return [*blocks, page.Text("These parts did not end:"), page.Items(broken)] if broken else blocks


def _provenance(found: Sequence[dict[str, Any]]) -> str:
  commits = sorted({record["commit"] or "unknown" for record in found})
  versions = sorted({f"Python {r['python']}, jax {r['jax']}, {r['device']}" for r in found})
  seconds = sum(record["seconds"] for record in found)
  return (f"Made at commit {', '.join(commits)} with {'; '.join(versions)}; {seconds / 60:.1f} "
          "minutes of computing in all.")


def _paragraphs(text: str) -> list[str]:
  return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _cell(cell: str | dict[str, str]) -> str | page.Markup:
  return page.mathml(cell["mathml"]) if isinstance(cell, dict) else cell
