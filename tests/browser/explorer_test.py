"""The page computes what the library computes, and every control of it works, alone on its file."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.paper import explorer
from langevin_jax import flow_maps, langevin, mixtures, paths, samplers
from langevin_jax.samplers import noise as sampler_noise
from langevin_jax.samplers import sampling

STEPS, PARTICLES = 12, 5
WEIGHTS = [0.5, 0.2, 0.3]
MEANS = [[-1.2, 0.4], [0.3, -1.1], [1.5, 0.8]]
COVARIANCES = [[[0.09, 0.0], [0.0, 0.09]], [[0.2, 0.08], [0.08, 0.1]],
               [[0.02, -0.01], [-0.01, 0.3]]]
MIXTURE = {"weights": WEIGHTS, "means": MEANS, "covariances": COVARIANCES}

PATHS = {"vp": paths.vp, "ve": paths.ve, "rectified_flow": paths.rectified_flow,
         "cosine": paths.cosine}
RANGE = {"rho_min": 0.01, "rho_max": 20.0}
GRIDS = {
    "karras": lambda: samplers.karras(STEPS, **RANGE),
    "uniform_half_log_snr": lambda: samplers.uniform_half_log_snr(STEPS, **RANGE),
    "uniform_time": lambda: samplers.uniform_time(STEPS),
    "cosine": lambda: samplers.cosine(STEPS),
}
# (η, its schedule) of the page, and what that is in the library. One object each: methods are
# memoised by it.
ETAS = {
    (0.0, "constant"): 0.0, (0.6, "constant"): 0.6, (1.7, "constant"): 1.7,
    (1.0, "early"): lambda ell: jax.nn.sigmoid(-2.0 * ell),
    (1.5, "middle"): lambda ell: 1.5 * jnp.exp(-0.5 * ell**2),
}
METHODS = {
    "step": samplers.ddim,
    "multistep": lambda eta: samplers.multistep(2, eta),
    "singlestep": lambda eta: samplers.singlestep(2, eta),
    "euler_maruyama": samplers.euler_maruyama,
}
CASES = [
    *itertools.product(METHODS, [eta for eta in ETAS if eta[1] == "constant"], GRIDS),
    *itertools.product(["heun"], [(0.0, "constant")], GRIDS),
    *itertools.product(["step", "euler_maruyama"], [(1.0, "early")], ["karras", "cosine"]),
    *itertools.product(["singlestep"], [(1.5, "middle")], ["karras", "cosine"]),
]


def mixture():
  return mixtures.Mixture(*(jnp.asarray(v) for v in (WEIGHTS, MEANS, COVARIANCES)))


def on_page(page, **settings):
  """States (steps + 1, particles, 2) and times of `window.langevin.run`, arrays as JSON."""
  arrays = {k: np.asarray(v).tolist() for k, v in settings.items() if k in ("initial", "noise")}
  found = page.evaluate("settings => window.langevin.run(settings)", {
      "mixture": MIXTURE, "steps": STEPS, "rhoMin": RANGE["rho_min"], "rhoMax": RANGE["rho_max"],
      "schedule": "constant", **settings, **arrays})
  return np.asarray(found["states"]), np.asarray(found["t"], float)


def program(name, noisy):
  """The library's run and the noise of a key, compiled once for all plans of one kind of method."""
  # Both are one call a step without history, and differ in their plans alone.
  return _program("step" if name == "euler_maruyama" else name, noisy)


@functools.cache
def _program(name, noisy):
  method = samplers.heun() if name == "heun" else METHODS[name](1.0 if noisy else 0.0)
  denoise = mixtures.denoiser(mixture(), paths.vp())
  like = jax.ShapeDtypeStruct((PARTICLES, 2), jnp.float64)

  @jax.jit
  def run(planned, key, initial):
    # As `run` draws it: draw 0 of step i.
    steps = sampler_noise.split(key)[1]
    noise = jax.vmap(lambda i: sampler_noise.normal(sampler_noise.fold(steps, i), like))(
        jnp.arange(STEPS))
    return sampling.run(planned, key, initial, None, model=samplers.levels.model(denoise),
                        shape=like.shape, method=method, keep=True), noise

  return run


