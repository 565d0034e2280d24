"""Networks with published weights, which are read from files and never downloaded.

Reading order: `vgg`, the features of perceptual distances.
"""
