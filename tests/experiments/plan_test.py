"""Planning: costs of compiled programs against sums by hand, roofline, search, errors."""

import importlib.util
import json
import math
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import plan_worker
import pytest
import runner

from experiments import config
from experiments.planning import (
  chips,
  collectives,
  compiling,
  costs,
  hlo,
  model_flops,
  roofline,
  topologies,
)
from experiments.run import assembly, meshes

# The shape of an example and millions of parameters: Peebles & Xie 2023, table 1; Ma et al. 2024,
# table 1; Li & He 2025; Karras et al. 2024, table 4.
LARGE = {"latent_dit_xl2": ((32, 32, 4), 675), "imagenet64_dit_xl2": ((64, 64, 3), 675),
         "imagenet256_sit_xl2": ((32, 32, 4), 675), "imagenet256_jit_b16": ((256, 256, 3), 131),
         "imagenet64_edm2_s": ((64, 64, 3), 280)}


def compiled(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(function).lower(*arguments).compile().as_text()


def topology(name):
  return topologies.parse(name)[0]


def test_costs_of_programs_on_eight_devices():
  """Of the worker's programs, by hand."""
  process = subprocess.run(
      [sys.executable, plan_worker.__file__], capture_output=True, text=True, timeout=120,
      check=True)
  spent = {name: costs.count(hlo.parse(text)) for name, text in json.loads(process.stdout).items()}
  # (16, 32) partial sums on each device, added over the four of each half; a quarter of the work.
  contracted = spent["contracted"]
  assert costs.collective_bytes(contracted) == {"all-reduce": 16 * 32 * 4}
  assert {tuple(sorted(group)) for group in contracted.collectives[0].groups} == {
      (0, 1, 2, 3), (4, 5, 6, 7)}
  assert contracted.flops == 2 * 16 * 64 * 32 // 4
  # Collectives in a loop count every time.
  assert costs.collective_bytes(spent["looped"]) == {"all-gather": plan_worker.LOOPS * 32 * 32 * 4}
  assert spent["looped"].flops == plan_worker.LOOPS * 2 * 8 * 32 * 32
  # A gather counts the whole array and all devices.
  gathered = spent["gathered"]
  assert costs.collective_bytes(gathered) == {"all-gather": 48 * 8 * 4}
  assert sorted(i for group in gathered.collectives[0].groups for i in group) == list(range(8))


def test_loops_multiply_unless_data_end_them():
  def inner(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=3)[0]

  text = compiled(lambda x, ws: jax.lax.scan(lambda x, w: (inner(x, w), None), x, ws)[0],
                  (8, 16), (7, 16, 16))
  expected = 7 * 3 * 2 * 8 * 16 * 16
  assert costs.count(hlo.parse(text)).flops == expected
  # TPU programs do not say it: the counters are followed instead.
  silent = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
  assert "known_trip_count" in text and "known_trip_count" not in silent
  spent = costs.count(hlo.parse(silent))
  assert (spent.flops, spent.unknown_loops) == (expected, 0)
  until_small = lambda x: jax.lax.while_loop(
      lambda x: jnp.sum(x) > 1.0, lambda x: 0.5 * (x @ x), x)
  spent = costs.count(hlo.parse(compiled(until_small, (4, 4))))
  assert (spent.flops, spent.unknown_loops) == (2 * 4**3, 1)


def test_a_slice_in_a_loop_moves_the_slice():
  # Ten rows of a long array, read one by one and written one by one: 2 × 10 rows, not 10 arrays.
  text = compiled(lambda x: jax.lax.map(lambda row: 2.0 * row, x), (10, 100_000))
  moved = costs.count(hlo.parse(text)).hbm_bytes
  rows = 2 * 10 * 100_000 * 4
  assert rows <= moved <= 2.1 * rows  # CPU makes one more copy of a row


# What TPU programs have and CPU programs do not: tiles, memories, collectives in pieces.
TPU = """HloModule step, is_scheduled=true

%all-reduce-scatter.1 (input: f32[128,256]) -> f32[8,256] {
  %input = f32[128,256]{1,0:T(8,128)} parameter(0)
  %all-reduce.1 = f32[128,256]{1,0:T(8,128)} all-reduce(%input), channel_id=3, replica_groups=[2,16]<=[32], to_apply=%add
  %id = s32[]{:T(128)} constant(0)
  ROOT %dynamic-slice.1 = f32[8,256]{1,0:T(8,128)} dynamic-slice(%all-reduce.1, %id, %id), dynamic_slice_sizes={8,256}
}

%start (p: bf16[72,64]) -> (bf16[72,64], bf16[1152,64]) {
  %p = bf16[72,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[1152,64]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=5, replica_groups=mesh['x'=2,'y'=16], device_ids=([16,2]T(1,0)) {'y'}, dimensions={0}, frontend_attributes={chain_id="7"}
  ROOT %call = (bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%meanwhile (p: bf16[72,64], q: bf16[1152,64], x: bf16[16,128], w: bf16[128,256]) -> (f32[16,256], bf16[1152,64]) {
  %p = bf16[72,64]{1,0:T(8,128)(2,1)} parameter(0)
  %q = bf16[1152,64]{1,0:T(8,128)(2,1)} parameter(1)
  %x = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(2)
  %w = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(3)
  %all-gather.2 = bf16[1152,64]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=5, replica_groups=mesh['x'=2,'y'=16], device_ids=([16,2]T(1,0)) {'y'}, dimensions={0}, frontend_attributes={chain_id="7"}
  %convolution.1 = f32[16,256]{1,0:T(8,128)} convolution(%x, %w), dim_labels=bf_io->bf
  ROOT %tuple.1 = (f32[16,256]{1,0:T(8,128)}, bf16[1152,64]{1,0:T(8,128)(2,1)}) tuple(%convolution.1, %all-gather.2)
}

%body (t: (s32[], bf16[72,64], bf16[1152,64], bf16[16,128], bf16[128,256])) -> (s32[], bf16[72,64], bf16[1152,64], bf16[16,128], bf16[128,256]) {
  %t = (s32[]{:T(128)}, bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[128,256]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %p.1 = bf16[72,64]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=1
  %q.1 = bf16[1152,64]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=2
  %x.1 = bf16[16,128]{1,0:T(8,128)(2,1)} get-tuple-element(%t), index=3
  %w.1 = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%t), index=4
  %fusion.1 = (f32[16,256]{1,0:T(8,128)}, bf16[1152,64]{1,0:T(8,128)(2,1)}) fusion(%p.1, %q.1, %x.1, %w.1), kind=kOutput, calls=%meanwhile
  ROOT %tuple.2 = (s32[]{:T(128)}, bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[128,256]{1,0:T(8,128)(2,1)S(1)}) tuple(%next, %p.1, %q.1, %x.1, %w.1)
}

%condition (t: (s32[], bf16[72,64], bf16[1152,64], bf16[16,128], bf16[128,256])) -> pred[] {
  %t.1 = (s32[]{:T(128)}, bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[128,256]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  %eight = s32[]{:T(128)} constant(8)
  ROOT %less = pred[]{:T(512)} compare(%i.1, %eight), direction=LT
}

ENTRY %main (a: f32[128,256], p: bf16[72,64], x: bf16[16,128], w: bf16[128,256]) -> f32[8,256] {
  %a = f32[128,256]{1,0:T(8,128)S(1)} parameter(0)
  %p.2 = bf16[72,64]{1,0:T(8,128)(2,1)} parameter(1)
  %x.2 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(2)
  %w.2 = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(3)
  %zero = s32[]{:T(128)} constant(0)
  %w.3 = (bf16[128,256]{1,0:T(8,128)(2,1)S(1)}, bf16[128,256]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%w.2)
  %started = (bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}) fusion(%p.2), kind=kCustom, calls=%start
  %q.2 = bf16[1152,64]{1,0:T(8,128)(2,1)} get-tuple-element(%started), index=1
  %w.4 = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} copy-done(%w.3)
  %carried = (s32[]{:T(128)}, bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[128,256]{1,0:T(8,128)(2,1)S(1)}) tuple(%zero, %p.2, %q.2, %x.2, /*index=4*/%w.4)
  %while.1 = (s32[]{:T(128)}, bf16[72,64]{1,0:T(8,128)(2,1)}, bf16[1152,64]{1,0:T(8,128)(2,1)}, bf16[16,128]{1,0:T(8,128)(2,1)}, bf16[128,256]{1,0:T(8,128)(2,1)S(1)}) while(%carried), condition=%condition, body=%body
  ROOT %fusion.2 = f32[8,256]{1,0:T(8,128)S(1)} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501, the lines of a compiler


def test_tpu_programs_collectives_in_pieces_and_memories():
  spent = costs.count(hlo.parse(TPU))
  # The gather's pieces, one of them within the loop, are one gather of what was split over y.
  by_kind = {one.kind: one for one in spent.collectives}
  assert set(by_kind) == {"all-gather", "reduce-scatter"} and len(spent.collectives) == 2
  assert (by_kind["all-gather"].bytes, by_kind["all-gather"].runs) == (1152 * 64 * 2, 1)
  # ids = arange(32).reshape(16, 2).T has the even devices first.
  assert by_kind["all-gather"].groups == (tuple(range(0, 32, 2)), tuple(range(1, 32, 2)))
  assert by_kind["reduce-scatter"].bytes == 128 * 256 * 4
  assert by_kind["reduce-scatter"].groups[1] == tuple(range(16, 32))
  # 0, 2, 4, 6: four times round, at 2·16·128·256.
  assert (spent.flops, spent.unknown_loops) == (4 * 2 * 16 * 128 * 256, 0)
  # w to vector memory once; x, the result and the counter's addition four times; the gather with 64
  # padded to 128 lanes.
  assert spent.hbm_bytes == (
      128 * 256 * 2 + 4 * (16 * 128 * 2 + 16 * 256 * 4 + 3 * 4) + (72 + 1152) * 128 * 2)


def test_tiles_pad_the_minor_axes():
  shape = "bf16[64,1,72]{2,0,1:T(8,128)(2,1)S(1)}"
  array = hlo.parse(TPU.replace("f32[8,256]{1,0:T(8,128)S(1)}", shape)).entry.root.shapes[0]
  assert (array.bytes, array.stored_bytes, array.space) == (64 * 72 * 2, 64 * 128 * 2, 1)


@pytest.mark.parametrize(("window", "out", "expected"), [
    # Two batch axes as windows over dilated inputs: one place of each is work.
    ("window={size=8x16 stride=7x15 lhs_dilate=8x16}, dim_labels=01bf_01oi->01bf",
     (8, 16, 256, 256), 2 * 8 * 16 * 256 * 256 * 72),
    # A window that slides over both ends of a padded axis of one.
    ("window={size=1x16 pad=0_0x15_15 rhs_reversal=0x1}, dim_labels=01bf_01oi->01bf",
     (8, 16, 256, 256), 2 * 8 * 16 * 256 * 256 * 72)])
def test_batched_products_as_tpu_writes_them(window, out, expected):
  lhs = (8, 16, 256, 72) if "dilate" in window else (8, 1, 256, 72)
  rhs = (8, 16, 256, 72) if "dilate" in window else (1, 16, 256, 72)
  text = lambda dims: f"f32[{','.join(map(str, dims))}]"
  module = hlo.parse(f"""HloModule one

ENTRY %main (x: {text(lhs)}, w: {text(rhs)}) -> {text(out)} {{
  %x = {text(lhs)} parameter(0)
  %w = {text(rhs)} parameter(1)
  ROOT %product = {text(out)} convolution(%x, %w), {window}
}}
""")
  assert costs.count(module).flops == expected


def test_no_program_is_refused():
  with pytest.raises(ValueError, match="ENTRY"):
    hlo.parse("hello")
  with pytest.raises(ValueError, match="devices of a collective"):
    collectives.device_groups("replica_groups=mystery")


@pytest.mark.parametrize("groups", [
    "{{0,2},{1,3}}", "[2,2]<=[2,2]T(1,0)", "mesh['a'=2,'b'=2] {'a'}",
    "mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
    "mesh['a'=2,'b'=1,'c'=2], device_ids=(0,2,1,3) {'c'}"])
def test_groups_of_devices_in_every_notation(groups):
  assert collectives.device_groups(f"channel_id=1, replica_groups={groups}, dimensions={{0}}") == (
      (0, 2), (1, 3))


def test_model_flops_are_the_closed_formula_of_a_dit():
  width, depth, classes, batch, side = 48, 3, 10, 8, 64
  settings = config.override(config.load("digits"), {
      "network.width": width, "network.depth": depth, "network.heads": 4, "network.remat": True,
      "network.dtype": "bfloat16", "training.batch_size": batch})
  mesh = meshes.make(config.Mesh(), jax.devices()[:1])
  tokens, patch = (side // 2) ** 2, 4  # so many that queries attend in parts
  # Twice for each multiply-add, three times for the forward pass and both operands' gradients, or
  # twice where one operand is data: patches, features of the level, labels.
  block = 24 * tokens * width**2 + 4 * tokens**2 * width + 12 * width**2
  expected = batch * (3 * depth * block + 3 * 4 * width**2 + 3 * 2 * tokens * width * patch
                      + 3 * 2 * width**2
                      + 2 * 2 * (tokens * width * patch + 64 * width + (classes + 1) * width))
  assert model_flops.of_step(settings, (side, side, 1), classes, mesh) == expected


def test_the_compiled_gradient_has_the_model_flops():
  def loss(params, x):
    for w in params:
      x = jnp.tanh(x @ w)
    return jnp.mean(x**2)

  shapes = ((24, 32), (32, 40))
  text = compiled(lambda u, v, x: jax.grad(loss)((u, v), x), *shapes, (16, 24))
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  traced = jax.make_jaxpr(loss)(arguments, jax.ShapeDtypeStruct((16, 24), jnp.float32))
  expected = 2 * (2 * 16 * 24 * 32) + 3 * (2 * 16 * 32 * 40)
  assert model_flops.count(traced, 2) == expected
  assert costs.count(hlo.parse(text)).flops == expected


@pytest.mark.parametrize("options", [
    {"padding": "SAME"}, {"padding": ((1, 0),), "stride": (2,)}, {"padding": "VALID"},
    {"padding": ((2, 2),), "lhs_dilation": (2,)}, {"padding": "SAME", "rhs_dilation": (2,)}])
def test_a_convolution_has_the_model_flops_of_the_compiled_one(options):
  """Those of a product by the matrix that it is, whose entries beyond the edges are zero."""
  stride = options.pop("stride", (1,))
  convolve = lambda x, w: jax.lax.conv_general_dilated(
      x, w, stride, **options, dimension_numbers=("NWC", "WIO", "NWC"))
  x, w = jnp.zeros((2, 9, 3)), jnp.ones((3, 3, 5))
  eye = jnp.eye(9)[:, :, None]
  matrix = convolve(eye, jnp.ones((3, 1, 1)))  # the number of positions that see an element
  seen = int(matrix.sum())
  traced = jax.make_jaxpr(convolve)(x, w)
  assert model_flops.count(traced, 0) == 2 * 2 * seen * 3 * 5
  text = compiled(convolve, x.shape, w.shape)
  assert costs.count(hlo.parse(text)).flops == 2 * 2 * seen * 3 * 5
  assert model_flops.count(traced, 0, edges=True) >= model_flops.count(traced, 0)


def places(shape):
  """Coordinates in the order of the devices of a torus, the last axis fastest."""
  return [(i // shape[1], i % shape[1], 0) for i in range(math.prod(shape))]


def test_collectives_take_the_time_of_their_links():
  pod, part = topology("v5e:16x16"), topology("v5e:4x4")
  w, size = pod.chip.link_bandwidth, 10**9
  row, line = (tuple(range(16)),), (tuple(range(4)),)
  time = lambda kind, groups, where: roofline.interconnect_seconds(
      [collectives.Collective(kind, size, groups, 1)], where, places(where.shape))
  approx = lambda value: pytest.approx(value, rel=1e-12)
  # A ring of 16: 15/16 of it through two links; all of the pod: through four.
  assert time("all-gather", row, pod) == approx(15 / 16 * size / (2 * w))
  assert time("reduce-scatter", row, pod) == approx(15 / 16 * size / (2 * w))
  assert time("all-reduce", (), pod) == approx(2 * 255 / 256 * size / (4 * w))
  # A row of four that is no ring: its ends have one link.
  assert time("all-gather", line, part) == approx(3 / 4 * size / w)
  # Ring: half of all data cross the middle of the ring both ways, through 2 × 2 one-way links:
  # 8 chips send half of theirs over 2 links.
  assert time("all-to-all", row, pod) == approx(8 * size / 2 / (2 * w))
  assert time("all-to-all", line, part) == approx(2 * size / 2 / w)
  # A column of the pod shifted by three; of 4 × 4, a shift by one that goes back along all the row:
  # three links one way and three the other, each with one array.
  pairs = lambda side, n, hops: tuple(
      (i * side + j, i * side + (j + hops) % n) for i in range(side) for j in range(n))
  assert time("collective-permute", pairs(16, 16, 1), pod) == approx(size / w)
  assert time("collective-permute", pairs(16, 16, -3), pod) == approx(3 * size / w)
  # Half round, either way will do, or both.
  assert time("collective-permute", pairs(16, 16, 8), pod) == approx(4 * size / w)
  assert time("collective-permute", pairs(4, 4, 1), part) == approx(size / w)
  assert time("all-gather", ((0,),), pod) == 0.0


ROW = tuple(tuple(range(16 * i, 16 * i + 16)) for i in range(16))
COLUMN = tuple(tuple(range(i, 256, 16)) for i in range(16))
SHIFTED = {hops: tuple((i, i // 16 * 16 + (i + hops) % 16) for i in range(256)) for hops in (1, -1)}


def test_collectives_on_other_links_run_at_once():
  pod = topology("v5e:16x16")
  w, size = pod.chip.link_bandwidth, 10**9
  one = 15 / 16 * size / (2 * w)  # a gather by two links
  gather = lambda groups, runs=1: collectives.Collective("all-gather", size, groups, runs)
  shift = lambda hops: collectives.Collective("collective-permute", size, SHIFTED[hops], 1)
  time = lambda *given: roofline.interconnect_seconds(given, pod, places(pod.shape))
  approx = lambda value: pytest.approx(value, rel=1e-12)
  assert time() == 0.0
  assert time(gather(ROW), gather(ROW)) == approx(2 * one)
  assert time(gather(ROW), gather(COLUMN)) == approx(one)
  assert time(gather(ROW, 3), gather(COLUMN, 2)) == approx(3 * one)
  assert time(shift(1), shift(-1)) == approx(size / w)
  assert time(shift(1), shift(1)) == approx(2 * size / w)
  # A gather goes round the other way where a shift is in its way, until both are as full.
  assert time(shift(1), gather(ROW)) == approx(size / w)
  assert time(shift(1), gather(ROW, 2)) == approx((size + 2 * 15 / 16 * size) / (2 * w))
  # What spans both axes takes the free one, until both are as full.
  both = 255 / 256 * size / (4 * w)
  assert time(gather(())) == approx(both)
  assert time(gather(()), gather(ROW, 3)) == approx(3 * one)
  assert time(gather((), 5), gather(ROW)) == approx(5 * both + one / 2)


def test_together_is_no_longer_than_in_turn_and_no_shorter_than_the_longest():
  rng = np.random.default_rng(0)
  kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all")
  for name in ("v5e:16x16", "v5e:8x16"):
    where = topology(name)
    on = places(where.shape)
    rows = tuple(tuple(range(16 * i, 16 * i + 16)) for i in range(where.shape[0]))
    columns = tuple(tuple(range(i, where.chips, 16)) for i in range(16))
    for _ in range(30):
      given = [collectives.Collective(rng.choice(kinds), int(rng.integers(1, 10**9)),
                                (rows, columns, (), rows[:1])[rng.integers(4)],
                                int(rng.integers(1, 4))) for _ in range(5)]
      alone = [roofline.interconnect_seconds([c], where, on) for c in given]
      together = roofline.interconnect_seconds(given, where, on)
      assert max(alone) <= together * (1 + 1e-12) and together <= sum(alone) * (1 + 1e-12)


@pytest.mark.parametrize(("name", "closed"), [
    ("v5e:16x16", True), ("v6e:8x16", False), ("v5p:4x4x4", True), ("v5p:2x4x4", False)])
def test_only_whole_pods_and_cubes_have_links_round(name, closed):
  where = topology(name)
  assert where.closed == closed
  last = where.shape[-1]
  on = list(np.ndindex(where.shape))
  gather = collectives.Collective("all-gather", 10**9, (tuple(range(last)),), 1)
  took = roofline.interconnect_seconds([gather], where, on)
  links = 2 if closed else 1
  assert took == pytest.approx((last - 1) / last * 10**9 / (links * where.chip.link_bandwidth))


def test_the_bound_is_the_slowest_part_and_caps_the_mfu():
  pod = topology("v5e:4x4")
  spent = costs.Costs(int(197e9), int(0.5 * 819e6), (), 0)  # a millisecond, and half of one

  class Device:
    coords = (0, 0, 0)

  line = roofline.roofline(spent, pod, [Device()] * 16)
  assert line.limit == "compute" and line.bound == pytest.approx(1e-3)
  assert roofline.mfu_cap(0.75 * 16 * 197e9, pod, line.bound) == pytest.approx(0.75)
  assert roofline.hours(7200.0, 2, 1.0) == pytest.approx(1.0)


def test_chips_are_consistent_with_what_their_pods_are_said_to_have():
  # Cloud TPU documentation: all-reduce bandwidth of a pod of 256, and bisection, in TB/s.
  for kind, all_reduce, bisection in (("v5e", 51.2, 1.6), ("v6e", 102.4, 3.2)):
    w = chips.CHIPS[kind].link_bandwidth
    assert 256 * 4 * w == pytest.approx(all_reduce * 1e12)
    assert 2 * 16 * w == pytest.approx(bisection * 1e12)
  for name in ("v5e:16x16", "v5e:1x1", "v4:4x4x8", "v5p:8x8x8", "v6e:8x16"):
    assert topology(name).chips == math.prod(map(int, name.split(":")[1].split("x")))


def search(first, unit, capacity, memory):
  """The largest batch found, the smallest too large, and what was compiled; memory(batch) in B."""
  tried = []

  def compile_at(size):
    tried.append(size)
    need = memory(size)
    return compiling.Step(size, need, costs.Costs(0, 0, (), 0) if need <= capacity else None)

  found, above = compiling.search(compile_at(first), unit, capacity, compile_at)
  return found and found.batch_size, above and above.batch_size, tried


def test_the_search_finds_the_largest_batch_and_trusts_no_guess():
  for first in (8, 64, 1000, 8000):
    found, above, tried = search(first, 8, 10_000, lambda batch: 2000 + 7 * batch)
    assert (found, above) == (8000 // 7 // 8 * 8, found + 8) and len(tried) <= 6
  # Steeper from 600 on: the first line promises 1,141, and what is returned has been compiled.
  memory = lambda batch: 2000 + 7 * batch + 20 * max(batch - 600, 0)
  found, above, tried = search(64, 8, 10_000, memory)
  assert found in tried and memory(found) <= 10_000 and found >= 600
  assert above in tried and memory(above) > 10_000
  assert search(64, 8, 1000, memory)[:2] == (None, 8)
  # A step at 900: the line through its two sides says that nothing larger than 512 fits.
  found, above, tried = search(512, 8, 10_000, lambda batch: 9_990 if batch < 900 else 10**6)
  assert tried[:4] == [512, 1024, 520, 768] and found < 900 <= above
  assert above - found <= 128


@pytest.mark.parametrize(("message", "expected"), [
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
     "(36.50G) exceeds available HBM (15.75G).", int(36.5 * 2**30)),
    ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 15.75G hbm.",
     2**29),
    ("INTERNAL: something else", None)])
def test_the_compilers_refusal_is_read(message, expected):
  assert compiling.needed_bytes(message) == expected


@pytest.fixture
def settled(monkeypatch):
  """Settings of jax are left as the tests have them."""
  monkeypatch.setattr(topologies, "prepare_environment", lambda: None)


@pytest.fixture
def compile_with(monkeypatch, settled):
  """Puts a function of (job, batch size) in the place of libtpu's compiler."""
  monkeypatch.setattr(topologies, "require_libtpu", lambda: None)
  monkeypatch.setattr(topologies, "devices", lambda _: jax.devices()[:1])
  monkeypatch.setattr(roofline, "places", lambda devices: [(0, 0, 0) for _ in devices])
  return lambda compile_step: monkeypatch.setattr(compiling, "compile_step", compile_step)


PLAN = ("--config=digits", "--config.training.batch_size=128")


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "--topology is required"),
    (("--topology=v9:2x2",), "v9:2x2"),
    (("--topology=v5e",), "16x16"),
    (("--topology=v5e:3x3",), "v5e has the slices"),
    (("--topology=v5e:32x32",), "v5e has the slices"),
    (("--topology=v5p:8x8",), "multiples of 4"),
    (("--topology=v5e:4x4,v5e:4x4",), "twice"),
    (("--topology=v5e:4x4", "--config.mesh.fsdp=3"), "config.mesh"),
    (("--topology=v5e:4x4,v5e:16x16",), "v5e:16x16: config.training.batch_size"),
    (("--topology=v5e:4x4", "--images=-1"), "--images"),
])
def test_bad_input_is_one_line_before_any_compilation(arguments, message, monkeypatch, settled):
  monkeypatch.setattr(topologies, "devices", lambda _: pytest.fail("libtpu was asked"))
  assert message in runner.refused("plan", *PLAN, *arguments)


