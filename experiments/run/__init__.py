"""A run on its devices and disks.

`assembly` puts data, network and devices together; `records` and `checkpoints` are its files,
`averages` those of its parameters, `meshes` its devices, `multihost` its processes, `subprocesses`
processes of this machine; `memory` estimates before work begins, `progress` reports during it.
"""