def assert_agree(actual, expected, worst):
  gap = float(np.abs(actual - np.asarray(expected)).max())
  assert gap < 1e-4
  worst.append(gap)


def expect(locator):
  from playwright import sync_api  # may be missing: then these tests are skipped

  return sync_api.expect(locator)


@pytest.fixture
def page(open_page):
  return open_page()


@pytest.mark.parametrize("path", PATHS)
def test_reverse_runs_are_the_librarys(numbers, path, x64):
  along, worst = PATHS[path](), []
  rho = {name: grid()(along) for name, grid in GRIDS.items()}
  for seed, (name, eta, grid) in enumerate(CASES):
    key = jax.random.key(seed)
    method = samplers.heun() if name == "heun" else METHODS[name](ETAS[eta])
    planned = sampling.plan(along, method, lambda path, rho=rho[grid]: rho)
    initial = planned.levels.scale[0] * np.random.default_rng(seed).normal(size=(PARTICLES, 2))
    run, noise = program(name, eta[0] > 0)(planned, key, initial)
    states, t = on_page(numbers, process="reverse", path=path, eta=eta[0], schedule=eta[1],
                        method=name, grid=grid, initial=initial, noise=noise)
    np.testing.assert_allclose(t, run.t, rtol=1e-12, atol=1e-15)
    assert_agree(states, run.x, worst)
  print(f"{path}: {len(worst)} reverse runs, largest difference {max(worst):.1e}")


def test_noise_before_heun_is_the_librarys_churn(numbers, x64):
  # On a grid even in ℓ, γ = e^(η²h) − 1 is one number, and so are both methods.
  along, grid = paths.vp(), GRIDS["uniform_half_log_snr"]()
  eta, h = 0.5, np.log(RANGE["rho_max"] / RANGE["rho_min"]) / (STEPS - 1)
  key, initial = jax.random.key(3), np.random.default_rng(3).normal(size=(PARTICLES, 2))
  method = samplers.heun(churn=STEPS * np.expm1(eta**2 * h))
  planned = sampling.plan(along, method, grid)
  like = jnp.asarray(initial)
  steps = sampler_noise.split(key)[1]
  noise = [sampler_noise.normal(sampler_noise.fold(steps, i), like) for i in range(STEPS)]
  run = jax.jit(lambda planned: sampling.run(
      planned, key, like, None, model=samplers.levels.model(mixtures.denoiser(mixture(), along)),
      shape=like.shape, method=method, keep=True))(planned)
  states, _ = on_page(numbers, process="reverse", path="vp", eta=eta, method="heun",
                      grid="uniform_half_log_snr", initial=initial, noise=noise)
  # The step to the clean end has no length in ℓ for an η to act on: the page takes D there, where
  # the library, as EDM, churns once more.
  assert_agree(states[:-1], run.x[:-1], [])


@pytest.mark.parametrize("path", PATHS)
def test_forward_runs_are_the_librarys(numbers, path, x64):
  along, key = PATHS[path](), jax.random.key(7)
  keys = jax.random.split(key, STEPS)
  x_0 = mixture().sample(jax.random.key(8), PARTICLES)
  noise = [jax.random.normal(k, x_0.shape, x_0.dtype) for k in keys]
  simulate = jax.jit(lambda times: paths.simulate(key, x_0, times, along))
  for grid in GRIDS:
    states, t = on_page(numbers, process="forward", path=path, grid=grid, initial=x_0, noise=noise)
    assert_agree(states[1:], simulate(jnp.asarray(t[1:])), [])
    assert np.array_equal(states[0], x_0)


