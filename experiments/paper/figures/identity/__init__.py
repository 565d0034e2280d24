"""Figure 1: Langevin dynamics leaves a distribution unchanged."""
