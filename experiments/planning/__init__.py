"""What a compiled training step costs: the parts of `experiments.plan`."""
