"""Figure 5: reverse trajectories and their curvature."""
