"""The paper, reproduced: its tables, figures, questions and appendix, and one report of them.

`python -m experiments.paper` measures all parts and writes the report. `contents` lists the parts;
each is a package of measure.py, claims.py, figures.py and text.md.j2, beside the modules that only
it uses.

  contents   the parts, and what a part is
  setting    what a report is asked to measure; options are its flags
  claim      checked statements, and how numbers are printed
  record     what a part measured: written, read, drawn
  sources    the files that a module depends on, and a digest of them
  report     the HTML of all records
  measure    the program of one part
  trained    the two networks that the questions are asked of
  explorer   the page to play with
  exact      exact models that parts share
  tables, figures, questions, appendix   the parts
"""
