"""Tables 1–7 and the errata: the printed formulas compared with those computed by the library.

  printed      the paper's LaTeX; `formulas` parses it
  symbolic     the library's functions as sympy expressions; `cells` maps cells to functions
  comparison   the difference of a printed formula and the library's, symbolic and in numbers
  errata, limits   errors of the paper, their size, and the corrections
  latex        expressions in LaTeX
"""
