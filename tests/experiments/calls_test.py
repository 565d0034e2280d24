"""A choice is a call: parsing, binding, types, JSON, overrides, help, functions of one's own."""

import dataclasses
import importlib
import json
import math
import pathlib
import sys

import numpy as np
import pytest
import runner

from experiments import config
from experiments.config import calls, slots
from experiments.run import assembly, records
from experiments.sweeping import arms, equivalence, layouts
from langevin_jax import _runner

SHIPPED = sorted(runner.CONFIGS.glob("[a-z]*.py"))


def refusal(value, slot, field="config.x"):
  """The one line with which a call is refused, which begins with the field."""
  with pytest.raises(ValueError) as caught:
    calls.make(value, slot, field)
  message = str(caught.value)
  assert message.startswith(field) and "\n" not in message and len(message) < 400, message
  return message


@pytest.mark.parametrize(("text", "slot", "arguments"), [
    ("euler", "sampler", {}), (" euler( ) ", "sampler", {}),
    ("ddim(0.5)", "sampler", {"stochasticity": 0.5}),
    ("ddim(stochasticity = 1)", "sampler", {"stochasticity": 1.0}),
    ("heun(churn=3, own_time=True)", "sampler", {"churn": 3.0, "own_time": True}),
    ("heun(churn_max=inf)", "sampler", {"churn_max": math.inf}),
    ("heun(churn_max=1e400)", "sampler", {"churn_max": math.inf}),
    ("multistep(3, prediction='velocity')", "sampler", {"order": 3, "prediction": "velocity"}),
    ("explicit((80, 20, 5))", "grid", {"rho": (80.0, 20.0, 5.0)}),
    ("explicit([80, 20])", "grid", {"rho": (80.0, 20.0)}),
    ("explicit(5)", "grid", {"rho": (5.0,)}),
    ("explicit((inf, 3))", "grid", {"rho": (math.inf, 3.0)}),
    # Of arguments that Python wants by name, those without a default go without one.
    ("optimised(8, rounds=2)", "grid", {"n": 8, "rounds": 2}),
    ("classifier_free(2, interval=(0.2, 5))", "guidance", {"weight": 2.0, "interval": (0.2, 5.0)}),
    ("classifier_free(2, interval=(0.2, inf))", "guidance", {"interval": (0.2, math.inf)}),
    ("2", "guidance", {"weight": 2.0}), (2, "guidance", {"weight": 2.0}),
    (np.float32(0.5), "guidance", {"weight": 0.5}), ("-1.5", "guidance", {"weight": -1.5}),
    (r"arrays('a b,(c\'.npy', holdout=.3)", "data", {"path": "a b,(c'.npy", "holdout": 0.3}),
    ('digits(path="x=(1).npz")', "data", {"path": "x=(1).npz"}),
    ("images('x', shape=(8, 8.0, 3))", "data", {"shape": (8, 8, 3)}),
    ("digits(shape=8)", "data", {"shape": (8,)}),
    ("from_table((0, 1, 2), betas=(.1, .2))", "path", {"times": (0, 1, 2), "betas": (0.1, 0.2)}),
    ({"call": "dit", "width": np.int64(96)}, "network", {"width": 96}),
    ("dit(width='96', remat='true')", "network", {"width": 96, "remat": True}),
    ("optax:lion(b1=0.5)", "optimizer", {"b1": 0.5, "b2": 0.99}),
])
def test_a_call_is_read_and_its_own_text_and_json_mean_the_same(text, slot, arguments):
  made = calls.make(text, slot, "x")
  assert {name: made[name] for name in arguments} == arguments
  for name, value in arguments.items():
    assert type(made[name]) is type(value)
  assert calls.make(str(made), slot, "x") == made == calls.make(made, slot, "x")
  stored = json.loads(json.dumps(calls.to_plain(made), allow_nan=False))
  assert calls.make(stored, slot, "x") == made
  assert calls.make(calls.short(made, slot), slot, "x") == made


