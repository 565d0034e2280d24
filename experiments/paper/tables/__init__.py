"""Tables 1–7 and the paper's errata: the printed formulas beside what the library's code computes.

  printed      the paper's LaTeX; formulas reads its meaning
  symbolic     the library's functions as sympy expressions; cells says which stands for which cell
  comparison   a printed formula beside the library's, as expressions and as numbers
  errata, limits   what the paper gets wrong, by how much, and what holds
  latex        expressions in LaTeX
"""
