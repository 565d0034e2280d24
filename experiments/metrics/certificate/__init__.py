"""The certificate of a trained network: at which noise levels it breaks duality, and by how much.

  network    the network and its data, noised to a level
  walks      distances of its reverse process to noised held-out data
  bound      a lower bound of its score error, in nats
  measures   all of these by interval, with their errors and marks
"""
