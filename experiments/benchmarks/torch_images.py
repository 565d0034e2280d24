"""diffusers' U-Net and DiT, which `imported` and `recipes` compare with our networks and training.

  python -m experiments.benchmarks.torch_images make KIND FOLDER
  python -m experiments.benchmarks.torch_images forward|train KIND FOLDER DTYPE THREADS BATCH
  python -m experiments.benchmarks.torch_images learn KIND FOLDER DATA.npz BATCH STEPS EVERY RATE
  python -m experiments.benchmarks.torch_images draw KIND FOLDER LABELS.npy OUT.npy STEPS SCHEDULER

`make` writes a model with random weights, and its output at a few timesteps. `forward` and `train`
wait for a line "n" on stdin, make n forward passes or training steps of the model in FOLDER, and
then print a line. `learn` trains it on x (n, channels, h, w) and labels, on one thread, and writes
the average of the parameters to FOLDER/N after N = EVERY, 2 EVERY, … steps. `draw` samples the
model in FOLDER by DDIMScheduler or DDPMScheduler of diffusers, which clip x₀ to [−1, 1] each time.

A training step is DDPM's (Ho et al. 2020) as in diffusers' script for unconditional training: ε at
uniform timesteps, AdamW, gradient clipping, an average whose decay rises with the steps. The rate
is constant after its rise, so that a run can be judged wherever it stands. In bfloat16 PyTorch
chooses the dtype of each operation (autocast).
"""

import pathlib
import sys
import time
from typing import Any

import diffusers
import numpy as np
import torch
from torch import nn
from torch.nn import functional

# Kind of model → its class, its config.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("UNet2DModel", {
        "sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 2,
        "block_out_channels": (32, 64, 64), "attention_head_dim": 32, "num_class_embeds": 10,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")}),
    "dit": ("DiTTransformer2DModel", {
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "patch_size": 2, "num_layers": 8,
        "num_attention_heads": 4, "attention_head_dim": 64, "num_embeds_ada_norm": 10})}
# Two cores train them within an hour.
MODELS["small_unet"] = MODELS["unet"][0], MODELS["unet"][1] | {"layers_per_block": 1}
MODELS["emoji_unet"] = MODELS["unet"][0], MODELS["small_unet"][1] | {
    "sample_size": 32, "in_channels": 3, "out_channels": 3}
WARMUP = 200  # steps over which the rate rises
TIMESTEPS = (0, 100, 400, 700, 998)


def make(kind: str, folder: pathlib.Path) -> None:
  torch.manual_seed(0)
  name, config = MODELS[kind]
  model = getattr(diffusers, name)(**config).eval()
  for parameter in model.parameters():  # those that begin at zero, too
    if parameter.ndim > 1 and not parameter.any():
      nn.init.normal_(parameter, std=0.02)
  if kind == "dit":  # converted weights have one embedding of the level and the label
    for block in model.transformer_blocks[1:]:
      block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
  model.save_pretrained(folder)
  t = torch.tensor(TIMESTEPS)
  x, labels = batch(kind, len(t))
  with torch.no_grad():
    y = model(x, t, class_labels=labels).sample
  np.savez(folder / "values.npz", x=x, t=t, labels=labels, y=y)


