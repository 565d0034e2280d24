"""Figures 6 and 7: a forward–reverse cycle and its rows."""
