"""Tables 1–7 as the paper prints them and cell by cell beside the library; and its errata."""

from experiments.paper import cells, comparison, errata, limits, mathml, part, printed, symbolic

_VERDICT = {True: "✓", False: "✗"}
# How the states, the scores and the native predictions of the three paths are written.
_STATE = {"vp": "x", "ve": "z", "rf": "r"}
_NATIVE = {"vp": "𝐬", "ve": "𝛜", "rf": "𝐯"}


def as_printed(number: int) -> part.Table:
  table = printed.TABLES[number]
  rows: list[list[str | part.Maths]] = [list(table.head)]
  for row in table.rows:
    shown = [printed.cell(number, row, column) for column in range(1, len(table.head))]
    rows.append([printed.LABELS[row]] + [
        part.Maths(mathml.math(*(f.mathml for f in each))) if each else "/" for each in shown])
  return part.Table(f"{table.title}, as printed", rows)


def beside(number: int, compared: list[comparison.Compared]) -> part.Table:
  """One row a formula: verdict, as printed, as computed, residual, largest difference."""
  head = printed.TABLES[number].head
  rows: list[list[str | part.Maths]] = [[
      "", "Row", "Cell", "Formula", "The library computes", "Residual", "Difference"]]
  for one in compared:
    cell = one.cell
    missing = cell.row not in printed.TABLES[number].rows
    label = printed.LABELS[cell.row] + (" (not in the paper)" if missing else "")
    column = head[cell.column] + (" (corrected)" if cell.corrected and not missing else "")
    if errata_of := _errata(cell):
      column += f" (see erratum {errata_of})"
    computed = _computed(one)
    rows.append([
        _VERDICT[one.agrees], label, column, part.Maths(mathml.math(cell.latex.mathml)),
        part.Maths(computed),
        "0" if one.residual == 0 else part.Maths(_math(one.residual, cell)),
        part.number(one.difference, 2)])
  return part.Table(f"Table {number}, cell by cell", rows)


def _errata(cell: cells.Cell) -> str:
  """Which errata concern a cell, whether or not it is right as a formula; "" if none does.

  Of Table 3, one cell is wrong (1), and for VE and rectified flow τ is the noise level and no
  Langevin time (3); f, g, the velocity and Table 5 have no value at an end (7).
  """
  if cell.table == 3 and not cell.corrected and cell.row[:2] in ("ve", "rf"):
    return "1 and 3" if (cell.row[:2], cell.column) == ("rf", 1) else "3"
  ends = (cell.table == 1 and cell.row == "rf" and cell.column == 3) or cell.table == 5 or (
      cell.table == 4 and cell.row[:2] == "rf" and cell.column == 2)
  return "7" if ends else ""


def _computed(one: comparison.Compared) -> str:
  cell = one.cell
  if cell.table == 4 and cell.column == 3:
    prime = "<mi>d{0}</mi><mo>/</mo><mi>d{0}′</mi><mo>=</mo>".format(
        {"vp": "t", "ve": "σ", "rf": "s"}[cell.row[:2]])
    return mathml.math(prime + mathml.shown(comparison.shortest(one.computed), {}))
  if cell.table == 4 and cell.column == 4:
    return mathml.math(mathml.shown(one.computed, {}))
  return _math(comparison.shortest(one.computed), cell)


def _math(expression, cell: cells.Cell) -> str:
  """An expression with the names that the paper gives its symbols in that cell."""
  name = cell.row[:2]
  state = _STATE[name]
  time = "τ" if cell.table == 3 else printed.TIMES[name].name.replace("sigma", "σ") + (
      "" if cell.table == 1 else "′")
  learned = "_θ" if cell.table in (6, 7) and cell.column > 2 else ""
  names = {
      printed.x: state, printed.x_0: f"{state}_0", printed.eps: "ϵ",
      printed.score: f"𝐬_{state}", printed.value: _NATIVE[name] + learned}
  if cell.table == 3 and name != "vp":
    names[printed.LEVELS[name]] = "τ"
  return mathml.math(mathml.shown(
      expression, names, {printed.dt: time, printed.dw: "W"}))


def claims(number: int, compared: list[comparison.Compared]) -> list[part.Claim]:
  """The printed cells, and where the paper errs or is incomplete those that hold instead."""
  as_they_are = [c for c in compared if not c.cell.corrected]
  found = [part.claim(
      f"All {len(as_they_are)} formulas that Table {number} prints are those that the library "
      "computes from α and σ alone (how many are not).", sum(not c.agrees for c in as_they_are),
      below=1, source=f"Table {number}", by="paper")]
  if len(as_they_are) < len(compared):
    mended = [c for c in compared if c.cell.corrected]
    found.append(part.claim(
        f"With its erratum corrected, and with the {len(mended) - 1} formulas of the rows that it "
        f"leaves out, all of Table {number} is what the library computes (how many are not).",
        sum(not c.agrees for c in mended) + sum(
            not c.agrees for c in as_they_are if not _is_mended(c, mended)), below=1,
        source=f"Table {number}; theory.md#split"))
  return found


def _is_mended(one, mended) -> bool:
  return any((m.cell.row, m.cell.column) == (one.cell.row, one.cell.column) for m in mended)


def errata_table(setting: part.Setting) -> tuple[part.Table, list[part.Claim]]:
  """The errata in the order of theory.md#errata, and their claims."""
  rows: list[list[str | part.Maths]] = [
      ["", "Where", "The paper says", "What fails", "Residual", "What holds", "What is left"]]
  found = []
  for number, erratum in enumerate(
      (errata.one_minus, errata.clock, errata.own_time, errata.sign, limits.independence,
       errata.missing, limits.ends, limits.prior, errata.exponential), 1):
    lines, claimed = erratum(setting)
    rows += [[str(number), *(_entry(content) for content in line)] for line in lines]
    found += claimed
  return part.Table("Errata", rows), found


def _entry(content) -> str | part.Maths:
  if isinstance(content, str):
    return part.Maths(content) if content.startswith("<math>") else content
  if content == 0:
    return "0"
  names = {printed.score: "𝐬", printed.value: "𝐯"}
  return part.Maths(mathml.math(mathml.shown(
      symbolic.sp.sympify(content), names, {printed.dt: "τ", printed.dw: "W"})))