def test_without_libtpu_it_says_what_to_install(monkeypatch, settled):
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec",
                      lambda name, *rest: None if name == "libtpu" else find(name, *rest))
  err = runner.refused("plan", *PLAN, "--topology=v5e:4x4")
  assert 'pip install -e ".[tpu]"' in err and "make plan" in err


def test_plans_are_told_and_written_also_of_what_does_not_fit(
    tmp_path, monkeypatch, compile_with):
  gib = 2**30
  spent = costs.Costs(10**12, 10**9, (collectives.Collective("all-gather", 10**6, (), 28),), 2)

  def compile_step(job, batch):  # two GiB and 20 MiB an example: refused on the smaller chip
    need = 2 * gib + 20 * 2**20 * batch
    return compiling.Step(batch, need, spent if need <= job.topology.chip.hbm_bytes else None)

  compile_with(compile_step)
  monkeypatch.setattr(
      roofline, "interconnect_seconds", lambda given, *_: 1e-3 * sum(c.runs for c in given))
  out = tmp_path / "new" / "plan.json"
  told = runner.succeed("plan", *PLAN, "--config.training.batch_size=1024",
                        "--topology=v5e:1x1,v6e:1x1", f"--out={out}", "--images=1e6")
  small, large = json.loads(out.read_text())
  asked = {"topology", "chips", "fits", "hbm_per_chip_bytes", "hbm_capacity_bytes", "parameters",
           "model_flops_per_step", "collective_bytes", "step_time_bound_seconds", "mfu_cap",
           "global_batch", "unknown_loops"}
  assert asked <= set(small) and set(small) == set(large)
  assert (small["fits"], large["fits"]) == (False, True)
  assert small["hbm_per_chip_bytes"] > small["hbm_capacity_bytes"]
  assert "NO" in told and "refused for memory: v5e:1x1;" in told
  # Of a program that is refused, the model's own products are known, and nothing else.
  peak = chips.CHIPS["v5e"].flops
  assert small["step_time_bound_seconds"] == pytest.approx(small["model_flops_per_step"] / peak)
  assert (small["bound_by"], small["mfu_cap"]) == ("compute", pytest.approx(1.0))
  assert all(small[name] is None for name in (
      "hardware_flops_per_step", "hbm_traffic_bytes", "hbm_seconds", "collective_bytes",
      "interconnect_seconds", "unknown_loops"))
  # 28 gathers of a millisecond are the slowest part.
  assert large["collective_bytes"] == {"all-gather": 28 * 10**6}
  assert large["step_time_bound_seconds"] == pytest.approx(28e-3)
  assert large["hours"] == pytest.approx(math.ceil(1e6 / 1024) * 28e-3 / 3600)
  assert large["mfu_cap"] == pytest.approx(
      large["model_flops_per_step"] / (chips.CHIPS["v6e"].flops * 28e-3))
  # (15.75 − 2) GiB by 20 MiB, and (31.25 − 2) GiB.
  assert (small["largest_batch"], large["largest_batch"]) == (704, 1497)
  assert (small["batch_too_large"], large["batch_too_large"]) == (705, 1498)
  assert small["largest_batch_exact"] and "at least 704" not in told
  assert large["unknown_loops"] == 2 and "of unknown length" in told
  assert small["at_largest_batch"]["images_per_second"] == pytest.approx(704 / 28e-3)


