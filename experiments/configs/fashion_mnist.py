"""Class-conditional Fashion-MNIST (28×28) by a DiT; any data in MNIST's four IDX files will do.

  python -m experiments.train --config=experiments/configs/fashion_mnist.py \\
    --workdir=runs/fashion_mnist --config.data.path=directory/of/idx/files

Meant for an accelerator: all of its devices are used.
"""

from experiments.config import Config, Evaluation, Sampling, Training


def get_config() -> Config:
  return Config(
      data="fashion_mnist()",
      network="dit(width=384, depth=12, heads=6, patch_size=2, dtype='bfloat16')",
      training=Training(steps=50_000, batch_size=256, learning_rate=3e-4,
                        schedule="cosine(warmup_steps=1000)", ema_half_life_steps=(3000.0,),
                        checkpoint_every=1000),
      sampling=Sampling(sampler="heun()", grid="karras(25)"),
      evaluation=Evaluation(num_samples=10_000),
  )
