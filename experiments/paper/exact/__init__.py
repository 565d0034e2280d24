"""Exact models shared by the parts of the report.

  densities   the Gaussian mixtures, or the user's
  laws        exact laws of samplers on the line, by quadrature
  plane       draws in the plane, their distances and densities
  planned     samplers as arrays of numbers, and the null band of their samples' distances
  curves      reverse trajectories in the plane, and their turning
  estimates   means with standard errors
"""
