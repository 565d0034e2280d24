"""Reference networks of other projects with random weights: cases, and a script that runs them.

  python tests/pretrained_cases.py --edm=DIRECTORY --dit=DIRECTORY --sit=DIRECTORY [NAME …]

writes tests/experiments/pretrained/NAME.npz: names and shapes of the weights, and outputs at ten
noise levels. It needs `pip install -e ".[parity]"`; for Inception and DINOv2 also
`pip install --no-deps torch-fidelity timm torchvision`; and for some clones of the projects that
are no packages: NVlabs/edm, facebookresearch/DiT, willisma/SiT. Weights are drawn by
`random_weights`, here and in the tests, so that a fixture holds none.
"""

import argparse
import importlib
import json
import pathlib
import re
import sys
import types
import unittest.mock

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "experiments" / "pretrained"
SIDE, LEVELS = 8, 10
# Indices of a table of 1,000 β.
INDICES = np.array([0, 1, 3, 10, 50, 200, 400, 700, 900, 998])
ELLS = np.linspace(5.0, -4.4, LEVELS)


def random_weights(shapes: dict[str, tuple[int, ...]], kept: dict) -> dict[str, np.ndarray]:
  """Weights by name: products keep the scale of what they multiply. kept: constants of the layout.
  """
  rng, found = np.random.default_rng(0), {}
  for name, shape in sorted(shapes.items()):
    fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100.0
    value = rng.normal(size=shape) / np.sqrt(fan_in)
    if len(shape) == 1 and name.endswith("weight"):
      value = 1.0 + value
    found[name] = kept.get(name, value.astype(np.float32))
    # Blocks of diffusers' DiT share one embedding of the level and the label.
    found[name] = found[re.sub(r"blocks\.\d+\.norm1\.emb", "blocks.0.norm1.emb", name)]
  return found


def inputs(channels: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
  """x (LEVELS, channels, SIDE, SIDE) at unit scale and labels (LEVELS,)."""
  rng = np.random.default_rng(1)
  return (rng.normal(size=(LEVELS, channels, SIDE, SIDE)).astype(np.float32),
          np.arange(LEVELS) % max(classes, 1))


def table(schedule: dict, indices: np.ndarray = INDICES) -> np.ndarray:
  """ℓ at `indices` of diffusers' schedules, in float64: theirs are float32, ᾱ to 6e-8 beside 1."""
  if schedule["beta_schedule"] == "squaredcos_cap_v2":
    bar = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2.0) ** 2
    k = np.arange(1000)
    betas = np.minimum(1.0 - bar((k + 1) / 1000) / bar(k / 1000), 0.999)
  elif schedule["beta_schedule"] == "scaled_linear":
    betas = np.linspace(schedule["beta_start"] ** 0.5, schedule["beta_end"] ** 0.5, 1000) ** 2
  else:
    betas = np.linspace(schedule["beta_start"], schedule["beta_end"], 1000)
  roots = np.sqrt(np.cumprod(1.0 - betas))
  if schedule.get("rescale_betas_zero_snr"):
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
  alphas = roots[indices] ** 2
  with np.errstate(divide="ignore"):  # at noise alone
    return 0.5 * np.log(alphas / (1.0 - alphas))


def diffusers_unet(config: dict, schedule: dict, classes: int = 0) -> dict:
  """diffusers' UNet2DModel, samples of its DDIM and, without classes, of DPM-Solver++."""
  import torch
  from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DModel
  model, found = _drawn(UNet2DModel(**config))
  x, labels = inputs(3, classes)
  given = {"class_labels": torch.tensor(labels)} if classes else {}
  call = lambda x, t, **given: model(x, t, **given).sample
  found |= {"config": dict(model.config), "scheduler": schedule, "ell": table(schedule),
            "value": call(torch.tensor(x), torch.tensor(INDICES), **given)}
  # With classes the table ends at noise alone, where the samples begin.
  ddim = {"clip_sample": False, "timestep_spacing": "trailing" if classes else "leading"}
  dpm = {"final_sigmas_type": "zero", "timestep_spacing": "leading"}
  for name, kind, options, of_step in (
      ("ddim", DDIMScheduler, ddim, {}),
      ("clipped", DDIMScheduler, ddim | {"clip_sample": True}, {"use_clipped_model_output": True}),
      ("dpm", DPMSolverMultistepScheduler, dpm, {}))[:3 - bool(classes)]:
    scheduler, state = kind(**schedule, **options), torch.tensor(x[:2])
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
      output = call(state, t, **{name: value[:2] for name, value in given.items()})
      state = scheduler.step(output[:, :3], t, state, **of_step).prev_sample
    found |= {name: state, f"{name}_times": scheduler.timesteps}
  return found


