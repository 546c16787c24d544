"""How the work of a GroupNorm is split over a GPU: the numbers that its kernels are launched with.

All that can be tuned on a GPU stands here. Shapes are those of group_norm_triton.py.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch

from .launch import power_of_2
from .support import INTERPRETED

__all__ = ["Plan", "plan_for"]

TILE = 4096  # elements of a tile
RUN = 1024  # positions of a tile, where they lie side by side (NCHW)
CHANNELS = 64  # channels of a tile, where they lie side by side (NHWC)
WHOLE = 16384  # elements of the largest tile for a whole group
WHOLE_CHANNELS = 16  # least channels of such a tile in NHWC: 32 bytes, the unit of memory access
WARP = 512  # elements of a tile for each warp
PROGRAMS = 4  # for each multiprocessor of the GPU
PARTS = 32  # parts of a group that are merged at once


@dataclass(frozen=True, eq=False)
class Plan:
    """What the kernels of one shape and layout are launched with."""

    grid: tuple[int, int, int]
    warps: int
    parts: int  # P, parts of a group
    chunks: int  # S, chunks of the positions
    whole: bool  # a program's tile has all of its groups
    args: tuple[int, ...]  # the last arguments of every kernel, from C to NHWC
    compiled: dict[Hashable, Any]  # the kernels, which plans of other sizes share


@lru_cache(maxsize=4096)
def plan_for(
    n: int, c: int, length: int, groups: int, channels_last: bool, device: torch.device
) -> Plan:
    """Return the plan for a tensor of shape (N, C, *).

    Args:
        n: The number of images or RoIs N.
        c: The number of channels C.
        length: The number of positions L, the product of the spatial sizes.
        groups: The number of groups G.
        channels_last: Whether the memory is laid out as (N, *, C).
        device: The GPU.
    """
    d = c // groups
    whole_d, whole_l = power_of_2(d), power_of_2(length)
    least = max(1, WHOLE_CHANNELS // whole_d) if channels_last else 1
    least = min(least, power_of_2(groups))
    whole = least * whole_d * whole_l <= WHOLE
    if whole:
        bd, bl = whole_d, whole_l
        bg = max(least, min(TILE // (bd * bl), power_of_2(groups)))
    else:
        bl = min(whole_l, TILE // CHANNELS if channels_last else RUN)
        rows = CHANNELS if channels_last else TILE // bl
        bd = min(whole_d, rows)
        bg = min(rows // bd, power_of_2(groups))
    blocks = _ceil(groups, bg) * _ceil(d, bd)
    steps = _ceil(length, bl)
    wanted = PROGRAMS * _multiprocessors(device)
    tiles = _ceil(steps, min(steps, _ceil(wanted, n * blocks)))
    chunks = _ceil(steps, tiles)
    parts = chunks * _ceil(d, bd)
    # Triton sees by ``unit`` how rows of NCHW are aligned. Rows of NHWC have C elements
    unit = 1 if channels_last else math.gcd(length, 16)
    units = length // unit
    constants = (d, bg, bd, bl, PARTS, unit, channels_last)
    warps = max(1, min(16, bg * bd * bl // WARP))
    return Plan(
        grid=(n * blocks * chunks, 1, 1),
        warps=warps,
        parts=parts,
        chunks=chunks,
        whole=whole,
        args=(c, groups, parts, chunks, blocks, tiles, units, *constants),
        compiled=_compiled(device, warps, constants, c, units >= 2**31),
    )


@cache
def _compiled(*_key: Hashable) -> dict[Hashable, Any]:
    """Return the kernels of a device, number of warps, constants, and what Triton sees in numbers.

    Of the numbers that Triton does not specialize it still sees which need 64 bits.
    """
    return {}


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    if INTERPRETED:
        return 2
    if not torch.cuda.is_available():
        return 132  # fake tensors: those of an H100
    return torch.cuda.get_device_properties(device).multi_processor_count


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
