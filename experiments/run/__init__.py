"""A run on its devices and disks.

`assembly` puts data, network and devices together, `dispatches` runs the steps, `reporting` and
`watching` report on them, also to `loggers`. `records`, `metrics_log` and `checkpoints` are its
files, written by `files`. `averages` are those of its parameters, `parameters` come from other runs
and files, `model` is what was trained. `meshes` are its devices, `multihost` its processes,
`signals` ask it to stop, `subprocesses` are other processes of this machine. `memory` estimates
before work begins, `progress` reports during it.
"""