@pytest.mark.parametrize(("text", "inner"), [
    ("predictor_corrector(heun(churn=2), euler(budget=0.2))",
     {"predictor": ("heun", "churn", 2.0), "corrector": ("euler", "budget", 0.2)}),
    ("predictor_corrector('heun', corrector='baoab(friction=2)')",
     {"predictor": ("heun", "churn", 0.0), "corrector": ("baoab", "friction", 2.0)}),
    ("ddim(noise_interval(0.7, 0.1, 10))", {"stochasticity": ("noise_interval", "rho_max", 10.0)}),
    ("annealed_langevin('midpoint')", {"corrector": ("midpoint", "budget", 0.2)}),
])
def test_calls_nest(text, inner):
  made = calls.make(text, "sampler", "x")
  for key, (name, argument, value) in inner.items():
    assert made[key].name == name and made[key][argument] == value
  assert calls.make(str(made), "sampler", "x") == made
  assert calls.make(json.loads(json.dumps(calls.to_plain(made))), "sampler", "x") == made


def test_a_call_deep_inside_is_read_and_replaced():
  text = "predictor_corrector(ddim(), exact(snr(0.2)))"
  made = calls.make(text, "sampler", "x")
  assert made["corrector"]["budget"]["ratio"] == 0.2
  other = calls.replace(made, ["corrector", "budget", "ratio"], "0.3", "sampler", "x")
  assert other == calls.make(text.replace("0.2", "0.3"), "sampler", "x")
  with pytest.raises(ValueError, match=r"^x\.predictor\.churn: ddim has no argument 'churn'"):
    calls.replace(made, ["predictor", "churn"], 1, "sampler", "x")
  with pytest.raises(ValueError, match=r"^x\.predictor\.stochasticity: there is no call yet"):
    calls.replace(made, ["predictor", "stochasticity", "rho_min"], 1, "sampler", "x")


@pytest.mark.parametrize(("value", "slot", "said"), [
    ("heun(", "sampler", "expected a call of literals such as"),
    ("heun()()", "sampler", "a call of literals"), ("heun;", "sampler", "a call of literals"),
    ("", "sampler", "a call of literals"), ("a:b:c", "sampler", "a call of literals"),
    ("heun(2 + 3)", "sampler", "a call of literals"),
    ("heun(*[1])", "sampler", "a call of literals"),
    ("heun(**{})", "sampler", "a call of literals"), ("heun(" * 2000, "sampler", "a call of lit"),
    ("karras(n=5, n=6)", "grid", "a call of literals"), ("arrays(x)", "data", "a call of literals"),
    ("dit(width=2**40)", "network", "a call of literals"),
    ("heun(__import__('os'))", "sampler", "churn of heun is no call, got __import__"),
    ("multistep(3, 0, order=2)", "sampler", "multistep got order twice"),
    ("explicit(80, 20)", "grid", "explicit(rho, end=0.0) takes 1 arguments without a name, got 2"),
    ("karras", "grid", "karras(n, rho_min=0.002, rho_max=80.0, curvature=7.0) needs n"),
    ("karas(5)", "grid", "no grid 'karas' (did you mean karras?); there are ancestral, "),
    ("heun(chrun=3)", "sampler", "x.chrun: heun has no argument 'chrun' (did you mean churn?)"),
    ("euler(1)", "sampler", "euler() takes 0 arguments without a name"),
    ("predictor_corrector(heun(), eulr())", "sampler", "x.corrector: no corrector 'eulr' (did you"),
    ("predictor_corrector(heun(), euler(budgte=1))", "sampler", "x.corrector.budgte: euler has no"),
    ("predictor_corrector(heun(), 3)", "sampler", "x.corrector: expected a call such as baoab("),
    ("ancestral(None)", "grid", "x.grid: expected a call such as"),
    ("heun(churn=nan)", "sampler", "x.churn must be finite, got nan"),
    ("ddim(None)", "sampler", "x.stochasticity: expected a number, got None"),
    ("ddim((1, 2))", "sampler", "x.stochasticity: expected a number, got (1, 2)"),
    ("from_table('x')", "path", "x.times: expected a number"),
    ("dit(width=1099511627776)", "network", "x.width: must lie in [−2³¹, 2³¹), got 1099511627776"),
    ("dit(remat=1)", "network", "x.remat: expected true or false, got 1"),
    ("dit(dtype='float16')", "network", "x.dtype: expected one of float32, bfloat16, got 'f"),
    (3, "network", "expected a call such as mlp(width=128"), ([1], "network", "expected a call"),
    (True, "guidance", "expected a call"), (None, "grid", "expected a call such as"),
    ({"width": 3}, "network", "expected a call"), ({"call": 3}, "network", "expected a call"),
    (config.Training(), "network", "expected a call"),
    ("os:zzzz", "network", "module 'os' has no attribute 'zzzz'"),
    ("os:path.joim", "network", "module 'os' has no attribute 'path.joim' (did you mean join?)"),
    ("no.such:f", "network", "module 'no.such' cannot be imported: ModuleNotFoundError"),
    ("math:pi", "network", "math:pi is no function but 3.14"),
    ("builtins:dict(a=1)", "network", "builtins:dict has no signature"),
])
def test_what_is_no_call_is_refused_in_one_line(value, slot, said):
  assert said in refusal(value, slot)


