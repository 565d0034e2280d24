"""Ablations: arms of a sweep file, trained as few programs, compared seed by seed.

In reading order: `arms` reads a sweep; `canonical` says which arms are one experiment, `plan`
divides the rest into programs, `program` is many arms as one computation, `groups` trains one,
`measures` judges it, `history` keeps what was measured, `jobs` runs groups as processes, `results`
and `report` compare.
"""
