"""Specifications of TPU chips, each with its public source."""

from typing import NamedTuple

_GIB = 2**30


class Chip(NamedTuple):
  """One TPU generation; all numbers are per chip.

  flops: peak bfloat16 FLOPs per second.
  hbm_bytes: memory for a program: the smaller of the specified capacity and the "available HBM" in
    the error messages of libtpu 0.0.42.
  hbm_bandwidth: bytes per second, reads and writes together.
  link_bandwidth: bytes per second in one direction of a link; every axis has two links.
  axes: number of axes of the torus.
  wraps: all axes of a slice are rings if every side is a multiple of this, else none.
  slices: the shapes that exist.
  full_blocks: further shapes have multiples of 4 in all axes, and at most this number of chips.
  """

  flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  link_bandwidth: float
  axes: int
  wraps: int
  slices: tuple[tuple[int, ...], ...]
  full_blocks: int


_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))

CHIPS = {
    # Cloud TPU documentation, "TPU v4", System architecture: 275 TFLOPs, 32 GiB, 1200 GBps; tori
    # of multiples of 4, else meshes. Links: Jouppi et al. 2023 (TPU v4: An Optically
    # Reconfigurable Supercomputer), table 4: 6 at 50 GB/s. libtpu leaves 30.75 GiB.
    "v4": Chip(275e12, int(30.75 * _GIB), 1200e9, 50e9, 3, 4, _CUBES, 4096),
    # "TPU v5e", System architecture: 197 TFLOPs, 16 GB, 819 GBps, ICI 1600 Gbps over 4 ports (400
    # GBps counting both ways); 2D torus, closed in the full pod of 16x16 alone: its bisection is
    # 1.6 TBps = 2 × 16 links × 50 GB/s. Slices: "Configurations". libtpu leaves 15.75 GiB.
    "v5e": Chip(197e12, int(15.75 * _GIB), 819e9, 50e9, 2, 16, _FLAT, 0),
    # "TPU v5p", System architecture: 459 TFLOPs, 95 GiB, 2765 GBps, ICI 4800 Gbps (1200 GBps both
    # ways) over 6 ports; shapes: "Configurations", up to 6144 chips. libtpu leaves 95.74 GiB.
    "v5p": Chip(459e12, 95 * _GIB, 2765e9, 100e9, 3, 4, _CUBES, 6144),
    # "TPU v6e", System architecture: 918 TFLOPs, 32 GB, 1638 GBps, ICI 800 GBps both ways over 4
    # ports; 2D torus and slices as v5e. libtpu leaves 31.25 GiB.
    "v6e": Chip(918e12, int(31.25 * _GIB), 1638e9, 100e9, 2, 16, _FLAT, 0),
}
