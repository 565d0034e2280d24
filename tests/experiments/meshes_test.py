"""One model on meshes of eight devices: the same training, stored and gathered piece by piece."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
from jax.sharding import PartitionSpec
from runner import SMALL

from experiments import config
from experiments.run import meshes
from langevin_jax.training import shardings

SPLIT = ("data", "fsdp", "tensor", "mixed")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  """What `mesh_worker` has measured, in a process of eight devices."""
  worker, directory = runner.ROOT / "tests" / "mesh_worker.py", tmp_path_factory.mktemp("meshes")
  done = subprocess.run(
      [sys.executable, str(worker), str(directory)], text=True, timeout=900,
      capture_output=True, env=os.environ | {"PYTHONPATH": f"{runner.ROOT}:{worker.parent}"})
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_losses_are_those_of_one_device(report):
  """Sums over devices run in another order: rounding alone, 1e-5 after 10 steps."""
  assert np.ptp(report["one"]["losses"]) > 0.1
  for name in SPLIT:
    np.testing.assert_allclose(report[name]["losses"], report["one"]["losses"], rtol=1e-5)


@pytest.mark.slow
def test_u_nets_on_eight_devices_learn_what_they_learn_on_one(report):
  """Data, fsdp and tensor two each: most of a state is in four parts."""
  assert set(report["unets"]) == {"unet", "unet_edm2"}
  for name, found in report["unets"].items():
    one, mixed = found["losses"]
    assert np.ptp(one) > 0.01, name
    np.testing.assert_allclose(mixed, one, rtol=1e-5, err_msg=name)
    assert found["share"] < 0.5, name


@pytest.mark.slow
def test_samplers_and_likelihoods_run_inside_shard_map(report):
  """With its check of what varies over the mesh; each device has its own keys and nothing else."""
  assert len(report["shard_map"]) == 17
  for name, apart in report["shard_map"].items():
    assert apart < 1e-4, (name, apart)


@pytest.mark.slow
def test_all_start_with_the_same_bits_and_the_same_mesh_ends_with_them(report):
  assert len(set(report["starts"].values())) == 1
  assert report["mixed"]["sha256"] == report["mixed"]["sha256 again"]
  assert report["mixed"]["sha256"] != report["starts"]["mixed"]


@pytest.mark.slow
def test_checkpoints_of_all_meshes_are_restored_on_another_bitwise(report):
  assert len(report["restored"]) == 9
  assert all(report["restored"].values())


@pytest.mark.slow
def test_samples_are_those_of_one_device(report):
  """Parameters are 1e-6 apart after training; few whole grey levels fall to the other side."""
  one = np.asarray(report["one"]["samples"])
  assert one.std() > 1.0
  assert np.mean(np.asarray(report["mixed"]["samples"]) != one) < 0.01


@pytest.mark.slow
def test_a_device_holds_its_share_and_gathers_a_layer_at_a_time(report):
  """All that eight divides is split in eight; biases, positions and small kernels are not."""
  assert not report["one"]["collectives"]
  most = {"data": 1.0, "fsdp": 0.2, "mixed": 0.5, "tensor": 0.75}
  for name in SPLIT:
    share = report[name]["bytes_on_a_device"] / report["one"]["bytes_on_a_device"]
    assert share == 1.0 if name == "data" else share < most[name], name
    assert max(report[name]["collectives"]["all-gather"]) <= 6 * 32 * 32


@pytest.mark.slow
def test_programs_communicate_what_they_should(report):
  """And a batch in four parts is the batch."""
  np.testing.assert_allclose(report["accumulated"], report["one"]["losses"], rtol=1e-5)
  parameters, width = report["parameters"], 32
  data, fsdp, tensor = (report[name]["collectives"] for name in ("data", "fsdp", "tensor"))
  # Data-parallel: gradients are added up, once each (a block's within the loop over three), and
  # beside them only scalars and the levels of the batch are.
  assert 1.0 <= (max(data["all-reduce"]) * 3 + sum(data["all-reduce"][1:])) / parameters < 1.1
  assert max(data["all-gather"]) <= 32 and set(data) <= {"all-gather", "all-reduce"}
  # Fully sharded: weights are gathered one layer at a time, the largest being a block's modulation
  # (width × 6 width), never the stack of three, and never the model.
  assert max(fsdp["all-gather"]) == 6 * width * width < parameters / 3
  assert sum(fsdp["all-gather"]) > 18 * width * width / 2
  # Tensor-parallel: activations of a part of the batch, (32/2 · 16, width), are added up; no weight
  # is gathered.
  assert max(tensor["all-gather"]) <= 32
  assert tensor["all-reduce"].count(32 // 2 * 16 * width) == 4


def test_the_table_says_where_an_array_lies():
  mesh = jax.sharding.AbstractMesh((2, 4, 2), shardings.AXES)  # no devices, for rules alone
  for name, shape, expected in (
      ("params/blocks/qkv/kernel", (3, 8, 24), (None, "fsdp", "tensor")),
      ("opt_state/1/0/mu/blocks/merge/kernel", (3, 8, 8), (None, "tensor", "fsdp")),
      ("ema/0/blocks/hidden/bias", (3, 32), (None, "tensor")),
      ("params/blocks/modulation/kernel", (3, 8, 48), (None, "fsdp", None)),
      ("params/output/kernel", (6, 4), (None, None)),  # 4 does not divide 6
      ("params/blocks/gate/kernel", (3, 8, 24), (None, "fsdp", "tensor")),
      ("params/down_0_1/back/weight", (3, 3, 8, 8), (None, None, "tensor", "fsdp")),
      ("params/down_0_1/skip/weight", (8, 6), ("fsdp", None)),
      ("params/second_1/kernel", (8, 8), ("tensor", "fsdp")),
      ("params/blocks/cross/query/kernel", (3, 8, 8), (None, "fsdp", "tensor")),
      ("params/middle_0/cross/key_value/kernel", (8, 16), ("fsdp", "tensor")),
      ("params/blocks/cross/key_value/bias", (3, 16), (None, "tensor")),
      ("params/middle_0/cross/attended/kernel", (8, 8), ("tensor", "fsdp")),
      ("params/blocks/cross/attended/bias", (3, 8), (None, None)),
      ("params/blocks/modulation/bias", (3, 48), (None, None)),
      ("params/position", (16, 8), (None, None)), ("opt_state/1/0/count", (), ()),
      ("step", (), ())):
    assert shardings.spec(name, shape, mesh) == PartitionSpec(*expected), name


def test_activations_are_left_alone_on_one_device_and_where_they_do_not_divide():
  one = meshes.make(config.Mesh(), jax.devices()[:1])
  x = jnp.zeros((3, 2))
  assert shardings.constrain(one)(x) is x
  assert shardings.batch_shards(one) == 1


@pytest.mark.parametrize(("fields", "message"), [
    (["--config.mesh.fsdp=3"], "config.mesh: data=-1 × fsdp=3 × tensor=1 does not fit 2 devices"),
    (["--config.mesh.data=1"], "the product must be 2"),
    (["--config.mesh.fsdp=-1"], "only one of data, fsdp can be -1"),
    (["--config.mesh.tensor=0"], "config.mesh.tensor: must be positive, or -1"),
    (["--config.training.batch_size=33"], "batch_size: 33 must be divisible by 2"),
    (["--config.training.accumulation=3"], "must be divisible by 6 = accumulation=3 × mesh data=2"),
    (["--config.training.accumulation=0"], "training.accumulation: must be at least 1"),
    (["--config.training.dispatches_in_flight=0"], "dispatches_in_flight: must be at least 1"),
    (["--config.training.ema_half_life_steps="], "ema_half_life_steps must name at least one"),
])
def test_bad_meshes_and_batches_are_one_line_each(tmp_path, monkeypatch, fields, message):
  monkeypatch.setattr(jax, "devices", lambda: [jax.local_devices()[0]] * 2)
  assert message in runner.refused("train", *SMALL, *fields, f"--workdir={tmp_path / 'run'}")
  assert not (tmp_path / "run").exists()
