"""Measured: speed beside the bare network and PyTorch, quality of what the configs train."""
