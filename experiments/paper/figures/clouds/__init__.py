"""Figure 2, Tables 1 and 2: forward clouds."""
