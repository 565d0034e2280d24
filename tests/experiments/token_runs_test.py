"""Runs of tokens: train, resume, sample, fill in, evaluate and load by the one machinery."""

import itertools
import json
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner

import experiments
from experiments import config, data
from experiments.config import adapters, build, calls
from experiments.metrics import samples
from experiments.planning import model_flops
from experiments.run import assembly, meshes, records
from experiments.sweeping import arms, equivalence, layouts, measures
from langevin_jax import discrete, objectives, training

# Steps take no time beside their compilation, which a perceptron has little of.
TINY = ("--config=characters", "--config.data.length=8", "--config.network=mlp(width=16,depth=1)",
        "--config.training.batch_size=16", "--config.training.steps_per_dispatch=1",
        "--config.training.log_every=2", "--config.sampling.grid.n=4",
        "--config.evaluation.num_samples=20")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
  file = tmp_path_factory.mktemp("book") / "book.txt"
  file.write_text("the cat sat on the mat. " * 40)
  return f"--config.data.path={file}"


@pytest.fixture(scope="module")
def run(tmp_path_factory, book):
  """The workdir of a run of 6 steps, with a checkpoint every 3."""
  workdir = tmp_path_factory.mktemp("run") / "a"
  out = runner.succeed(
      "train", *TINY, book, f"--workdir={workdir}", "--config.training.steps=6",
      "--config.training.checkpoint_every=3", "--config.training.sample_every=3",
      "--config.training.evaluate_every=3", pictures=True)
  assert "kind tokens; 11 symbols" in out and "trained to step 6" in out
  return workdir


def test_a_run_that_resumes_has_the_same_parameters(run, tmp_path):
  """As after a kill: the newest checkpoint of the finished run is gone."""
  workdir = tmp_path / "b"
  shutil.copytree(run, workdir)
  shutil.rmtree(workdir / "checkpoints" / "6")
  before = runner.manifest(workdir)["sha256"], runner.unclocked(workdir)
  assert "at step 3 of 6" in runner.succeed("train", f"--workdir={workdir}")
  assert (runner.manifest(workdir)["sha256"], runner.unclocked(workdir)) == before


def test_a_training_writes_texts_and_the_bound_of_held_out_text(run):
  assert (run / "samples" / "00000006.txt").read_text().startswith("── sample 0")
  assert (run / "loss_by_level.png").is_file() and (run / "loss.png").is_file()
  lines = {line["step"]: line for line in records.read_metrics(run)}
  model = experiments.load(run)
  x = json.loads((run / "data.json").read_text())["vocabulary"]
  assert list(model.vocabulary) == x == sorted(set("the cat sat on the mat. "))
  # Hardly trained: about the bits of an even law.
  assert abs(lines[6]["held_out_loss"] - np.log(len(x))) < 0.5
  assert 0.0 < lines[6]["held_out_loss_error"] < 0.2


def test_samples_are_text_and_known_characters_stay(run, tmp_path):
  sample = lambda name, *flags: runner.succeed(
      "sample", f"--workdir={run}", f"--out={tmp_path / name}.npy", *flags)
  out = sample("x", "--num_samples=3", "--trajectory")
  x, states = np.load(tmp_path / "x.npy"), np.load(tmp_path / "x.trajectory.npy")
  model = experiments.load(run)
  texts = model.text(x)
  assert x.shape == (3, 8) and x.dtype == np.int32 and all(text in out for text in texts[:2])
  assert texts[0] in (tmp_path / "x.txt").read_text()
  # The trajectory of sample i is that of the .npy, from masks alone, and unmasks two at a time.
  np.testing.assert_array_equal(states[-1], x)
  np.testing.assert_array_equal((states == 11).sum(-1), 8 - 2 * np.arange(5)[:, None].repeat(3, 1))
  assert (tmp_path / "x.trajectory.txt").read_text().splitlines()[1] == "░" * 8
  assert json.loads((tmp_path / "x.json").read_text())["network_calls"] == 4

  sample("y", "--num_samples=4", "--known=at░░ m░")
  assert all(text.startswith("at") and text[4:6] == " m" for text in model.text(
      np.load(tmp_path / "y.npy")))
  np.save(tmp_path / "mask.npy", np.arange(8) % 2 == 0)
  sample("z", "--known=held_out", f"--mask={tmp_path / 'mask.npy'}", "--num_samples=2",
         "--sampler=corrected(step(1.0))")
  held_out = experiments.data.load(records.read_config(run).data).test
  np.testing.assert_array_equal(np.load(tmp_path / "z.npy")[:, ::2], held_out[:2, ::2])
  assert json.loads((tmp_path / "z.json").read_text())["network_calls"] == 8


