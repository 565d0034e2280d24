"""Sampling from the command line: every choice by a flag, streams to disk, kills, trajectories."""

import dataclasses
import json
import signal
import time
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner

from experiments import config, data
from experiments.config import sampling_flags
from experiments.run import assembly, records
from experiments.sampling import drawing, resumable_npy, samplers_from_config
from langevin_jax import inpainting, paths, samplers

BATCH = 100


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  settings = config.override(config.load(str(runner.CONFIGS / "mixture2d.py")), {
      "data.train_size": 500, "data.test_size": 200, "network.width": 16, "network.depth": 1,
      "sampling.grid.n": 6, "sampling.batch_size": BATCH})
  return runner.untrained(tmp_path_factory.mktemp("sample") / "run", settings)


def test_codes_are_decoded_under_the_labels_of_their_encoding(tmp_path):
  """From the file beside them, in the record by name; --label goes before it."""
  settings = config.override(config.load(str(runner.CONFIGS / "toy2d.py")), {
      "data.train_size": 60, "data.test_size": 20, "network.width": 8, "network.depth": 1})
  run = runner.untrained(tmp_path / "run", settings)

  def sampled(name, *arguments):
    runner.succeed("sample", f"--workdir={run}", f"--out={tmp_path / name}.npy", "--steps=2",
                   "--num_samples=6", *arguments)
    return (np.load(tmp_path / f"{name}.labels.npy").tolist(),
            json.loads((tmp_path / f"{name}.json").read_text())["labels"])

  labels, _ = sampled("codes", "--encode=held_out")
  assert set(labels) == {0, 1}
  decode = f"--decode={tmp_path / 'codes.npy'}"
  assert sampled("back", decode) == (labels, "those of the codes")
  assert sampled("other", decode, "--label=1") == ([1] * 6, "1")
  np.save(tmp_path / "codes.labels.npy", np.ones(6, np.int32))
  assert sampled("back", decode) == ([1] * 6, "1")
  np.save(tmp_path / "codes.labels.npy", np.full(6, 3))
  assert "codes.labels.npy must have one label a code, in 0 … 2" in runner.refused(
      "sample", f"--workdir={run}", f"--out={tmp_path / 'no.npy'}", decode)


@pytest.mark.parametrize(("choice", "calls"), [
    ({"sampler": "euler_maruyama()"}, 7),
    ({"sampler": "multistep(order=3, stochasticity=0.5)", "brownian": True}, 7),
    ({"sampler": "unipc()"}, 7),
    ({"sampler": "adams_bashforth()", "grid": "explicit((9.0, 3.0, 1.0, 0.1))"}, 4),
    ({"sampler": "heun(churn=3, churn_min=0.1, churn_max=10, own_time=True)"}, 13),
    # The step to the clean end has one stage.
    ({"sampler": "singlestep(order=3)"}, 3 * 6 + 1),
    # Neither the first level nor the clean end is corrected.
    ({"sampler": "predictor_corrector(ddim(), exact(snr(0.1)), corrections=2)"}, 7 + 2 * 6),
    ({"sampler": "predictor_corrector(multistep(), baoab(friction=2))"}, 7 + 6),
    ({"sampler": "annealed_langevin(corrections=4)"}, 7 * 4 + 1),
    ({"guidance": 2.0}, 14),
    # ρ = 80, 24.4, 5.97, 1.1, .13, .0085, .002 (karras): two levels lie in (1, 10].
    ({"guidance": "classifier_free(2, interval=(1, 10))"}, 7 + 2),
    ({"guidance": 0.0}, 7),
])
def test_a_choice_costs_the_calls_that_its_method_says(choice, calls):
  sampling = config.Sampling(**{"grid": "karras(7)", **choice})
  samplers_from_config.check(sampling, paths.vp())
  assert samplers_from_config.network_calls(sampling, paths.vp()) == calls


