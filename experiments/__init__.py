"""The experiment runner: everything that touches a disk, a clock or a screen."""