@pytest.mark.parametrize("path", PATHS)
def test_langevin_runs_are_the_librarys(numbers, path, x64):
  along, rho = PATHS[path](), 0.7
  t = along.time(-np.log(rho))
  alpha, sigma = along.alpha(t), along.sigma(t)
  x = np.random.default_rng(1).normal(size=(PARTICLES, 2))
  noise = np.random.default_rng(2).normal(size=(STEPS, PARTICLES, 2))
  score = jax.jit(lambda x: mixture().score(x, alpha, sigma))
  for budget in (0.05, 1.5):
    states, _ = on_page(numbers, process="langevin", path=path, rho=rho, budget=budget, initial=x,
                        noise=noise)
    expected = [jnp.asarray(x)]
    for xi in noise:
      now = expected[-1]
      expected.append(langevin.ornstein_uhlenbeck(xi, now, score(now), sigma, budget))
    assert_agree(states, np.stack(expected), [])


def test_the_score_is_the_librarys(numbers, x64):
  x = np.random.default_rng(5).normal(scale=2.0, size=(200, 2))
  score = jax.jit(mixture().score)
  for alpha, sigma in ((1.0, 0.0), (0.9, 0.3), (1.0, 30.0), (0.0, 1.0)):
    found = numbers.evaluate("([m, x, a, s]) => window.langevin.score(m, x, a, s)",
                          [MIXTURE, x.tolist(), alpha, sigma])
    np.testing.assert_allclose(found, score(x, alpha, sigma), rtol=1e-9, atol=1e-12)


def set_to(page, key, value):
  """Sets a slider or choice as its own events would."""
  page.evaluate("""([key, value]) => {
    const input = document.querySelector(`[data-key=${key}]`);
    input.value = String(value);
    input.dispatchEvent(new Event("input", {bubbles: true}));
  }""", [key, value])


def shown_distance(page):
  """(value, low, high) once they are measured at the moment that is shown."""
  page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
  page.locator("#verdict:not(:empty)").wait_for()
  value = float(page.inner_text("#distance"))
  low, high = (float(v) for v in re.findall(r"[\d.]+", page.inner_text("#band"))[:2])
  return value, low, high, page.inner_text("#verdict")


def test_the_distance_tells_a_fine_run_from_a_bad_one(page):
  page.click("[data-preset=two]")
  set_to(page, "particles", 400)
  # A run that is as good as exact lies outside a 95 % band once in 20 times: of 5, more than twice
  # with a probability of 1e-3.
  outside = 0
  for method, eta in (("multistep", 0), ("singlestep", 1), ("step", 1), ("heun", 0.5),
                      ("step", 2)):
    for key, value in (("method", method), ("eta", eta), ("steps", 150)):
      set_to(page, key, value)
    page.click("#again")
    page.focus("#time")
    page.keyboard.press("End")
    value, low, high, verdict = shown_distance(page)
    outside += not low <= value <= high
    assert (verdict == "too far") == (value > high)
  assert outside <= 2
  page.click("[data-try=fail]")
  value, low, high, verdict = shown_distance(page)
  assert value > 2.0 * high and verdict == "too far"


def drawn(page, canvas="#plane"):
  return page.evaluate("s => document.querySelector(s).toDataURL()", canvas)


def evidence(page):
  """What the page shows, apart from its controls."""
  return (page.inner_text("#stage"), page.inner_text("#triangle table"),
          page.inner_html("#mapped"), drawn(page))


def settled(page):
  page.evaluate("() => new Promise((done) => requestAnimationFrame("
                "() => requestAnimationFrame(done)))")