def test_none_is_a_choice_where_one_may_do_without():
  for value in (None, "none", "None"):
    assert calls.make(value, "guidance", "x") is None
  assert config.override(config.Config(sampling=config.Sampling(guidance=2)), {
      "sampling.guidance": "none"}).sampling.guidance is None


def test_what_nothing_fills_in_is_said_when_it_is_built():
  for text, slot, said in (("ancestral(optimised(5))", "grid", "x.grid: optimised needs key"),
                           ("predictor_corrector(adaptive(), exact())", "sampler", "needs key")):
    with pytest.raises(ValueError, match=said):
      calls.build(calls.make(text, slot, "x"), slot, "x")


def with_field(name, value):
  """A config as a Python file makes it."""
  group, _, field = name.rpartition(".")
  if not group:
    return config.Config(**{field: value})
  return config.Config(**{group: getattr(config, group.title())(**{field: value})})


@pytest.mark.parametrize(("name", "value", "wanted"), [
    ("training.steps", 20.0, 20), ("training.steps", "20", 20), ("seed", np.array(3), 3),
    ("training.steps", np.int64(20), 20), ("training.learning_rate", np.float32(0.5), 0.5),
    ("training.learning_rate", 1, 1.0), ("training.learning_rate", "1e-3", 1e-3),
    ("sampling.moments", np.bool_(True), True), ("sampling.moments", "false", False),
    ("training.ema_half_life_steps", [8, np.int8(1)], (8.0, 1.0)),
    ("training.ema_half_life_steps", np.array([3.0, 1.0]), (3.0, 1.0)),
    ("training.ema_half_life_steps", "3,1", (3.0, 1.0)), ("training.ema_relative_std", "", ()),
    ("training.ema_half_life_steps", 5, (5.0,)), ("sampling.stop_level", math.inf, math.inf),
    *(("training.steps", value, None) for value in (
        20.5, "20.5", "many", None, True, [20], {}, math.nan, math.inf, 2**31, 10**400)),
    *(("training.learning_rate", value, None) for value in (
        "fast", None, False, math.nan, 10**400, 1j, [1.0])),
    ("sampling.moments", 1, None), ("sampling.moments", "yes", None),
    ("training.ema_half_life_steps", (3.0, math.nan), None),
    ("training.ema_half_life_steps", "3,x", None), ("network", {}, None), ("network", None, None),
    ("network", {"width": 3}, None), ("network", config.Training(), None), ("network", 3, None),
    ("objective", {"weight": "edm()"}, None), ("training", None, None),
    ("objective.weight", "p2(gamma=nan)", None), ("evaluation.seed", object(), None)],
    # An address differs between the processes of a test run.
    ids=lambda value: "object" if type(value) is object else f"{value!r:.30}")
