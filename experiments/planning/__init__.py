"""The cost of a compiled training step on a TPU slice, for `experiments.plan`.

In reading order: `chips` and `topologies` describe slices. `compiling` compiles the step and finds
the largest batch. `hlo` parses the compiled program. `collectives` and `hbm_traffic` compute the
bytes that its instructions move, and `costs` the sums. `model_flops` counts the FLOPs of the model.
`roofline` bounds the time of a step.
"""
