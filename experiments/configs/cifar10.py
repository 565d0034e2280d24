"""Class-conditional CIFAR-10 (32×32 colour) by a DiT, from your own copy of its binary version.

  python -m experiments.train --config=experiments/configs/cifar10.py --workdir=runs/cifar10 \\
    --config.data.data.path=cifar-10-batches-bin

Images are flipped left to right half of the time. Meant for an accelerator.
"""

from experiments.config import Config, Evaluation, Sampling, Training


def get_config() -> Config:
  return Config(
      data="augmented(cifar10(path=''), flip=True)",
      network="dit(width=384, depth=12, heads=6, patch_size=2, dtype='bfloat16')",
      training=Training(steps=200_000, batch_size=256, learning_rate=3e-4,
                        schedule="cosine(warmup_steps=1000)", ema_half_life_steps=(5000.0,),
                        checkpoint_every=1000),
      sampling=Sampling(sampler="heun()", grid="karras(25)"),
      evaluation=Evaluation(num_samples=10_000),
  )
