"""DiT-XL/2 (Peebles & Xie 2023) on ImageNet at 64×64, with classes.

  python -m experiments.train --config=experiments/configs/imagenet64_dit_xl2.py \\
    --config.data.path=shards/imagenet64 --workdir=runs/imagenet64 --multihost

Shards of 64×64 colour pictures with labels come from `python -m experiments.array_records`.
Patches of 2 pixels make 1,024 tokens a picture.

make plan, for 256 v5e chips: 7.9 of 15.75 GiB a chip, a step no shorter than 140 ms, so MFU at most
91 % (bound by HBM), 400,000 steps in 15.5 hours at least. More pictures a chip at once do not pay:
their attention no longer fits on the chip (40 % at most with 4,352). Take training.accumulation.
"""

from experiments.config import Config, Evaluation, Mesh, Sampling, Training


def get_config() -> Config:
  return Config(
      data="array_record(path='', shape=(64, 64, 3), num_classes=1000)",
      network="dit(width=1152, depth=28, heads=16, patch_size=2, dtype='bfloat16', unroll=1, "
              "remat=True)",
      training=Training(steps=400_000, batch_size=2048, learning_rate=1e-4,
                        schedule="constant(warmup_steps=0)", ema_half_life_steps=(2000.0,),
                        checkpoint_every=1000, log_every=100),
      mesh=Mesh(data=-1, fsdp=16),
      sampling=Sampling(sampler="heun()", grid="karras(25)"),
      evaluation=Evaluation(num_samples=50_000),
  )
