"""Your own arrays: vectors (n, d) from a .npy or .npz, by an MLP.

  python -m experiments.train --config=experiments/configs/arrays.py --workdir=runs/mine \\
    --config.data.path=mine.npz

An .npz holds `x` and perhaps `labels`; for a .npy, labels are a second file in
`--config.data.labels`. For arrays of images (n, h, w, c) add `--config.network=dit`.
"""

from experiments.config import Config, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="arrays(path='')",
      network="mlp(width=256, depth=4)",
      objective=Objective(prediction="v()", weight="flow_matching()",
                          density="uniform_half_log_snr(rho_min=0.005, rho_max=100)"),
      training=Training(steps=10_000, batch_size=256, steps_per_dispatch=10),
      sampling=Sampling(sampler="heun()", grid="karras(40, rho_min=0.005)"),
  )