def test_what_is_planned_is_written_before_the_next_fails(tmp_path, compile_with):
  spent = costs.Costs(10**12, 10**9, (), 0)

  def compile_step(job, batch):
    if job.topology.name.startswith("v6e"):
      raise ValueError("libtpu cannot compile for v6e:1x1: some reason")
    return compiling.Step(batch, 2**30, spent)

  compile_with(compile_step)
  out = tmp_path / "plan.json"
  code, told, err = runner.call("plan", *PLAN, "--topology=v5e:1x1,v6e:1x1,v4:2x2x1",
                                f"--out={out}")
  assert code == 2 and err.count("\n") == 1
  assert "some reason; not planned: v6e:1x1, v4:2x2x1" in err
  plan, = json.loads(out.read_text())
  assert plan["topology"] == "v5e:1x1"
  # All that was tried fits.
  assert (plan["largest_batch"], plan["batch_too_large"]) == (128 * 2**5, None)
  assert "at least 4,096" in told and not plan["largest_batch_exact"]
  assert "step time, at least" in told and "of unknown length" not in told


@pytest.mark.parametrize("name", LARGE)
def test_the_large_configs_are_the_papers_and_divide_their_pod(name):
  settings = config.load(str(runner.CONFIGS / f"{name}.py"))
  compiling.check(settings, topology("v5e:16x16"))
  assert settings.training.batch_size >= 1024
  run = assembly.assemble(settings, settings.data["shape"], settings.data["num_classes"],
                      meshes.make(config.Mesh(), jax.devices()[:1]))
  state = jax.eval_shape(run.init, jax.random.key(0))
  shape, millions = LARGE[name]
  size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert size / 1e6 == pytest.approx(millions, rel=2e-3)
  assert settings.data["shape"] == shape


