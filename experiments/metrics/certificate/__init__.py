"""The certificate of a trained network: where it violates duality, and by how much.

  network    the network and its data at a noise level
  walks      distances of its reverse process to noised held-out data
  bound      a lower bound on its score error, in nats
  measures   both by interval of noise levels, with standard errors and significance
"""