def edm(name: str, classes: int, **config) -> dict:
  """A network of NVlabs/edm at c_noise of σ = σ_d e^{−ℓ}."""
  import torch
  kind = getattr(importlib.import_module("training.networks"), name)
  model, found = _drawn(kind(img_resolution=SIDE, in_channels=3, out_channels=3, label_dim=classes,
                             num_blocks=1, attn_resolutions=[4], **config))
  x, labels = inputs(3, classes)
  one_hot = torch.nn.functional.one_hot(torch.tensor(labels), classes).float() if classes else None
  noise = torch.tensor(np.log(0.5 * np.exp(-ELLS)) / 4.0, dtype=torch.float32)
  return found | {"ell": ELLS, "value": model(torch.tensor(x), noise, one_hot)}


def edm_trained(name: str, classes: int, **config) -> dict:
  """ε, which a preconditioning of NVlabs/edm other than its own predicts, of x at unit scale."""
  import torch
  module = importlib.import_module("training.networks")
  model, found = _drawn(getattr(module, name)(
      img_resolution=SIDE, img_channels=3, label_dim=classes, num_blocks=1, attn_resolutions=[4],
      **config))
  x, labels = inputs(3, classes)
  one_hot = torch.nn.functional.one_hot(torch.tensor(labels), classes).float() if classes else None
  ells = table({"beta_schedule": "squaredcos_cap_v2"}) if name == "iDDPMPrecond" else ELLS
  sigma, outputs = torch.tensor(np.exp(-ells), dtype=torch.float32), []
  state = torch.tensor(x) * torch.sqrt(1.0 + sigma**2)[:, None, None, None]
  if name == "VPPrecond":  # in float32, its time is a difference that is off by 1e-4 at low noise
    inverse = model.sigma_inv
    model.sigma_inv = lambda sigma: inverse(sigma.double()).float()
  model.model.register_forward_hook(lambda module, given, output: outputs.append(output[:, :3]))
  denoised = model(state, sigma, one_hot)
  # ε = (x − D)/σ is ± the output, which is exact where σ is small.
  eps = (state - denoised) / sigma[:, None, None, None]
  sign = torch.sign((eps * outputs[0]).sum())
  np.testing.assert_allclose(sign * outputs[0], eps, atol=1e-3)
  return found | {"ell": ells, "value": sign * outputs[0]}


def adm(classes: int, **config) -> dict:
  """The UNetModel of guided-diffusion, as azula ships it."""
  import torch
  from azula.plugins.adm._src.unet import UNetModel
  model, found = _drawn(UNetModel(
      image_size=SIDE, in_channels=3, model_channels=32, out_channels=6, num_res_blocks=1,
      channel_mult=(1, 2), num_classes=classes or None,
      **{"attention_resolutions": (2,), "num_head_channels": 16} | config))
  x, labels = inputs(3, classes)
  given = {"y": torch.tensor(labels)} if classes else {}
  schedule = {"beta_schedule": "squaredcos_cap_v2"}
  return found | {"ell": table(schedule),
                  "value": model(torch.tensor(x), torch.tensor(INDICES), **given)}


def diffusers_dit() -> dict:
  """diffusers' DiTTransformer2DModel; its blocks share the embedding, as converted weights do."""
  import torch
  from diffusers import DiTTransformer2DModel
  config = {"sample_size": SIDE, "num_layers": 2, "num_attention_heads": 2,
            "attention_head_dim": 12, "in_channels": 4, "out_channels": 8, "patch_size": 2,
            "num_embeds_ada_norm": 3}
  model, found = _drawn(DiTTransformer2DModel(**config))
  x, labels = inputs(4, 4)
  value = model(torch.tensor(x), torch.tensor(INDICES), torch.tensor(labels)).sample
  return found | {"config": dict(model.config), "scheduler": LINEAR, "ell": table(LINEAR),
                  "value": value}


