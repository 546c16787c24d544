"""Offsets in tensors of more than 2^31 elements, which no test can allocate."""

import pytest
import torch

from gn_det.layers.kernels.support import INTERPRETED

if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("runs in Triton's interpreter, by test_interpreter.py", allow_module_level=True)

import triton
import triton.language as tl

from gn_det.layers.kernels.group_norm_triton import _channels, _chunk, _place, _tile


@triton.jit(do_not_specialize=["units"])
def write_offsets(
    out_ptr, C, S, CB, tiles, units,
    D: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    n, block, s = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, 1, BD)
    begin, _ = _chunk(s, tiles, L, BL)
    offsets, mask = _tile(n, c, c_ok, begin, C, L, BL, NHWC)
    at = tl.arange(0, BD)[:, None] * BL + tl.arange(0, BL)[None, :]
    tl.store(out_ptr + tl.program_id(0) * BD * BL + at, tl.where(mask, offsets, -1))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("n", "c", "length", "tiles"),
    [
        (3, 4, 2**30 + 16, 2**26),  # an image of 2^32 elements
        (70, 2, 2**28, 2**28),  # images of less, together more
        (2, 2, 3 * 2**30, 2**27),  # more than 2^31 positions
    ],
)
def test_offsets(n, c, length, tiles, channels_last):
    bd, bl = 2, 8
    blocks, chunks = c // bd, -(-length // (tiles * bl))
    out = torch.zeros(n * blocks * chunks, bd, bl, dtype=torch.int64)
    out = out if INTERPRETED else out.cuda()
    sizes = (c, chunks, blocks, tiles, length // 16)
    write_offsets[(len(out), 1, 1)](out, *sizes, c, bd, bl, 16, channels_last)
    for pid, found in enumerate(out.tolist()):
        image, block, s = pid // chunks // blocks, pid // chunks % blocks, pid % chunks
        for i, row in enumerate(found):
            for j, offset in enumerate(row):
                channel, position = block * bd + i, s * tiles * bl + j
                inside = position * c + channel if channels_last else channel * length + position
                expected = image * c * length + inside if position < length else -1
                assert offset == expected
    assert out.max() >= 2**31
