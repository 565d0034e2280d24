"""Sampling from a trained run.

In reading order: `samplers_from_config` builds the method and the grid, `drawing` runs them in
batches, `token_sampling` is both for tokens; `conditioning` reads labels and conditions, `inpaint`
known values and masks, and `starts` initial states; `optimized_grids` optimises levels for a model,
`resumable_npy` writes samples batch by batch, `outputs` the other files of a command, `pictures`
the images and `texts` the text.
"""