REFUSED = {
    "--sampler=heun": "--sampler=heun is for numbers; of tokens there are step, ancestral",
    "--path=vp": "--path=vp: the run has learned the noise of absorbing",
    "--path=uniform": "--path=uniform: the run has learned",
    "--guidance=2": "--guidance needs data with labels, and text has none",
    "--moments": "--moments is for numbers",
    "--start_level=1": "--start_level is for numbers",
    "--encode=held_out": "--encode is for numbers",
    "--inpainting=lanpaint": "--inpainting is for numbers",
    "--mask=left": "--mask needs --known",
    "--known=held_out": "needs --mask beside it",
    "--known=zoo░": "'z' is not in the vocabulary of 11 symbols",
    "--known=the cat sat": "at most the 8 symbols of the model's length; it has 11",
    "--known=░░": "nothing is known",
    "--grid=optimised(5)": "optimised is for numbers",
    "--stochasticity=1": "unmask has no argument 'stochasticity'",
    "--steps=0": "--steps: must be at least 1",
    "--label=0": "the data of this run have no labels",
    "--pngs=p": "--pngs needs images",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_what_is_not_for_tokens_is_refused_in_one_line(flag, run, tmp_path):
  assert REFUSED[flag] in runner.refused(
      "sample", f"--workdir={run}", f"--out={tmp_path / 'x.npy'}", flag)
  assert not (tmp_path / "x.npy").exists()


def test_other_commands_answer_tokens_in_one_line(run, book, tmp_path):
  train = lambda *flags: runner.refused("train", *TINY, book, f"--workdir={tmp_path / 'r'}", *flags)
  assert "tokens have absorbing() or uniform()" in train(
      "--config.path=vp", "--config.sampling.sampler=ddim")
  assert "sampler=unmask is for tokens" in train("--config.path=vp")
  assert "set x0(); got velocity" in train("--config.objective.prediction=velocity()")
  assert "objective.flow_map is for numbers" in train("--config.objective.flow_map=eulerian()")
  assert "0 < rate_min < rate_max" in train("--config.path=absorbing(clock=geometric(2.0, 1.0))")
  assert "unmask needs the mask token" in train("--config.path=uniform")
  other = lambda data: runner.refused(
      "train", *(flag for flag in TINY if "data" not in flag), f"--workdir={tmp_path / 'r'}",
      f"--config.data={data}")
  assert "these data are numbers" in other("mixture2d(train_size=100,test_size=20)")
  assert "images" in other(f"augmented(text(path='{book.split('=')[1]}', length=8))")
  assert "features of numbers" in runner.refused(
      "evaluate", f"--workdir={run}", "--extractor=pixels")
  assert "of the ODE" in runner.refused("evaluate", f"--workdir={run}", "--divergence=exact")
  assert "no source of examples" in runner.refused(
      "array_records", "--data=text()", f"--out={tmp_path / 's'}")


@pytest.mark.parametrize("noise", ["absorbing()", "uniform()"])
def test_the_held_out_loss_of_a_sweep_is_the_bound(run, noise):
  """That of a network of any parameters, without what is beyond the ends of the levels."""
  settings = config.override(records.read_config(run), {
      "path": noise, "sampling.sampler": "step(0.0)"})
  prepared = assembly.prepare(settings)
  params = assembly.start(prepared).params
  params = jax.tree.map(lambda leaf: leaf + 0.1 * np.random.default_rng(0).normal(
      size=leaf.shape), params)
  draws = measures.held_out(prepared)
  row = build.prediction(settings.objective)
  found = jax.jit(lambda: measures.errors(prepared.apply, prepared.path)(
      row, 0, params, draws.x_0, draws.labels, draws.ells, draws.eps))()
  loss, error = measures.integral(draws, found)
  x = np.concatenate([prepared.dataset.test] * 20)
  denoise = lambda x, t: prepared.apply(
      params, x, prepared.path.clock.half_log_snr(t), jnp.zeros(len(x), int))
  nats = discrete.objectives.elbo(jax.random.key(0), denoise, prepared.path, x) / x.shape[1]
  assert 0.0 < error < 0.1 * loss
  assert abs(loss - float(nats.mean())) < 0.05 * loss


def test_arms_of_another_noise_have_a_program_of_their_own(book, tmp_path):
  base = config.override(config.load("characters"), {
      "data.path": book.split("=")[1], "data.length": "8"})
  file = tmp_path / "arms.py"
  file.write_text("def sweep(): return {'a': {}, 'again': {'objective.weight': 'likelihood'}, "
                  "'clock': {'path': 'absorbing(clock=cosine())'}, 'drawn': {'sampling.sampler': "
                  "'ancestral'}, 'even': {'path': 'uniform()', 'sampling.sampler': 'step(0.0)'}}")
  sweep = arms.load(str(file))
  found = arms.configs(base, sweep)
  layout = layouts.make(base, sweep, found, equivalence.find(found))
  assert layout.groups == [["a", "clock"], ["even"]]
  assert layout.model_of == {
      "a": "a", "again": "a", "clock": "clock", "drawn": "a", "even": "even"}
  with pytest.raises(ValueError, match=r"arm 'b': .*set x0"):
    arms.configs(base, arms.Sweep({"b": {"objective.prediction": "eps()"}}, "b", (0,)))


@pytest.mark.slow
def test_a_sweep_of_tokens_trains_and_judges_its_arms(book, tmp_path):
  (tmp_path / "arms.py").write_text(
      "SEEDS = (0,)\ndef sweep(): return {'a': {}, 'fast': {'training.learning_rate': 1e-2}, "
      "'sure': {'sampling.sampler': \"unmask('confidence')\"}}")
  workdir = tmp_path / "w"
  runner.succeed("sweep", *TINY, book, "--config.training.steps=60", f"--workdir={workdir}",
                 f"--sweep={tmp_path / 'arms.py'}")
  table = json.loads((workdir / "table.json").read_text())
  values = {row["arm"]: {name: found["mean"] for name, found in row["metrics"].items()}
            for row in table["arms"]}
  assert set(values["a"]) == {measures.LOSS, measures.NGRAM}
  assert values["fast"][measures.LOSS] < values["a"][measures.LOSS] < np.log(11.0)
  assert values["sure"][measures.LOSS] == values["a"][measures.LOSS]
  assert table["floors"][measures.NGRAM] < values["fast"][measures.NGRAM]
  text = (workdir / "report.md").read_text()
  assert "the bound of −log P over ρ from 0.0001 to inf, in nats a token" in text
  model = experiments.load(workdir / "arms" / "fast" / "seed_0")
  assert model.text(model.sample(jax.random.key(0), 1))[0]


def test_a_plan_takes_tokens(run):
  settings = records.read_config(run)
  shape, classes, kinds, vocabulary = data.shape_of(settings.data)
  assert (shape, classes, kinds, vocabulary) == ((8,), 0, {}, 11)
  mesh = meshes.make(config.Mesh(), jax.devices()[:1])
  flops = model_flops.of_step(settings, shape, classes, mesh, kinds, vocabulary)
  # At least twice the products of the first and last layer, 2 FLOPs each.
  assert flops > 16 * 2 * 2 * (8 * 12) * 16 * 2
  job = assembly.assemble(settings, shape, classes, mesh, kinds, vocabulary)
  batch = assembly.abstract_batch(shape, kinds, 16, vocabulary)
  assert batch[0].dtype == jnp.int32
  assembly.train_step(job).lower(
      assembly.abstract_state(job), jax.ShapeDtypeStruct((), jnp.uint32), batch)


def test_an_evaluation_has_bits_beside_an_n_gram_and_compressors(run, tmp_path):
  runner.succeed("evaluate", f"--workdir={run}", f"--out={tmp_path / 'e.json'}")
  found = json.loads((tmp_path / "e.json").read_text())["metrics"]
  names = ("nll_bound", "ngram", "gzip", "bz2", "xz", "samples_ngram")
  bits = {name: found[f"{name}_bits_per_token"] for name in names}
  # The text repeats itself, which all but the untrained network know.
  assert bits["ngram"]["value"] < 2.0 < 3.0 < bits["nll_bound"]["value"] < 4.5
  assert bits["nll_bound"]["error"] > 0.0 and bits["nll_bound"]["n"] == found[
      "ngram_bits_per_token"]["n"]
  assert "samples_ngram_bits_per_token" in samples.keys(
      assembly.prepare(records.read_config(run)).dataset, "text")
  assert bits["samples_ngram"]["floor"] == pytest.approx(bits["ngram"]["value"])
  assert found["nll_bound_nats"]["value"] == pytest.approx(
      bits["nll_bound"]["value"] * 8 * np.log(2.0))


def test_a_loaded_run_denoises_and_samples_tokens(run):
  model = experiments.load(run)
  x = np.full((2, 8), 11)
  x[0, 0] = 3
  law = model.denoise(x, alpha=0.3)
  np.testing.assert_allclose(law.sum(-1), 1.0, rtol=1e-5)
  np.testing.assert_array_equal(law[0, 0], np.eye(11)[3])
  for wrong in (dict(x=np.full((2, 7), 0), alpha=0.3), dict(x=np.full((2, 8), 12), alpha=0.3),
                dict(x=x, alpha=1.3), dict(x=x, alpha=0.3, sigma=0.7)):
    with pytest.raises(ValueError):
      model.denoise(**wrong)
  assert model.sample(jax.random.key(0), 2, sampler="ancestral()").shape == (2, 8)
  with pytest.raises(ValueError, match="learned the noise"):
    model.sample(jax.random.key(0), 2, path="vp()", sampler="ddim()")


def test_labels_guide_uniform_noise_of_the_users_own_tokens(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  load = lambda: {"train": rng.integers(0, 3, (60, 4)), "labels": np.arange(60) % 2,
                  "kind": "tokens", "vocabulary": ("red", "green", "blue")}
  monkeypatch.setitem(sys.modules, "toy_tokens", types.SimpleNamespace(load=load))
  own = (*(flag for flag in TINY if "data" not in flag), "--config.data=toy_tokens:load",
         "--config.path=uniform(clock='cosine()')", "--config.sampling.sampler=tau_leaping()",
         "--config.training.steps=1", "--config.training.batch_size=8")
  rng = np.random.default_rng(0)
  runner.succeed("train", *own, f"--workdir={tmp_path / 'a'}")
  rng = np.random.default_rng(0)
  out = runner.succeed("sample", f"--workdir={tmp_path / 'a'}", "--guidance=2", "--label=1",
                       "--num_samples=2", "--stochasticity=0.5", "--known=red ░ blue")
  assert all(line.startswith("red ") and line.split()[2] == "blue" for line in out.splitlines()
             if line.split(" ")[0] in ("red", "green", "blue"))
  rng = np.random.default_rng(0)
  assert "label_dropout > 0" in runner.refused(
      "train", *own, f"--workdir={tmp_path / 'b'}", "--config.training.label_dropout=0",
      "--config.sampling.guidance=2")
  rng = np.random.default_rng(0)
  assert "a weight alone" in runner.refused(
      "sample", f"--workdir={tmp_path / 'a'}", "--guidance=classifier_free(2,interval=(0.1,5))")


def test_a_network_of_sequences_reads_tokens_as_unit_vectors():
  path = discrete.paths.absorbing(3)
  network = adapters.of_tokens(adapters.Network(
      lambda key: jnp.ones(()), lambda params, x, ell, condition: params * x), path)
  logits = network.apply(jnp.ones(()), jnp.array([[0, 3, 2]]), jnp.zeros(1), None)
  np.testing.assert_allclose(logits, 2.0 * np.eye(4)[[[0, 3, 2]]][..., :3])
  made = build.network(calls.make("dit(width=8,depth=1,heads=1,patch_size=2)", "network", "n"),
                       (4,), 0, tokens=path)
  x, ell, labels = jnp.zeros((2, 4), int), jnp.zeros(2), jnp.zeros(2, int)
  out = jax.eval_shape(lambda key: made.apply(made.init(key), x, ell, labels), jax.random.key(0))
  assert out.shape == (2, 4, 3)


def test_the_loss_of_tokens_is_that_of_the_library_in_any_number_of_parts():
  path, density = discrete.paths.uniform(3), objectives.uniform_half_log_snr(
      rho_min=0.1, rho_max=10.0)
  apply = lambda params, x, ell, condition: params * jax.nn.one_hot(x, 3) + ell[:, None, None]
  loss = training.token_loss(apply, path, density=density, weight=objectives.simple(density))
  x, labels = np.array(list(itertools.product(range(3), repeat=2)))[:8], np.zeros(8, int)

  @jax.jit
  def values(key):
    examples = loss.draw(key, (x, labels))
    halves = [loss.value(0.7, jax.tree.map(lambda leaf, half=half: leaf[half], examples))[0]
              for half in (slice(4), slice(4, 8))]
    whole = discrete.objectives.loss(
        jax.random.split(key)[0], lambda x, ell: apply(0.7, x, ell, None), jnp.asarray(x), path,
        density=density, weight=objectives.simple(density))
    return loss(0.7, key, (x, labels)), halves, whole

  (value, levels), halves, (whole, found) = values(jax.random.key(0))
  np.testing.assert_allclose(value, np.mean(halves), rtol=1e-6)
  np.testing.assert_allclose(value, whole, rtol=1e-6)
  np.testing.assert_allclose(levels["eps_error"], found["error"], rtol=1e-6)