# EDM2-S takes 22 minutes to compile.
@pytest.mark.parametrize("name", sorted(LARGE.keys() - {"imagenet64_edm2_s"}))
def test_the_large_configs_fit_their_pod(name, tmp_path):
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed: make plan")
  code, _, err = runner.run(
      "plan", f"--config={runner.CONFIGS / name}.py", "--topology=v5e:16x16", "--nolargest_batch",
      f"--out={tmp_path / 'plan.json'}")
  assert code == 0, err
  plan, = json.loads((tmp_path / "plan.json").read_text())
  assert plan["fits"] and plan["unknown_loops"] == 0
  # Blocks of the network are recomputed once in the gradient: at most a third more products.
  assert 1.0 <= plan["hardware_flops_per_step"] / plan["model_flops_per_step"] < 1.4
  assert 0.5 < plan["mfu_cap"] <= 1.0


def test_a_small_step_is_planned_by_libtpu(tmp_path):
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed: make plan")
  code, out, err = runner.run(
      "plan", *PLAN, "--topology=v5e:2x2,v5p:2x2x1", "--config.mesh.fsdp=2", "--nolargest_batch",
      "--config.network.depth=2", "--config.network.unroll=1", f"--out={tmp_path / 'plan.json'}")
  assert code == 0, err
  for plan in json.loads((tmp_path / "plan.json").read_text()):
    assert plan["fits"] and plan["chips"] == 4 and plan["topology"] in out
    assert 0 < plan["hbm_per_chip_bytes"] < plan["hbm_capacity_bytes"]
    # Blocks of the gradient recompute nothing here: the program has the model's products, padded.
    assert 1.0 <= plan["hardware_flops_per_step"] / plan["model_flops_per_step"] < 1.2
    assert plan["collective_bytes"]["all-gather"] > 0
    assert plan["step_time_bound_seconds"] == max(
        plan[f"{part}_seconds"] for part in ("compute", "hbm", "interconnect"))
