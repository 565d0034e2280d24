"""Ablations: the arms of a sweep file, trained in few programs and compared seed by seed.

In reading order: `arms` reads a sweep file; `equivalence` finds arms that are the same experiment;
`layouts` assigns arms to models and models to programs; `program` compiles many trainings into one
computation; `group_training` trains the members of one program and stores their measurements with
`history`; `measures` has the metrics; `launchers` runs groups as processes; `results` makes the
table, `curves` the pictures and `report` the report.
"""