def test_inpainting_costs_its_inner_iterations_at_every_level():
  one = np.ones((1, 1), np.float32)
  wrap = lambda outer: inpainting.lanpaint(5)(outer, one, one > 0.0)
  sampling = config.Sampling(grid="karras(4)")
  assert samplers_from_config.network_calls(sampling, paths.ve(), wrap) == 4 * (5 + 1)


def test_noise_is_taken_inside_its_interval_alone():
  """Of N(0, 1) data: nowhere is the ODE, everywhere is η, and else the plan has Λ = 0 outside."""
  grid, path = samplers.karras(12), paths.ve()
  rho = grid(path)

  def noise(eta):
    sampling = config.Sampling(sampler=f"ddim({eta})", grid="karras(12)")
    moved, grid, _ = samplers_from_config.process(sampling)
    return moved.plan(samplers.levels.place_levels(grid(path), path), path).c

  everywhere, nowhere = noise("1"), noise("noise_interval(1, 1e3, 1e4)")
  assert np.all(nowhere == 0.0) and np.all(everywhere[:-1] > 0.0)
  np.testing.assert_allclose(noise("noise_interval(1)")[:-1], everywhere[:-1], rtol=1e-6)
  some = noise("noise_interval(1, rho_max=10, rho_min=0.1)")
  outside = (rho[1:] > 10.0) | (rho[:-1] < 0.1)
  inside = (rho[1:] >= 0.1) & (rho[:-1] <= 10.0)
  assert outside.sum() >= 3 and inside.sum() >= 3
  assert np.all(some[outside] == 0.0)
  np.testing.assert_allclose(some[inside], everywhere[inside], rtol=1e-6)


def test_an_optimised_grid_is_found_once_and_an_adaptive_one_agrees(workdir, tmp_path):
  """Its levels are kept in the workdir; with so many steps it is near the ODE to a tolerance."""
  out = tmp_path / "a.npy"
  arguments = (f"--workdir={workdir}", "--num_samples=100", f"--out={out}", "--grid=optimised(8)",
               "--sampler=multistep(prediction='velocity', variable='angle')")
  code, said, err = runner.call("sample", *arguments)
  assert code == 0 and "optimising 8 levels" in said + err, err
  made = json.loads(out.with_suffix(".json").read_text())["sampling"]
  (found,) = json.loads((workdir / "grids.json").read_text()).values()
  assert made["grid"] == {"call": "explicit", "rho": found, "end": 0.0} and len(found) == 8
  x = np.load(out)
  code, said, err = runner.call("sample", *arguments)
  assert code == 0 and "optimising" not in said + err, err
  np.testing.assert_array_equal(np.load(out), x)
  code, _, err = runner.call("sample", *arguments[:3], "--sampler=adaptive",
                             "--sampler.tolerance=1e-4")
  assert code == 0, err
  assert np.quantile(np.abs(np.load(out) - x), 0.9) < 0.02 * np.std(x)
  # An untrained model, whose samples are nearly Gaussian: the SDE's have the ODE's spread.
  code, _, err = runner.call("sample", *arguments[:3], "--sampler=adaptive_sde(tolerance=0.1)")
  assert code == 0, err
  assert abs(np.log(np.load(out).std() / x.std())) < 0.5


