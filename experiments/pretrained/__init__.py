"""Public checkpoints as runs of this project: `python -m experiments.convert`.

A layout is a function that reads what a published network is from its weights, and one table: their
name → ours. Reading order: `weights` (files), `tables` (the mechanism), the layouts `diffusers`,
`edm`, `adm`, `transformers`, then `imported` (config, data and workdir). `vgg` has the features of
perceptual distances, from weights that a package ships. Nothing is downloaded.
"""
