"""The network of digits that the questions are asked of: that of `make demo`."""