@pytest.mark.parametrize(("own", "arguments", "wanted"), [
    ({"sampler": "heun(churn=5)"}, [], {}),
    ({"sampler": "heun(churn=5)"}, ["--sampler=unipc"], {"sampler": "unipc()"}),
    ({"sampler": "heun(churn=5, churn_min=0.1)"}, ["--sampler.churn=0"],
     {"sampler": "heun(churn_min=0.1)"}),
    ({"sampler": "heun(churn=5)"}, ["--sampler=ddim", "--stochasticity=1"], {"sampler": "ddim(1)"}),
    # An argument of both is kept by the name alone, and no parentheses say that there is none.
    ({"sampler": "multistep(order=3)"}, ["--sampler=unipc"], {"sampler": "unipc(order=3)"}),
    ({"sampler": "multistep(order=3)"}, ["--sampler=unipc()"], {"sampler": "unipc()"}),
    ({"sampler": "multistep(order=3)"}, ["--sampler.order=1", "--sampler=unipc"],
     {"sampler": "unipc(order=1)"}),
    ({"sampler": "annealed_langevin(corrections=9)"}, ["--sampler=ddim"], {"sampler": "ddim()"}),
    ({"sampler": "predictor_corrector(ddim(), baoab(0.3, friction=2))"},
     ["--sampler.corrector=exact", "--sampler.predictor.stochasticity=0.5"],
     {"sampler": "predictor_corrector(ddim(0.5), exact(0.3))"}),
    ({"grid": "shifted(30, shift=3)"}, ["--grid=cosine"], {"grid": "cosine(30)"}),
    ({"grid": "karras(30)"}, ["--steps=9", "--grid.rho_max=40"], {"grid": "karras(9, rho_max=40)"}),
    ({}, ["--grid=explicit((9, 1, .1))"], {"grid": "explicit((9, 1, 0.1))"}),
    ({"guidance": "classifier_free(3, interval=(0.1, 1))"}, ["--guidance.weight=1"],
     {"guidance": "classifier_free(1, interval=(0.1, 1))"}),
    ({"guidance": "classifier_free(3, interval=(0.1, 1))"}, ["--guidance=2"],
     {"guidance": "classifier_free(2)"}),
    ({"guidance": 3.0}, ["--guidance=none"], {"guidance": None}),
])
def test_a_flag_replaces_a_call_or_one_of_its_arguments(own, arguments, wanted):
  trained = config.Config(sampling=config.Sampling(**own))
  with runner.parsed("sample", *arguments):
    chosen = sampling_flags.config(trained).sampling
  assert chosen == dataclasses.replace(trained.sampling, **wanted)
  samplers_from_config.check(chosen, paths.vp())


def test_trajectory_is_that_of_the_samples(workdir, tmp_path):
  out = tmp_path / "x.npy"
  code, _, err = runner.call(
      "sample", f"--workdir={workdir}", "--num_samples=70", "--path=rectified_flow",
      "--sampler=predictor_corrector(multistep(stochasticity=1), exact())",
      "--grid=explicit((50,10,2,.5,.1))", "--moments", "--trajectory", f"--out={out}",
      pictures=True)
  assert code == 0, err
  made = json.loads(out.with_suffix(".json").read_text())
  x, run_back = np.load(out), np.load(tmp_path / made["trajectory"]["file"])
  assert run_back.shape == (6, 60, 2)
  # One batch of 60 and one of 70: the same samples to rounding.
  np.testing.assert_allclose(run_back[-1], x[:60], rtol=0, atol=1e-5)
  rho = np.array(made["trajectory"]["rho"])
  np.testing.assert_allclose(rho, [50.0, 10.0, 2.0, 0.5, 0.1, 0.0], rtol=1e-6)
  np.testing.assert_allclose(
      made["trajectory"]["sigma"], rho / (1.0 + rho), rtol=1e-6, atol=1e-12)
  assert made["network_calls"] == 5 + 4
  assert (tmp_path / f"{out.stem}.trajectories.png").stat().st_size > 1000

  # The first states have the law that --moments says, N(α m, α²S + σ²) in standard units: at
  # α = 1/51 that is nearly noise, and in the user's units its mean is α times the data's.
  dataset = assembly.prepare(records.read_config(workdir)).dataset
  alpha, sigma = 1.0 / 51.0, 50.0 / 51.0
  start = (run_back[0] - alpha * dataset.mean) / dataset.scale
  spread = np.sqrt(alpha**2 * dataset.train.var(0) + sigma**2)
  assert np.all(np.abs(start.mean(0) / spread) < 4.0 / np.sqrt(60))
  assert np.all(np.abs(start.std(0) / spread - 1.0) < 4.0 / np.sqrt(2 * 60))


