"""Diffusion, score and flow-matching models as splits of one Langevin step.

Rooms, in the paper's order: `paths`, `predictions`, `langevin`, `splitting`, `mixtures`,
`objectives`, `samplers`, `likelihood`, `networks`, `training`.
"""
