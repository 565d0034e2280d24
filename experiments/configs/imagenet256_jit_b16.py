"""JiT-B/16 (Li & He 2025) on ImageNet at 256×256 in pixels, with classes.

  python -m experiments.train --config=experiments/configs/imagenet256_jit_b16.py \\
    --config.data.path=shards/imagenet256 --workdir=runs/jit --multihost

Shards of 256×256 colour pictures with labels come from `python -m experiments.array_records`.
The network predicts x₀, the loss is that of the velocity, and patches of 768 numbers pass through
128 channels. It has no class tokens beside those of the picture. 187,500 steps of 4,096 are the
paper's 600 epochs, with batches of 1,024. The paper's FID of 50,000 samples is 3.66, with guidance
and such class tokens.
"""

from experiments.config import Config, Evaluation, Mesh, Objective, Sampling, Training


def get_config() -> Config:
  return Config(
      data="array_record(path='', shape=(256, 256, 3), num_classes=1000)",
      network="dit(width=768, depth=12, heads=12, patch_size=16, norm='rms', mlp='swiglu', "
              "qk_norm=True, rotary=True, positions='fixed', bottleneck=128, dtype='bfloat16', "
              "unroll=1)",
      objective=Objective(
          prediction="x0()", weight="flow_matching()",
          density="logit_normal_s(0.8, 0.8, rho_min=0.05, rho_max=500)"),
      training=Training(steps=187_500, batch_size=4096, learning_rate=4e-4,
                        optimizer="adamw(b2=0.95)", schedule="constant(warmup_steps=1560)",
                        ema_half_life_steps=(1700.0,), checkpoint_every=1000, log_every=100),
      mesh=Mesh(data=-1, fsdp=4),
      sampling=Sampling(sampler="heun()", grid="karras(50)"),
      evaluation=Evaluation(num_samples=50_000),
  )
