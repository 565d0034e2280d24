"""Figures 3 and 4: a forward, a reverse and a Langevin step."""