def test_whitened_data_with_a_large_offset_come_back_in_their_own_units(tmp_path):
  x = np.random.default_rng(0).normal(size=(200, 2)) @ [[300.0, 1.0], [0.0, 0.5]] + 1.7e9
  np.save(tmp_path / "x.npy", x)
  np.save(tmp_path / "mask.npy", np.array([True, False]))
  workdir = runner.untrained(tmp_path / "run", config.override(
      config.load(str(runner.CONFIGS / "arrays.py")), {
          "data.path": str(tmp_path / "x.npy"), "data.scaling": "whiten", "network.width": 16,
          "network.depth": 1, "sampling.grid.n": 4, "sampling.sampler": "ddim"}))
  out = workdir / "samples.npy"
  code, _, err = runner.call("sample", f"--workdir={workdir}", "--num_samples=60", "--trajectory",
                             "--moments")
  assert code == 0, err
  drawn, run_back = np.load(out), np.load(workdir / "samples.trajectory.npy")
  assert drawn.dtype == run_back.dtype == np.float64
  assert len(np.unique(drawn[:, 0])) == len(np.unique(drawn[:, 1])) == 60
  np.testing.assert_allclose(run_back[-1], drawn, rtol=0, atol=1e-3)
  # An untrained model leaves the first states' law, the data's moments: its spread in their units.
  assert np.all(np.abs(np.log(drawn.std(0) / x.std(0))) < 1.0)
  code, _, err = runner.call("sample", f"--workdir={workdir}", "--known=held_out",
                             f"--mask={tmp_path / 'mask.npy'}")
  assert code == 2 and "trained with data.scaling=whiten" in err and err.count("\n") == 1


def test_a_killed_command_goes_on_to_the_same_samples(workdir, tmp_path):
  out, n = tmp_path / "x.npy", 30_000
  partial, progress = out.with_name("x.npy.partial"), out.with_name("x.npy.progress")
  command = ("sample", f"--workdir={workdir}", f"--num_samples={n}", "--sampler=ddim",
             "--stochasticity=1", f"--out={out}", "--seed=5")
  done = 0
  for _ in range(2):
    process, wanted = runner.start(*command), done + 2 * BATCH
    deadline = time.monotonic() + 120.0
    while done < wanted and process.poll() is None and time.monotonic() < deadline:
      done = json.loads(progress.read_text())["done"] if progress.exists() else 0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert wanted <= done < n and not out.exists() and partial.exists()
  done = json.loads(progress.read_text())["done"]
  whole = partial.read_bytes()[:128 + 8 * done]  # the header, and 8 bytes a sample

  # A different command keeps its hands off.
  code, _, err = runner.call(*command, "--steps=7")
  assert code == 2 and "--steps: 6 → 7" in err and "delete" in err, err
  assert partial.read_bytes()[:len(whole)] == whole

  code, stdout, err = runner.call(*command)
  assert code == 0, err
  assert f"going on with {out} at sample {done} of {n}" in stdout
  assert not partial.exists() and not progress.exists() and out.read_bytes()[:len(whole)] == whole
  run, state = assembly.trained(workdir)
  sampling = dataclasses.replace(run.config.sampling, sampler="ddim(1)")
  x = drawing.draw(run, state.ema[0], sampling, run.path, assembly.even_labels(run, n), seed=5)
  np.testing.assert_array_equal(np.load(out), x)


def test_what_is_not_finite_is_not_left_behind(workdir, tmp_path, monkeypatch):
  whole = assembly.restored
  monkeypatch.setattr(assembly, "restored", lambda *arguments, **options: whole(
      *arguments, **options)._replace(
          ema=jax.tree.map(lambda leaf: leaf * jnp.nan, whole(*arguments).ema)))
  code, _, err = runner.call("sample", f"--workdir={workdir}", f"--out={tmp_path / 'x.npy'}")
  assert code == 2 and "100 of samples 0…99 are not finite" in err
  assert list(tmp_path.iterdir()) == []


