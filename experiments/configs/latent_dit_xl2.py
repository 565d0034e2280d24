"""DiT-XL/2 (Peebles & Xie 2023) on ImageNet at 256×256, in 32×32×4 latents, with classes.

  python -m experiments.train --config=experiments/configs/latent_dit_xl2.py \\
    --config.data.path=shards/latent --workdir=runs/latent --multihost

Latents are (n, 32, 32, 4), of `python -m experiments.encode`, or of your own encoder as
`python -m experiments.array_records` writes them into shards. 437,500 steps of 4,096 are the
images of the paper's 7 M steps of 256.

make plan, for 256 v5e chips: 4.5 of 15.75 GiB a chip, a step no shorter than 58.1 ms, so MFU at
most 99 % (bound by compute; the interconnect needs 57.6 ms, and no less for half the batch), all of
it in 7.1 hours at least.
"""

from experiments.config import Config, Evaluation, Mesh, Sampling, Training


def get_config() -> Config:
  return Config(
      data="array_record(path='', shape=(32, 32, 4), num_classes=1000)",
      network="dit(width=1152, depth=28, heads=16, patch_size=2, dtype='bfloat16', unroll=1, "
              "remat=True)",
      training=Training(steps=437_500, batch_size=4096, learning_rate=1e-4,
                        schedule="constant(warmup_steps=0)", ema_half_life_steps=(2000.0,),
                        checkpoint_every=1000, log_every=100),
      mesh=Mesh(data=-1, fsdp=16),
      sampling=Sampling(sampler="heun()", grid="karras(25)"),
      evaluation=Evaluation(num_samples=50_000),
  )