def test_configs_of_python_files_have_the_types_of_overrides(name, value, wanted):
  if wanted is None:
    with pytest.raises(ValueError, match=rf"^config\.{name}\b") as caught:
      with_field(name, value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return
  made = with_field(name, value)
  found = dict(config.flatten(made))[name]
  assert found == wanted and type(found) is type(wanted)
  assert config.override(config.Config(), {name: value}) == made
  # What trains can be resumed, and its file is JSON for every reader.
  text = config.to_json(made)
  json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
  assert config.from_json(text) == made


def test_a_python_file_with_a_wrong_value_ends_in_one_line_that_names_the_field(tmp_path):
  for text, said in (
      ("Config(training=Training(steps=20.5))", "config.training.steps: expected an integer"),
      ("Config(network={'width': 3})", "config.network: expected a call such as mlp("),
      ("Config(network='dit(width=None)')", "config.network.width: expected an integer, got None"),
      ("Config(data='digit()')", "config.data: no data 'digit' (did you mean digits?)"),
      ("Config(training=3)", "config.training: expected a Training, got 3")):
    (tmp_path / "mine.py").write_text(
        f"from experiments.config import Config, Training\nget_config = lambda: {text}\n")
    code, out, err = runner.call("train", f"--config={tmp_path / 'mine.py'}",
                                 f"--workdir={tmp_path / 'run'}")
    assert code == 2 and not out and err.count("\n") == 1 and said in err, err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_configs_come_back_from_json_and_from_overrides(file):
  made = config.load(file.stem)  # by its name
  assert made == config.load(str(file)) == config.from_json(config.to_json(made))
  assert config.override(made, dict(config.flatten(made))) == made
  base = config.Config(training=config.Training(ema_relative_std=(0.1,)))
  assert config.override(base, config.overrides(base, made)) == made
  assert config.override(made, config.overrides(made, base)) == base
  assert not config.difference(made, made) and not config.overrides(made, made)


def test_a_difference_is_of_arguments_where_the_function_is_the_same():
  old = config.load("digits")
  new = config.override(old, {"network.width": 8, "sampling.sampler": "ddim(1)", "seed": 3})
  assert config.difference(old, new) == [
      "network.width: 96 → 8", "sampling.sampler: 'heun' → 'ddim'", "seed: 0 → 3"]
  assert set(config.overrides(old, new)) == {"network", "sampling.sampler", "seed"}


def test_arguments_are_set_after_the_call_in_whatever_order_they_are_given():
  given = {"network.width": "8", "network": "mlp(depth=2)", "sampling.grid.n": 3,
           "sampling.grid": "explicit((3, 1))"}
  with pytest.raises(ValueError, match=r"^config\.sampling\.grid\.n: explicit has no argument 'n'"):
    config.override(config.Config(), given)
  del given["sampling.grid"]
  with pytest.raises(ValueError, match=r"; of a call in it: config\.data\.data\.path$"):
    config.override(config.load("cifar10"), {"data.path": "there"})
  made = config.override(config.Config(), given)
  assert made.network == calls.make("mlp(width=8, depth=2)", "network", "x")
  assert made.sampling.grid["n"] == 3


def test_a_bare_name_keeps_what_was_set_and_both_functions_take():
  def bare(text, name, slot="sampler"):
    return str(calls.replace(calls.make(text, slot, "x"), [], name, slot, "x"))

  full = lambda text, slot="sampler": str(calls.make(text, slot, "x"))
  assert bare("multistep(order=3, stochasticity=0.5)", "unipc") == full("unipc(3, 0.5)")
  assert bare("multistep(order=3)", "unipc()") == full("unipc()")
  assert bare("heun(churn=3)", "ddim") == full("ddim()")
  assert bare("heun(churn=3)", "heun") == full("heun(churn=3)")
  # A default of the one is no choice for the other.
  assert bare("euler_maruyama()", "ddim") == full("ddim()")
  assert bare("karras(25, rho_max=40, curvature=3)", "uniform_half_log_snr", "grid") == full(
      "uniform_half_log_snr(25, rho_max=40)", "grid")
  inner = calls.make("predictor_corrector(ddim(0.5), baoab(0.3, friction=2))", "sampler", "x")
  for path, name, wanted in (
      (["corrector"], "midpoint", "predictor_corrector(ddim(0.5), midpoint(0.3))"),
      (["corrector"], "midpoint()", "predictor_corrector(ddim(0.5), midpoint())"),
      (["predictor"], "unipc",
       "predictor_corrector(unipc(stochasticity=0.5), baoab(0.3, friction=2))")):
    assert str(calls.replace(inner, path, name, "sampler", "x")) == full(wanted)
  noisy = calls.make("ddim(noise_interval(1))", "sampler", "x")
  assert calls.replace(noisy, ["stochasticity"], "0.5", "sampler", "x")["stochasticity"] == 0.5
  with pytest.raises(ValueError, match="no sampler 'hen'"):
    bare("heun()", "hen")
  # What a function requires may stand beside its bare name, in any order.
  for values, wanted in (
      ({"data.path": "p", "data": "images", "data.size": "64"}, {"data": "images('p', size=64)"}),
      ({"sampling.guidance": "classifier_free", "sampling.guidance.weight": 2},
       {"sampling.guidance": 2}),
      ({"sampling.sampler": "predictor_corrector", "sampling.sampler.predictor": "ddim",
        "sampling.sampler.corrector": "euler", "sampling.sampler.corrector.budget": 0.3},
       {"sampling.sampler": "predictor_corrector(ddim(), euler(0.3))"})):
    assert config.override(config.Config(), values) == config.override(config.Config(), wanted)


def test_a_config_of_version_0_1_is_refused_in_one_line(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(
      {"network": {"name": "dit", "width": 96}, "path": {"name": "vp"}}))
  with pytest.raises(ValueError, match=r"version 0\.1") as caught:
    records.read_config(tmp_path)
  assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


def test_every_function_of_every_slot_says_what_it_is():
  """Each is found by what it returns: named, with arguments of known types, and a summary."""
  listed = calls.help_text()
  for slot, kind in slots.SLOTS.items():
    assert kind.functions(), slot
    for name, function in kind.functions().items():
      assert f"  {calls.signature(name, slot)}\n" in listed
      assert (function.__doc__ or "").strip(), name
      assert not {"key", "self"} & set(calls._parameters(name, slot, "x")), name
  assert {"karras", "explicit", "optimised", "within"} <= set(slots.SLOTS["grid"].functions())
  assert {"heun", "ddim", "multistep", "adaptive"} <= set(slots.SLOTS["sampler"].functions())
  assert set(slots.SLOTS["inpainter"].functions()) == {
      "ddnm", "langevin", "lanpaint", "repaint", "replacement"}


def test_help_lists_the_calls_and_says_all_about_one():
  code, out, err = runner.call("train", "--help")
  assert code == 0 and not err and "Choices are calls. --help=NAME says all" in out
  for line in ("grid:", "  karras(n, rho_min=0.002, rho_max=80.0, curvature=7.0)", "network:",
               "      AdamW (Loshchilov & Hutter 2019)"):
    assert line in out, line
  code, out, err = runner.call("sample", "--help=karras")
  assert code == 0 and not err and "sampler:" not in out
  assert "grid: karras(n, rho_min=0.002" in out and "rho_min, rho_max:" in out
  # Of two functions of one name, both.
  _, out, _ = runner.call("sample", "--help=euler")
  assert "sampler: euler()" in out and "corrector: euler(budget=0.1)" in out
  code, _, err = runner.call("sample", "--help=kras")
  assert code == 2 and "no call is named 'kras'" in err


def test_a_misspelt_command_gets_the_nearest_one(monkeypatch):
  monkeypatch.setattr(sys, "argv", ["langevin", "trian"])
  with pytest.raises(SystemExit, match=r"no command 'trian' \(did you mean train\?\)"):
    _runner.main()


MINE = '''
"""Functions of somebody's own, in a file of their own."""
import jax.numpy as jnp
import numpy as np
from experiments.data.sources import Source
from langevin_jax import objectives, paths, samplers


def network(shape, num_classes, *, width: int = 4, rate=1.0, act="tanh"):
  def init(key):
    return {"w": jnp.ones((shape[0], width)), "v": jnp.zeros((width, shape[0]))}

  def apply(params, x, ell, labels):
    return getattr(jnp, act)(rate * (x @ params["w"])) @ params["v"]

  return init, apply


def path(*, power: float = 1.0):
  return paths.from_coefficients(
      lambda t: (1.0 - t) ** power, lambda t: t ** power, t_min=0.0, t_max=1.0)


def density(path, *, rho_min: float = 0.01):
  return objectives.uniform_time(path, rho_min=rho_min, rho_max=50.0)


def weight(density, *, scale: float = 2.0):
  return lambda ell: scale / density.density(ell)


def sampler(*, eta: float = 0.0):
  return samplers.ddim(eta)


def grid(n, *, top=20.0):
  return samplers.explicit(np.geomspace(top, 0.01, n))


def load(root="nowhere", *, n: int = 60, path=()):
  x = np.random.default_rng(0).normal(size=(n, 3)) * [1.0, 2.0, 3.0]
  assert root == "here" and path == (1, 2)
  return Source(x, None, np.arange(n) % 4 == 0, 0, "vector", None)


def number():
  return 3


def broken(*, n: int = 3):
  raise ValueError(f"n must be even, got {n}")
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A module outside of the repository, as somebody has it."""
  (tmp_path / "lab").mkdir()
  (tmp_path / "lab" / "my_calls.py").write_text(MINE)
  monkeypatch.syspath_prepend(str(tmp_path / "lab"))
  importlib.invalidate_caches()


OWN = (
    "--config=mixture2d", "--config.data=my_calls:load(root='here', path=[1, 2])",
    "--config.network=my_calls:network(width=6)", "--config.network.act=sin",
    "--config.path=my_calls:path(power=1.5)", "--config.objective.density=my_calls:density",
    "--config.objective.weight=my_calls:weight(scale=3)", "--config.training.optimizer=optax:sgd",
    "--config.training.batch_size=8", "--config.training.steps=6",
    "--config.training.checkpoint_every=3", "--config.training.steps_per_dispatch=3",
    "--config.sampling.sampler=my_calls:sampler(eta=1)", "--config.sampling.grid=my_calls:grid(5)")


def test_functions_of_ones_own_train_and_sample(mine, tmp_path):
  """With no change to the repository: in a config, in config.json, in flags, in a plan of arms."""
  workdir = tmp_path / "run"
  command = "train", *OWN, f"--workdir={workdir}"
  code, _, err = runner.call(*command)
  assert code == 0, err
  stored = json.loads((workdir / "config.json").read_text())
  assert stored["network"] == {
      "call": "my_calls:network", "width": 6, "rate": 1.0, "act": "sin"}
  assert stored["data"]["root"] == "here" and stored["data"]["path"] == [1, 2]
  assert stored["sampling"]["grid"] == {"call": "my_calls:grid", "n": 5, "top": 20.0}
  code, _, err = runner.call(*command, "--config.network.rate=0.5")
  assert code == 2 and "network.rate: 1.0 → 0.5" in err

  runner.succeed("sample", f"--workdir={workdir}", "--num_samples=30",
                 "--path=my_calls:path(power=2)", "--grid.n=7", "--sampler.eta=0.5")
  made = json.loads((workdir / "samples.json").read_text())
  x = np.load(workdir / "samples.npy")
  assert x.shape == (30, 3) and np.isfinite(x).all() and made["network_calls"] == 7
  assert made["sampling"]["sampler"] == {"call": "my_calls:sampler", "eta": 0.5}
  assert made["path"] == {"call": "my_calls:path", "power": 2.0}

  base = records.read_config(workdir)
  sweep = arms.Sweep({"a": {}, "b": {"objective.weight.scale": 6.0}, "c": {"path.power": 1.0},
                      "d": {"network.width": 7}}, "a", (0,))
  configs = arms.configs(base, sweep)
  found = equivalence.find(configs)
  # Twice the weight is the same minimum, and other draws of levels are not the same run.
  assert ("b", "a", "expectation", 2.0) in [
      (f.arm, f.like, f.kind, pytest.approx(f.factor)) for f in found]
  assert layouts.make(base, sweep, configs, found).groups == [["a", "b", "c"], ["d"]]


def test_errors_of_functions_of_ones_own_are_one_line_with_the_field(mine):
  made = lambda text: config.override(config.load("mixture2d"), {"path": text})
  for text, said in (
      ("my_calls:broken", r"^config\.path=my_calls:broken\(\): n must be even, got 3$"),
      ("my_calls:broken(n=x)", "expected a call of literals"),
      ("my_calls:broken(m=3)", r"^config\.path\.m: my_calls:broken has no argument 'm'; it has n"),
      ("my_calls:broken(n='x')", r"^config\.path\.n: expected an integer, got 'x'"),
      ("my_calls:brokn", r"no attribute 'brokn' \(did you mean broken\?\)$"),
      ("my_calls:grid(3)", r"^config\.path=my_calls:grid\(n=3\): it must return a Path, got <fun")):
    with pytest.raises(ValueError, match=said) as caught:
      arms.check(made(text))
    assert "\n" not in str(caught.value)
  for slot in ("density", "sampler", "grid", "weight", "optimizer", "inpainter"):
    with pytest.raises(ValueError, match=r"^x=my_calls:number\(\): it must return a .*, got 3$"):
      calls.build(calls.make("my_calls:number", slot, "x"), slot, "x")
  with pytest.raises(ValueError, match=r"^config\.network=.*module, or a pair"):
    assembly.prepare(config.override(config.load("mixture2d"), {"network": "my_calls:path"}))


def test_a_file_that_fails_to_import_is_said(tmp_path, monkeypatch):
  (tmp_path / "torn_calls.py").write_text("import nothing_of_this_name\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  assert "module 'torn_calls' cannot be imported: ModuleNotFoundError" in refusal(
      "torn_calls:f", "data")


def test_text_without_annotation_stays_text_and_numbers_become_numbers(mine):
  made = calls.make("my_calls:network", "network", "x")
  for value, wanted in (("2", 2), ("0.5", 0.5), ("tanh", "tanh"), ("(1, 2)", (1, 2)), ([1], (1,))):
    assert calls.replace(made, ["rate"], value, "network", "x")["rate"] == wanted
  # Where the default is text, so is the argument.
  assert calls.replace(made, ["act"], "3", "network", "x")["act"] == "3"


def test_a_shipped_config_by_name_and_a_file_that_is_none():
  assert config.load("digits") == config.load(str(runner.CONFIGS / "digits.py"))
  for name in ("digit", "nowhere.py", "digits/x"):
    with pytest.raises(ValueError, match=r"^config: no file .*; shipped ones are annealed"):
      config.load(name)


def test_the_checks_are_of_the_dataclass_itself():
  with pytest.raises(ValueError, match=r"^config\.training\.steps"):
    dataclasses.replace(config.Training(), steps="x")
  assert pathlib.Path(runner.CONFIGS).is_dir() and len(SHIPPED) > 5