def test_samples_begin_and_end_where_they_are_asked_to(workdir, tmp_path):
  """Codes decode to what was encoded; SDEdit keeps what its level leaves; rises are drawn."""
  run = assembly.prepare(records.read_config(workdir))
  held_out = data.restore(run.dataset, run.dataset.test)

  def sampled(name, *arguments):
    code, said, err = runner.call(
        "sample", f"--workdir={workdir}", f"--out={tmp_path / name}.npy", *arguments)
    assert code == 0, (said, err)
    return np.load(tmp_path / f"{name}.npy")

  exact = "--sampler=singlestep", "--sampler.order=3", "--steps=30"
  codes = sampled("codes", "--encode=held_out", *exact)
  assert codes.shape == (200, 2) and not (tmp_path / "codes.png").exists()
  back = sampled("back", f"--decode={tmp_path / 'codes.npy'}", *exact)
  np.testing.assert_allclose(back, held_out, atol=2e-2 * np.std(held_out))
  edited = sampled("edited", "--start=held_out", "--start_level=0.01", "--step=1")
  assert np.std(edited - held_out) < 0.1 * np.std(held_out)
  noisy = sampled("noisy", "--stop_level=2", "--path=ve", "--num_samples=300")
  assert np.std(noisy) > 1.5 * float(run.dataset.scale)
  sampled("risen", "--grid=explicit((20,5,1,5,1,.2))", "--num_samples=20")
  assert json.loads((tmp_path / "edited.json").read_text())["begin"]["start"] == "held_out"
  for arguments, says in (
      (("--step=9",), "--step must be one of the checkpoints"),
      (("--start=held_out",), "--start needs --start_level"),
      (("--start_level=2",), "--start_level needs --start"),
      (("--encode=held_out", "--sampler=ddim", "--stochasticity=1"), "follows the ODE"),
      (("--encode=held_out", "--decode=x.npy"), "cannot be given with decode"),
      (("--start=absent.npy", "--start_level=1"), "--start must name an existing file"),
      (("--stop_level=200",), "below the grid's first level")):
    code, _, err = runner.call("sample", f"--workdir={workdir}", f"--out={tmp_path / 'no.npy'}",
                               *arguments)
    assert code == 2 and says in err and err.count("\n") == 1, (arguments, err)
    assert not list(tmp_path.glob("no.*"))


def test_streams(tmp_path):
  """Rows count once they are whole; torn ones, lost ones and other commands are told apart."""
  file, rows = tmp_path / "deep" / "x.npy", np.arange(24.0, dtype=np.float32).reshape(8, 3)
  stream = resumable_npy.Stream(file, rows.shape, {"seed": 0})
  stream.write(rows[:2])
  stream.close()
  with (file.parent / "x.npy.partial").open("ab") as partial:
    partial.write(b"torn")

  with pytest.raises(ValueError, match=r"2 of 8 done: seed: 0 → 1 \(there → here\); finish it"):
    resumable_npy.Stream(file, rows.shape, {"seed": 1})
  with pytest.raises(ValueError, match=r"shape: \[8, 3\] → \[9, 3\]"):
    resumable_npy.Stream(file, (9, 3), {"seed": 0})

  stream = resumable_npy.Stream(file, rows.shape, {"seed": 0})
  assert stream.done == 2
  stream.write(rows[2:])
  stream.finish()
  np.testing.assert_array_equal(np.load(file), rows)
  # Killed before what belongs beside it was written: nothing is drawn again.
  assert resumable_npy.Stream(file, rows.shape, {"seed": 0}).done == 8
  stream.forget()
  assert [path.name for path in file.parent.iterdir()] == ["x.npy"]

  # A finished array is no part of the next command's, nor is a partial one that is too short.
  for _ in range(2):
    stream = resumable_npy.Stream(file, rows.shape, {"seed": 0})
    assert stream.done == 0
    stream.write(rows[:5])
    stream.close()
    partial = file.parent / "x.npy.partial"
    partial.write_bytes(partial.read_bytes()[:-1])
  np.testing.assert_array_equal(np.load(file), rows)


