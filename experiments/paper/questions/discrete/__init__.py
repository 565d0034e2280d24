"""Beyond the paper: the same triangle on finite state spaces, without a gradient."""