def autoencoder_kl(**config) -> dict:
  """diffusers' AutoencoderKL: moments of latents of x, and the pictures of the first of them."""
  import torch
  from diffusers import AutoencoderKL
  model, found = _drawn(AutoencoderKL(
      sample_size=SIDE, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
      latent_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
      up_block_types=("UpDecoderBlock2D",) * 2, **config))
  latents = model.encode(torch.tensor(inputs(3, 0)[0])).latent_dist
  return found | {"config": dict(model.config), "mean": latents.mean, "std": latents.std,
                  "value": model.decode(latents.mean).sample}


def inception() -> dict:
  """torch-fidelity's Inception: features and logits of PICTURES, and pixels of larger ones."""
  import torch
  from torch_fidelity import feature_extractor_inceptionv3 as reference
  from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
  module = reference.FeatureExtractorInceptionV3
  reference.load_state_dict_from_url = lambda *_, **__: {}
  loading, module.load_state_dict = module.load_state_dict, lambda *_: None
  model = module("inception", ["2048", "logits_unbiased"])
  module.load_state_dict = loading
  model, found = _drawn(model, as_inception)
  features, logits = model(torch.tensor(np.moveaxis(pictures(), -1, 1)))
  larger = torch.tensor(np.moveaxis(pictures(320, 310), -1, 1)).float()
  resized = interpolate_bilinear_2d_like_tensorflow1x(larger, size=(299, 299), align_corners=False)
  return found | {"value": features, "logits": logits, "resized": resized[:, :, ::23, ::23]}


