"""EDM2-S (Karras et al. 2024) on ImageNet at 64×64 in pixels, with classes.

  python -m experiments.train --config=experiments/configs/imagenet64_edm2_s.py \\
    --config.data.path=shards/imagenet64 --workdir=runs/edm2 --multihost

Shards of 64×64 colour pictures with labels come from `python -m experiments.array_records`.
524,288 steps of 2,048 are the paper's 1,024 Mi images. Levels are those of the paper for data of
standard deviation 1 in the place of ½, the weight is the paper's with a learned uncertainty, and no
label is dropped: the paper guides by another network. Averages of any length are made from the
snapshots. The paper's FID of 50,000 samples is 1.58, with an average of relative standard deviation
0.075.

make plan, for 256 v5e chips: 2.6 of 15.75 GiB a chip, a step no shorter than 23.4 ms, so MFU at
most 100 % (bound by compute; the interconnect needs 19.4 ms), all of it in 3.4 hours at least. The
compilation takes 22 minutes of one core.
"""

from experiments.config import Config, Evaluation, Mesh, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="array_record(path='', shape=(64, 64, 3), num_classes=1000)",
      network="unet_edm2(channels=192, dtype='bfloat16', remat=True)",
      objective=Objective(prediction="edm()", weight="uncertainty(weight='edm()')",
                          density="log_normal_rho(-0.107, 1.6, rho_min=0.002, rho_max=500)"),
      training=Training(steps=524_288, batch_size=2048, learning_rate=1e-2, gradient_clip=1e6,
                        optimizer="unit_weight_adam()", label_dropout=0.0,
                        schedule="inverse_sqrt(warmup_steps=5120, decay_steps=35000)",
                        ema_half_life_steps=(2000.0,), ema_relative_std=(0.05, 0.1),
                        snapshot_every=4096, checkpoint_every=1024, log_every=128),
      mesh=Mesh(data=-1, fsdp=16),
      sampling=Sampling(sampler="heun()", grid="karras(32)"),
      evaluation=Evaluation(num_samples=50_000),
  )
