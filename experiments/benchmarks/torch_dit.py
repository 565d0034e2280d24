"""The DiT of `langevin_jax.networks` and its training step in PyTorch, float32 and eager.

It has the same layers, shapes and parameters, with the fused attention, layer normalisation and
AdamW of PyTorch. As a program it is a worker:

  python -m experiments.benchmarks.torch_dit '{"width": 128, …}'   (the fields of `Setting`)

For each line "n" on stdin it makes n training steps and then prints a line.
"""

import json
import sys
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

MAX_FREQUENCY = 64.0
NUM_FREQUENCIES = 32


class Setting(NamedTuple):
  """Shapes and optimizer settings of the run's config, and the number of PyTorch's threads."""

  height: int
  width_pixels: int
  channels: int
  num_classes: int
  patch_size: int
  width: int
  depth: int
  heads: int
  batch_size: int
  learning_rate: float
  beta_2: float
  weight_decay: float
  gradient_clip: float
  ema_half_life_steps: float
  label_dropout: float
  threads: int


class Block(nn.Module):
  """An adaLN-zero block on (batch, tokens, width): gated attention and gated MLP."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.modulation = nn.Linear(width, 6 * width)
    self.qkv = nn.Linear(width, 3 * width)
    self.merge = nn.Linear(width, width)
    self.hidden = nn.Linear(width, 4 * width)
    self.back = nn.Linear(4 * width, width)

  def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
        self.modulation(condition)[:, None].chunk(6, dim=-1))
    batch, tokens, width = h.shape
    qkv = self.qkv((1.0 + scale_a) * normalize(h) + shift_a)
    q, k, v = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    r = functional.scaled_dot_product_attention(q, k, v)
    h = h + gate_a * self.merge(r.transpose(1, 2).reshape(batch, tokens, width))
    r = functional.gelu(
        self.hidden((1.0 + scale_m) * normalize(h) + shift_m), approximate="tanh")
    return h + gate_m * self.back(r)


class DiT(nn.Module):
  """x (batch, h, w, c) at unit scale, ell (batch,), labels (batch,) → an array like x."""

  def __init__(self, setting: Setting):
    super().__init__()
    width, p = setting.width, setting.patch_size
    self.patch_size = p
    self.level_in = nn.Linear(2 * NUM_FREQUENCIES, width)
    self.level_out = nn.Linear(width, width)
    self.label = nn.Embedding(setting.num_classes + 1, width)
    self.patches = nn.Linear(p * p * setting.channels, width)
    tokens = (setting.height // p) * (setting.width_pixels // p)
    self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
    self.blocks = nn.ModuleList(Block(width, setting.heads) for _ in range(setting.depth))
    self.modulation = nn.Linear(width, 2 * width)
    self.output = nn.Linear(width, p * p * setting.channels)
    for layer in (*(block.modulation for block in self.blocks), self.modulation, self.output):
      nn.init.zeros_(layer.weight)
      nn.init.zeros_(layer.bias)
    steps = torch.arange(NUM_FREQUENCIES) / (NUM_FREQUENCIES - 1)
    self.register_buffer("frequencies", MAX_FREQUENCY**steps)

  def forward(self, x: torch.Tensor, ell: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    batch, height, width, channels = x.shape
    p, rows, columns = self.patch_size, height // self.patch_size, width // self.patch_size
    angles = torch.tanh(ell / 4.0)[:, None] * self.frequencies
    condition = self.level_in(torch.cat([angles.sin(), angles.cos()], dim=-1))
    condition = self.level_out(functional.silu(condition)) + self.label(labels)
    condition = functional.silu(condition)
    h = x.reshape(batch, rows, p, columns, p, channels).permute(0, 1, 3, 2, 4, 5)
    h = self.patches(h.reshape(batch, rows * columns, -1)) + self.position
    for block in self.blocks:
      h = block(h, condition)
    shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
    y = self.output((1.0 + scale) * normalize(h) + shift)
    y = y.reshape(batch, rows, columns, p, p, channels).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(x.shape)


def normalize(h: torch.Tensor) -> torch.Tensor:
  """Layer normalisation over the last axis, without parameters."""
  return functional.layer_norm(h, h.shape[-1:], eps=1e-6)


class Trainer:
  """Flow matching with logit-normal noise levels, AdamW, gradient clipping and an average."""

  def __init__(self, setting: Setting):
    torch.manual_seed(0)
    self.setting = setting
    self.model = DiT(setting)
    self.parameters = list(self.model.parameters())
    self.ema = [parameter.detach().clone() for parameter in self.parameters]
    self.optimizer = torch.optim.AdamW(
        self.parameters, lr=setting.learning_rate, betas=(0.9, setting.beta_2),
        weight_decay=setting.weight_decay, fused=True)
    self.x_0 = torch.randn(
        setting.batch_size, setting.height, setting.width_pixels, setting.channels)
    self.labels = torch.arange(setting.batch_size) % max(setting.num_classes, 1)

  def step(self) -> float:
    """Makes one step on the fixed batch and returns its loss."""
    setting, x_0 = self.setting, self.x_0
    ell = torch.randn(len(x_0))
    s = torch.sigmoid(-ell)[:, None, None, None]
    eps = torch.randn_like(x_0)
    dropped = torch.rand(len(x_0)) < setting.label_dropout
    labels = torch.where(dropped, setting.num_classes, self.labels)
    x = ((1.0 - s) * x_0 + s * eps) / torch.hypot(1.0 - s, s)
    loss = torch.mean((eps - x_0 - self.model(x, ell, labels)) ** 2)
    self.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(self.parameters, setting.gradient_clip)
    self.optimizer.step()
    rate = 1.0 - 0.5 ** (1.0 / setting.ema_half_life_steps)
    with torch.no_grad():
      torch._foreach_lerp_(self.ema, self.parameters, rate)
    return loss.item()


def main() -> None:
  setting = Setting(**json.loads(sys.argv[1]))
  torch.set_num_threads(setting.threads)
  trainer = Trainer(setting)
  for line in sys.stdin:
    loss = 0.0
    for _ in range(int(line)):
      loss = trainer.step()
    print(f"{line.strip()} steps, loss {loss:.4f}", flush=True)


if __name__ == "__main__":
  main()
