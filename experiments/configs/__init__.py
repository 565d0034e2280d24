"""One Python file an experiment; each defines `get_config()`."""