def test_every_slider_choice_and_box_works_by_keyboard(page):
  set_to(page, "particles", 100)  # runs take less time
  moved = set()
  for process in ("langevin", "forward", "reverse"):
    page.check(f"input[name=process][value={process}]", force=True)
    settled(page)
    for control in page.locator("[data-key]:visible, #time").all():
      name = control.get_attribute("data-key") or "time"
      if name in moved:
        continue
      moved.add(name)
      look = control.evaluate("e => e.type === 'checkbox' ? e.checked : e.value")
      before = evidence(page)
      control.focus()
      for key in ("Space",) if control.get_attribute("type") == "checkbox" else (
          "ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        settled(page)
        if control.evaluate("e => e.type === 'checkbox' ? e.checked : e.value") != look:
          break
      assert control.evaluate("e => e.type === 'checkbox' ? e.checked : e.value") != look, name
      assert evidence(page) != before, name
  assert moved == set(page.evaluate(
      "[...document.querySelectorAll('[data-key]')].map((e) => e.dataset.key)")) | {"time"}
  for name in ("process", "path"):
    page.focus(f"input[name={name}]:checked")
    for _ in range(page.locator(f"input[name={name}]").count()):
      before, words = page.input_value(f"input[name={name}]:checked"), page.inner_text("#stage")
      page.keyboard.press("ArrowRight")
      settled(page)
      assert page.input_value(f"input[name={name}]:checked") != before
      assert page.inner_text("#stage") != words


def test_every_control_works_by_mouse(page):
  set_to(page, "particles", 100)  # runs take less time
  moved = set()
  for name in ("process", "path"):
    for choice in page.locator(f"input[name={name}]").all():
      choice.click()
      settled(page)
      assert choice.is_checked()
      for slider in page.locator("input[type=range]:visible").all():
        if slider.get_attribute("id") in moved:
          continue
        moved.add(slider.get_attribute("id"))
        box, before = slider.bounding_box(), slider.input_value()
        share = 0.05 if float(before) > np.mean([float(slider.get_attribute(a))
                                                 for a in ("min", "max")]) else 0.95
        slider.click(position={"x": share * box["width"], "y": box["height"] / 2})
        assert slider.input_value() != before, slider.get_attribute("id")
  assert len(moved) == page.locator("input[type=range]").count()
  for box in page.locator("input[type=checkbox]").all():
    was = box.is_checked()
    box.click()
    assert box.is_checked() != was
  for choice in page.locator("select").all():
    for option in choice.locator("option:not([disabled])").all():
      choice.select_option(option.get_attribute("value"))
      settled(page)
  for button in page.locator("[data-preset], [data-try], #again").all():
    before = page.inner_text("#seed"), drawn(page), drawn(page, "#pad canvas")
    button.click()
    settled(page)
    assert (page.inner_text("#seed"), drawn(page), drawn(page, "#pad canvas")) != before
  page.click("[data-try=triangle]")
  settled(page)
  for button, count in (("#add", 3), ("#remove", 2)):
    page.click(button)
    settled(page)
    assert page.locator("#pad .point").count() == count
  chosen = page.input_value("#particle"), page.inner_text("#rows")
  page.click("#plane", position={"x": 60, "y": 60})
  settled(page)
  assert (page.input_value("#particle"), page.inner_text("#rows")) != chosen
  start = page.input_value("#time")
  page.click("#play")
  assert page.get_attribute("#play", "aria-label") == "Pause"
  expect(page.locator("#time")).not_to_have_value(start)
  page.click("#play")
  assert page.get_attribute("#play", "aria-label") == "Play the run"


def test_points_are_placed_moved_and_removed(page):
  points = page.locator("#pad .point")
  label = lambda i: points.nth(i).get_attribute("aria-label")
  page.click("[data-preset=one]")
  settled(page)
  assert points.count() == 1
  # By mouse: add, drag, double-click.
  box = page.locator("#pad").bounding_box()
  page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
  settled(page)
  assert points.count() == 2
  assert re.search(r"at -1\.\d+, 1\.\d+", label(1)), label(1)
  page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
  page.mouse.down()
  page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
  page.mouse.up()
  settled(page)
  assert re.search(r"at 0\.\d+, -0\.\d+", label(1)), label(1)
  points.nth(1).dblclick()
  settled(page)
  assert points.count() == 1
  # By keyboard: add, move, remove; the last one stays.
  page.focus("#add")
  page.keyboard.press("Enter")
  settled(page)
  assert points.count() == 2
  before = label(1)
  page.keyboard.press("ArrowUp")
  settled(page)
  assert label(1) != before
  for _ in range(3):
    page.keyboard.press("Delete")
    settled(page)
  assert points.count() == 1
  assert "last point stays" in page.inner_text("#points-said")


def test_a_point_too_many_is_said_and_moves_no_other(page):
  points = page.locator("#pad .point")
  for _ in range(13):
    page.click("#add")
  settled(page)
  assert points.count() == 12 and "12 points" in page.inner_text("#points-said")
  places = lambda: [re.findall(r"-?\d+(?:\.\d+)?", label)[1:3] for label in points.evaluate_all(
      "all => all.map((e) => e.getAttribute('aria-label'))")]
  before = np.asarray(places(), float)
  # Points that come by the button keep clear of each other.
  apart = np.linalg.norm(before[:, None] - before, axis=-1) + 9.0 * np.eye(12)
  assert apart.min() > 0.3
  box = page.locator("#pad").bounding_box()
  page.mouse.move(box["x"] + 3, box["y"] + 3)
  page.mouse.down()
  page.mouse.move(box["x"] + 30, box["y"] + 40, steps=3)
  page.mouse.up()
  settled(page)
  np.testing.assert_array_equal(np.asarray(places(), float), before)


def test_one_step_is_enough_for_every_path_and_process(page):
  set_to(page, "steps", 1)
  for process in ("forward", "langevin", "reverse"):
    page.check(f"input[name=process][value={process}]", force=True)
    for path, grid in itertools.product(PATHS, GRIDS):
      page.check(f"input[name=path][value={path}]", force=True)
      set_to(page, "grid", grid)
      settled(page)
      assert "–" not in page.inner_text("#gap") + page.inner_text("#detour"), (process, path, grid)


def test_tab_reaches_every_control_in_order(page):
  # One of a group of radio buttons takes the focus for all.
  wanted = page.evaluate("""() => [...document.querySelectorAll(
    "a[href], button, input, select, [tabindex='0']")]
    .filter((e) => e.offsetParent !== null && !(e.type === "radio" && !e.checked)).length""")
  seen = []
  for _ in range(wanted + 1):
    page.keyboard.press("Tab")
    seen.append(page.evaluate("""() => {
      const all = [...document.querySelectorAll("*")];
      return all.indexOf(document.activeElement);
    }"""))
  assert len(set(seen[:wanted])) == wanted
  assert seen[:wanted] == sorted(seen[:wanted])


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_has_no_sideways_scroll_and_text_stands_out(open_page, dark):
  page = open_page(390, 844, has_touch=True, is_mobile=True,
                   color_scheme="dark" if dark else "light", reduced_motion="reduce")
  assert page.evaluate("document.documentElement.scrollWidth") <= 390
  for process in ("langevin", "forward", "reverse"):
    page.locator(f"input[name=process][value={process}]").tap()
    settled(page)
    for name, ratio in page.evaluate(CONTRASTS):
      assert ratio >= 4.5, (name, ratio)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
  page.tap("[data-try=straight]")
  settled(page)
  page.locator("#pad").tap(position={"x": 40, "y": 90})
  settled(page)
  assert page.locator("#pad .point").count() == 2
  # A finger that scrolls the page over the pad leaves no point.
  box, above = page.locator("#pad").bounding_box(), page.evaluate("scrollY")
  page.context.new_cdp_session(page).send("Input.synthesizeScrollGesture", {
      "x": box["x"] + 0.5 * box["width"], "y": box["y"] + 0.8 * box["height"], "yDistance": -100})
  assert page.evaluate("scrollY") > above
  assert page.locator("#pad .point").count() == 2


# [text, contrast of it with what is behind it] of every element that holds text itself (WCAG 2.1).
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const bright = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll("*")].filter((e) => e.checkVisibility()
    && !e.closest(".unseen, script, canvas, noscript")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => {
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const [a, b] = [bright(parse(svg ? style.fill : style.color)), bright(behind(e))];
    return [e.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  });
}"""


def test_every_control_has_a_name(page):
  nameless = page.evaluate("""() => [...document.querySelectorAll(
    "button, input, select, canvas, svg")].filter((e) => !e.closest("[aria-hidden]")
      && !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby")
        || e.textContent.trim() || (e.labels && e.labels.length))).map((e) => e.outerHTML)""")
  assert not nameless


def test_the_page_is_one_small_file(page):
  text = explorer.build()
  assert len(text.encode()) <= 3e6
  assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "@import" not in text
  # Complaints are what `open_page` fails by; what it must notice is noticed.
  page.evaluate("""() => {
    console.warn("a warning");
    const image = new Image();
    image.src = "http://127.0.0.1:9/x.png";
  }""")
  page.wait_for_timeout(200)
  assert any("a warning" in complaint for complaint in page.complaints)
  assert any("127.0.0.1" in complaint or "Content Security Policy" in complaint
             for complaint in page.complaints)
  page.complaints.clear()


def test_modules_that_cannot_be_put_together_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(explorer, "_FOLDER", tmp_path)
  for name, text, match in (
      ("a", 'import * as b from "./b.js";\n', "a.js"),
      ("c", 'import {d} from "./d.js";\n', "c.js may only"),
      ("e", "export default 3;\n", "e.js may only")):
    (tmp_path / f"{name}.js").write_text(text)
    (tmp_path / "b.js").write_text('import * as a from "./a.js";\n')
    with pytest.raises(ValueError, match=match if name != "a" else "import each other: a → b → a"):
      explorer.script(name)


def test_the_triangle_closes_for_every_step_and_stochasticity(page):
  for rungs, length, eta in itertools.product((1, 3), (0.05, 2), (0, 0.7, 2)):
    for key, value in (("rungs", rungs), ("length", length), ("eta", eta)):
      set_to(page, key, value)
    settled(page)
    rows = [row.split("\t") for row in page.inner_text("#rows").splitlines()]
    assert len(rows) == 3 * rungs
    # x₀′ … of the way round, and of the Langevin steps: the same places, Λ added up.
    around, at_once = rows[rungs:2 * rungs], rows[2 * rungs:]
    assert [row[3] for row in around] == [row[3] for row in at_once]
    budgets = [float(row[2].replace("−", "-")) for row in at_once]
    np.testing.assert_allclose(
        budgets, (1 + eta**2) * length * np.arange(1, rungs + 1), rtol=6e-3)


def test_the_flow_map_is_the_librarys(numbers, x64):
  x, ell = np.random.default_rng(5).normal(size=(6, 2)), [-4.0, -2.0, -1.0, 0.0, 1.0, 3.0]
  exact = flow_maps.exact(mixture())(jnp.asarray(x), jnp.asarray(ell), jnp.inf)
  found = [numbers.evaluate("([of, x, ell]) => window.langevin.mapped(of, x, ell)",
                            [MIXTURE, place.tolist(), level])
           for place, level in zip(x, ell, strict=True)]
  np.testing.assert_allclose(found, exact, atol=1e-7)


def test_solvers_come_nearer_to_the_exact_map(page):
  page.click("[data-try=map]")
  settled(page)
  rows = [row.split("\t") for row in page.inner_text("#map-rows").splitlines()]
  assert [row[1] for row in rows] == ["1", "1", "2", "4", "8", "16"]
  off = [float(row[3]) for row in rows]
  assert off[0] == 0.0 and off[1] > 0.5 and off[-1] < 0.1 * off[1]
  for steps in (1, 5):
    set_to(page, "mapSteps", steps)
    settled(page)
    assert page.locator("#mapped line.forward").count() == steps
    assert page.locator("#mapped line.reverse").count() == 1