def batch(kind: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
  """(x, labels) of n random pictures."""
  config = MODELS[kind][1]
  torch.manual_seed(1)
  x = torch.randn(n, config["in_channels"], config["sample_size"], config["sample_size"])
  return x, torch.arange(n) % 10


class Trainer:
  """A model under training, on one batch of random pictures unless `x_0` and `labels` are set."""

  def __init__(self, kind: str, folder: pathlib.Path, dtype: str, n: int, rate: float = 1e-4):
    self.model = getattr(diffusers, MODELS[kind][0]).from_pretrained(folder).train()
    self.x_0, self.labels = batch(kind, n)
    self.dtype, self.rate, self.step = dtype, rate, 0
    self.parameters = list(self.model.parameters())
    self.average = [parameter.detach().clone() for parameter in self.parameters]
    self.optimizer = torch.optim.AdamW(
        self.parameters, lr=rate, betas=(0.95, 0.999), weight_decay=1e-6, fused=True)
    self.alphas = torch.cumprod(1.0 - torch.linspace(1e-4, 0.02, 1000), 0)

  def train(self) -> None:
    self.step += 1
    for group in self.optimizer.param_groups:
      group["lr"] = self.rate * min(self.step / WARMUP, 1.0)
    t = torch.randint(1000, (len(self.x_0),))
    eps = torch.randn_like(self.x_0)
    alpha = self.alphas[t][:, None, None, None]
    x = alpha.sqrt() * self.x_0 + (1.0 - alpha).sqrt() * eps
    loss = functional.mse_loss(self._call(x, t).float(), eps)
    self.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(self.parameters, 1.0)
    self.optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(self.average, self.parameters, max((1 + self.step)**-0.75, 1e-4))

  @torch.no_grad()
  def forward(self) -> None:
    self._call(self.x_0, torch.full((len(self.x_0),), 500))

  def _call(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16"):
      return self.model(x, t, class_labels=self.labels).sample


def learn(
    kind: str, folder: pathlib.Path, file: str, n: int, steps: int, every: int, rate: float
) -> None:
  torch.manual_seed(0)
  torch.set_num_threads(1)
  trainer = Trainer(kind, folder, "float32", n, rate)
  with np.load(file) as data:
    x, labels = torch.from_numpy(data["x"]), torch.from_numpy(data["labels"]).long()
  order = torch.zeros(0, dtype=torch.int64)
  for step in range(1, steps + 1):
    if len(order) < n:
      order = torch.cat([order, torch.randperm(len(x))])
    trainer.x_0, trainer.labels, order = x[order[:n]], labels[order[:n]], order[n:]
    trainer.train()
    if step % every == 0:
      kept = [parameter.detach().clone() for parameter in trainer.parameters]
      with torch.no_grad():
        torch._foreach_copy_(trainer.parameters, trainer.average)
        trainer.model.save_pretrained(folder / str(step))
        torch._foreach_copy_(trainer.parameters, kept)
      print(f"step {step}: {time.process_time():.0f} s of the processor", flush=True)


@torch.no_grad()
def draw(
    kind: str, folder: pathlib.Path, labels_file: str, out: str, steps: int, name: str
) -> None:
  torch.manual_seed(0)
  torch.set_num_threads(1)
  model = getattr(diffusers, MODELS[kind][0]).from_pretrained(folder).eval()
  scheduler = getattr(diffusers, name)(num_train_timesteps=1000)
  scheduler.set_timesteps(steps)
  images = []
  for labels in torch.from_numpy(np.load(labels_file)).long().split(250):
    x = torch.randn(len(labels), model.config.in_channels, *[model.config.sample_size] * 2)
    for t in scheduler.timesteps:
      x = scheduler.step(model(x, t, class_labels=labels).sample, t, x).prev_sample
    images.append(x)
  np.save(out, torch.cat(images).clamp(-1.0, 1.0).numpy())


def main(task: str, kind: str, folder: str, *options: str) -> None:
  if task == "make":
    make(kind, pathlib.Path(folder))
    return
  if task == "learn":
    learn(kind, pathlib.Path(folder), options[0], *map(int, options[1:4]), float(options[4]))
    return
  if task == "draw":
    draw(kind, pathlib.Path(folder), *options[:2], int(options[2]), options[3])
    return
  dtype, threads, n = options
  torch.set_num_threads(int(threads))
  step = getattr(Trainer(kind, pathlib.Path(folder), dtype, int(n)), task)
  for line in sys.stdin:
    for _ in range(int(line)):
      step()
    print("done", flush=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
