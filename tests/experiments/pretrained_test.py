"""Public weights: outputs and samples against the networks of other projects, and what is refused."""

import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pretrained_cases
import pytest
import runner
import safetensors.numpy

import experiments
from experiments.pretrained import imported, tables, weights
from experiments.run import assembly
from experiments.sampling import drawing
from langevin_jax import paths, samplers

CASES = pretrained_cases.CASES


def weights_of(case, tmp_path, name="weights"):
  """A directory, or a file, of the weights of a case."""
  kept = {key.removeprefix("kept/"): value for key, value in case.items() if key.startswith("kept/")}
  tensors = pretrained_cases.random_weights(case["shapes"], kept)
  if "config" not in case:
    np.savez(tmp_path / f"{name}.npz", **tensors)
    return tmp_path / f"{name}.npz"
  folder = tmp_path / name
  for part, config in (("unet/config.json", case["config"]),
                       ("scheduler/scheduler_config.json", case["scheduler"])):
    (folder / part).parent.mkdir(parents=True)
    (folder / part).write_text(json.dumps(config))
  safetensors.numpy.save_file(tensors, folder / "unet" / "diffusion_pytorch_model.safetensors")
  return folder


def built(name, tmp_path):
  """(the case, its run, its parameters, what the layout says)."""
  case = pretrained_cases.load(name)
  network, read = imported.read(weights_of(case, tmp_path), CASES[name][0])
  _, run = imported.run(network, "")
  return case, run, imported.fill(run, network, read), network


def params_of(run, source):
  abstract = assembly.abstract_state(run).params
  flat = jax.tree_util.tree_flatten_with_path(abstract)[0]
  leaves = [source.arrays[jax.tree_util.keystr(path, simple=True, separator="/")]
            for path, _ in flat]
  return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_reference(name, tmp_path):
  case, run, source, network = built(name, tmp_path)
  x, labels = pretrained_cases.inputs(network.shape[-1], network.num_classes)
  value = jax.jit(run.apply)(params_of(run, source), jnp.asarray(np.moveaxis(x, 1, -1)),
                             jnp.asarray(case["ell"], jnp.float32), jnp.asarray(labels))
  expected = np.moveaxis(case["value"], 1, -1)[..., :network.shape[-1]] * case.get("sign", 1.0)
  error = np.linalg.norm(np.reshape(value - expected, (len(x), -1)), axis=1)
  assert (error < 1e-5 * np.linalg.norm(expected.reshape(len(x), -1), axis=1)).all(), error