def dinov2() -> dict:
  """timm's DINOv2 with 2 × 2 tokens, and positions as the original code interpolates them."""
  import timm
  import torch
  model, found = _drawn(timm.models.VisionTransformer(
      img_size=28, patch_size=14, embed_dim=128, depth=2, num_heads=2, init_values=1.0,
      num_classes=0, global_pool="token"))
  x = (torch.tensor(np.moveaxis(pictures(28, 28) / 255.0, -1, 1)) - torch.tensor(
      [0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
  places = torch.tensor(inputs(5, 0)[0][:1])
  interpolated = torch.nn.functional.interpolate(
      places, scale_factor=(3.1 / SIDE, 3.1 / SIDE), mode="bicubic")
  shrunk = torch.nn.functional.interpolate(
      torch.tensor(np.moveaxis(pictures(), -1, 1)).float(), size=(28, 28), mode="bicubic",
      antialias=True)
  return found | {"value": model(x.float()), "positions": interpolated, "shrunk": shrunk}


def vgg16() -> dict:
  """VGG16's features of pictures that LPIPS has scaled, and unit layers of pictures in [−1, 1].

  Shift, scale, unit lengths and layers, which are the last before each of the five poolings, are
  those of richzhang/PerceptualSimilarity; a perceptual loss sees pictures in standard units.
  """
  import torch
  nn, modules, before, ends = torch.nn, [], 3, []
  for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
    for _ in range(count):
      modules += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
      before = width
    ends.append(len(modules))
    modules.append(nn.MaxPool2d(2, 2))
  model, found = _drawn(nn.Sequential(*modules), as_vgg16)
  x = 2.0 * torch.tensor(np.moveaxis(pictures(), -1, 1)).float() / 255.0 - 1.0
  shift, scale = torch.tensor([-.030, -.088, -.188]), torch.tensor([.458, .448, .450])
  scaled = (x - shift[:, None, None]) / scale[:, None, None]
  found["value"] = model[:ends[-1]](scaled).mean((2, 3))
  for block, end in enumerate(ends):
    h = model[:end](x)
    h = h / (torch.sqrt(torch.sum(h**2, dim=1, keepdim=True)) + 1e-10)
    found[f"layer_{block}"] = every_few(h.movedim(1, -1), block)
  return found


def every_few(h, block: int):
  """Some numbers of a layer (n, h, w, channels) of a block of VGG16: of every eighth pixel of x."""
  step = max(8 >> block, 1)
  return h[:, ::step, ::step, ::8]


def pictures(height: int = 32, width: int = 40) -> np.ndarray:
  """(2, height, width, 3) uint8, smooth with noise."""
  rng = np.random.default_rng(2)
  waves = np.sin(np.linspace(0.0, 9.0, height))[:, None, None] + np.cos(
      np.linspace(0.0, 7.0, width))[:, None]
  noise = rng.normal(size=(2, height, width, 3))
  return np.clip(128.0 + 40.0 * waves + 30.0 * noise, 0, 255).astype(np.uint8)


def as_inception(drawn: dict) -> dict:
  """Weights whose activations keep their scale: variances are positive, gains √2."""
  positive = lambda name, a: np.exp(a) if name.endswith("running_var") else (
      np.sqrt(2.0) * a if name.endswith("bn.weight") else a)
  return {name: np.asarray(positive(name, a), np.float32) for name, a in drawn.items()}


def as_vgg16(drawn: dict) -> dict:
  """Weights whose activations keep their scale: a ReLU halves the mean square."""
  return {name: np.asarray(np.sqrt(2.0) * a if a.ndim == 4 else a, np.float32)
          for name, a in drawn.items()}


def original_dit(kind: str) -> dict:
  """DiT or SiT by its authors' code, whose layers of timm may be replaced by the same few lines."""
  import torch
  sys.modules.pop("models", None)
  with unittest.mock.patch.dict(sys.modules, _stand_in_for_timm(torch)):
    module = importlib.import_module("models")
  model, found = _drawn(getattr(module, kind)(
      input_size=SIDE, patch_size=2, in_channels=4, hidden_size=128, depth=2, num_heads=2,
      num_classes=3))
  x, labels = inputs(4, 4)
  ell, time = table(LINEAR), torch.tensor(INDICES)
  if kind == "SiT":
    ell = ELLS
    data = 1.0 / (1.0 + np.exp(-ell))
    time = torch.tensor(data, dtype=torch.float32)
    x = x * np.hypot(data, 1.0 - data).astype(np.float32)[:, None, None, None]
  return found | {"ell": ell, "value": model(torch.tensor(x), time, torch.tensor(labels))}


def _stand_in_for_timm(torch) -> dict[str, types.ModuleType]:
  """Modules with PatchEmbed, Attention and Mlp by the names of timm, which needs torchvision."""
  nn, functional = torch.nn, torch.nn.functional

  class PatchEmbed(nn.Module):
    def __init__(self, size, patch, channels, width, bias=True):
      super().__init__()
      self.patch_size, self.num_patches = (patch, patch), (size // patch) ** 2
      self.proj = nn.Conv2d(channels, width, patch, patch, bias=bias)

    def forward(self, x):
      return self.proj(x).flatten(2).transpose(1, 2)

  class Attention(nn.Module):
    def __init__(self, width, num_heads, qkv_bias=False, **_):
      super().__init__()
      self.heads, self.qkv = num_heads, nn.Linear(width, 3 * width, bias=qkv_bias)
      self.proj = nn.Linear(width, width)

    def forward(self, x):
      q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
      return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

  class Mlp(nn.Module):
    def __init__(self, in_features, hidden_features, act_layer, **_):
      super().__init__()
      self.fc1, self.act = nn.Linear(in_features, hidden_features), act_layer()
      self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x):
      return self.fc2(self.act(self.fc1(x)))

  layers = types.ModuleType("timm.models.vision_transformer")
  layers.PatchEmbed, layers.Attention, layers.Mlp = PatchEmbed, Attention, Mlp
  return {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models"),
          "timm.models.vision_transformer": layers}


SMALL = {"sample_size": SIDE, "block_out_channels": (16, 32), "layers_per_block": 1,
         "norm_num_groups": 8, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
ZERO_SNR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
            "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
WIDE = {"model_channels": 128, "channel_mult": [1, 1], "augment_dim": 2}
# Name → (layout, how its reference is made).
CASES = {
    "ddpm": ("diffusers_unet", lambda: diffusers_unet(
        SMALL | {"attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1,
                 "downsample_padding": 0, "norm_eps": 1e-6}, LINEAR)),
    "classes": ("diffusers_unet", lambda: diffusers_unet(
        SMALL | {"num_class_embeds": 4, "out_channels": 6}, ZERO_SNR, classes=4)),
    "ddpmpp": ("edm", lambda: edm("SongUNet", 3, **WIDE)),
    "ncsnpp": ("edm", lambda: edm(
        "SongUNet", 0, embedding_type="fourier", channel_mult_noise=2, encoder_type="residual",
        resample_filter=[1, 3, 3, 1], **WIDE)),
    "edm_adm": ("edm", lambda: edm("DhariwalUNet", 3, **WIDE)),
    "edm_vp": ("edm(preconditioning='vp')", lambda: edm_trained("VPPrecond", 3, **WIDE)),
    "edm_ve": ("edm(preconditioning='ve')", lambda: edm_trained(
        "VEPrecond", 0, embedding_type="fourier", channel_mult_noise=2, encoder_type="residual",
        resample_filter=[1, 3, 3, 1], **WIDE)),
    "edm_iddpm": ("edm(preconditioning='iddpm')", lambda: edm_trained("iDDPMPrecond", 3, **WIDE)),
    "adm": ("adm(side=8, schedule='cosine', head_channels=16)", lambda: adm(
        4, use_scale_shift_norm=True, resblock_updown=True)),
    "improved": ("adm(side=8, schedule='cosine', head_channels=16, new_attention=True)",
                 lambda: adm(0, use_new_attention_order=True)),
    "heads": ("adm(side=8, schedule='cosine', heads=2)",
              lambda: adm(0, attention_resolutions=(1, 2), num_head_channels=-1, num_heads=2)),
    "diffusers_dit": ("diffusers_dit(latent_scale=0.5)", diffusers_dit),
    "dit": ("dit", lambda: original_dit("DiT")),
    "sit": ("sit", lambda: original_dit("SiT")),
}
# Autoencoders and extractors, which have no noise levels.
OTHERS = {
    "autoencoder_kl": autoencoder_kl,
    "autoencoder_plain": lambda: autoencoder_kl(use_quant_conv=False, use_post_quant_conv=False),
    "inception": inception, "dinov2": dinov2, "vgg16": vgg16}


def _drawn(model, change=lambda drawn: drawn) -> tuple:
  """(a model with `random_weights`, facts of them)."""
  import torch
  state = model.state_dict()
  shapes = {name: tuple(value.shape) for name, value in state.items()}
  kept = {name: value.numpy() for name, value in state.items()
          if "resample_filter" in name or name == "u"}
  drawn = change(random_weights(shapes, kept))
  model.load_state_dict({name: torch.tensor(value) for name, value in drawn.items()})
  return model.eval(), {"shapes": shapes} | {f"kept/{name}": a for name, a in kept.items()}


def reference(name: str) -> dict:
  """The facts of a case, with NumPy arrays."""
  import torch
  with torch.no_grad():
    found = (OTHERS | {name: make for name, (_, make) in CASES.items()})[name]()
  return {key: value.numpy() if isinstance(value, torch.Tensor) else value
          for key, value in found.items()}


def torch_file() -> None:
  """A checkpoint of torch with tensors of several kinds."""
  import torch
  a = torch.arange(6.0).reshape(2, 3)
  state = {"model.a": a.T, "model.b": torch.nn.Parameter(a[1:].bfloat16()),
           "model.c": a[0, 1], "model.d": torch.tensor([3])}
  torch.save({"ema": state, "step": 3}, FOLDER / "tensors.pt")
  torch.save({"ema": state, "step": 3}, FOLDER / "tensors_old.pt",
             _use_new_zipfile_serialization=False)


def main() -> None:
  parser = argparse.ArgumentParser()
  for clone in ("edm", "dit", "sit"):
    parser.add_argument(f"--{clone}", default="")
  parser.add_argument("names", nargs="*")
  given = parser.parse_args()
  torch_file()
  for name in given.names or (*CASES, *OTHERS):
    clone = getattr(given, {"ddpmpp": "edm", "ncsnpp": "edm", "dit": "dit", "sit": "sit"}.get(
        name, "edm" if name.startswith("edm_") else "names"))
    if clone and isinstance(clone, str):
      sys.path.insert(0, clone)
    found = reference(name)
    np.savez_compressed(FOLDER / f"{name}.npz", **{
        key: json.dumps(value, default=str) if isinstance(value, dict) else value
        for key, value in found.items()})
    print(name, {key: getattr(value, "shape", len(value)) for key, value in found.items()})


def load(name: str) -> dict:
  """What the script has written."""
  with np.load(FOLDER / f"{name}.npz") as found:
    return {key: json.loads(str(value)) if value.dtype.kind == "U" else value
            for key, value in found.items()}


if __name__ == "__main__":
  main()