def test_memory_does_not_grow_with_what_is_written(tmp_path):
  def peak(n):
    tracemalloc.start()
    stream = resumable_npy.Stream(tmp_path / f"{n}.npy", (n, 1000), {})
    for _ in range(n // 100):
      stream.write(np.ones((100, 1000), np.float32))
    stream.finish()
    return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

  # 2 MB and 20 MB of samples.
  small, large = peak(500)[0], peak(5000)[0]
  assert large < 1.2 * small


def test_a_disk_without_room_is_said_before_anything_is_drawn(tmp_path, monkeypatch):
  monkeypatch.setattr(resumable_npy.shutil, "disk_usage", lambda place: type("", (), {"free": 100}))
  with pytest.raises(OSError, match=r"disk full: .* takes 1,200 bytes more, 100 are free"):
    resumable_npy.Stream(tmp_path / "x.npy", (100, 3), {})
  assert list(tmp_path.iterdir()) == []


def test_conditions_come_from_files_or_examples_or_are_null(tmp_path, monkeypatch):
  """What is given goes beside the samples, and the likelihood and the metrics have it too."""
  (tmp_path / "my_conditioned.py").write_text(
      "import numpy as np\n"
      "def load():\n"
      "  x = np.random.default_rng(0).normal(size=(60, 2))\n"
      "  return {'train': x[:40], 'test': x[40:], 'labels': np.arange(40) % 2,\n"
      "          'test_labels': np.arange(20) % 2, 'conditions': {'size': 2.0 * x[:40, :1]},\n"
      "          'test_conditions': {'size': 2.0 * x[40:, :1]}}\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  workdir = runner.untrained(tmp_path / "run", config.override(
      config.load(str(runner.CONFIGS / "arrays.py")), {
          "data": "my_conditioned:load()", "network.width": 8, "network.depth": 1,
          "sampling.grid.n": 2, "sampling.sampler": "ddim"}))
  np.savez(tmp_path / "given.npz", size=np.linspace(0.0, 1.0, 3)[:, None], label=1)

  def sample(*arguments):
    out = tmp_path / "x.npy"
    runner.succeed("sample", f"--workdir={workdir}", f"--out={out}", "--num_samples=3", *arguments)
    with np.load(out.with_suffix(".conditions.npz")) as made:
      return dict(made), np.load(out.with_suffix(".labels.npy"))

  made, labels = sample(f"--condition={tmp_path / 'given.npz'}")
  np.testing.assert_allclose(made["size"][:, 0], [0.0, 0.5, 1.0])
  assert made["size_mask"].all() and labels.tolist() == [1, 1, 1]
  # A killed command goes on with the same arrays only, not with those of another file of the name.
  record = json.loads((tmp_path / "x.json").read_text())
  assert record["condition_sha256"] == records.sha256(made)
  made, labels = sample("--condition=label=0")
  assert not made["size_mask"].any() and labels.tolist() == [0, 0, 0]
  made, labels = sample("--condition=null")
  assert not made["size_mask"].any() and labels.tolist() == [2, 2, 2]
  made, labels = sample()
  assert np.unique(made["size"]).size == 3 and labels.tolist() == [0, 1, 0]
  for arguments, says in (
      (("--condition=null", "--label=1"), "give one of them"),
      (("--condition=label=4",), "--condition: label must be a class in 0 … 1"),
      ((f"--condition={tmp_path / 'none.npz'}",), "--condition must name an existing file")):
    assert says in runner.refused("sample", f"--workdir={workdir}", *arguments)
  runner.succeed("evaluate", f"--workdir={workdir}", "--num_samples=20", "--likelihood",
                 "--likelihood_samples=4", "--likelihood_steps=2")
