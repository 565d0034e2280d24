"""The network in the plane that the questions are asked of: trained on draws of the density."""
