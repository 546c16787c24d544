"""The Triton kernels of group_norm.py: GroupNorm, residual and ReLU, both directions, no atomics.

Shapes:
    N: images or RoIs
    C: channels
    G: groups
    D: channels per group, C / G
    L: spatial positions
    S: chunks of the positions, of ``tiles`` tiles each
    P: parts of a group: S for each of its blocks of channels

Every program has one image, one block of channels and one chunk of the positions. It reads tiles of
shape (BC, BL), with BC = BG * BD: BG whole groups, each padded to BD channels, or BD channels of
one group where D > BD. Strides make one source serve NCHW and NHWC. Offsets are int64, for a tensor
may have more than 2^31 elements.

    stats           mean and M2 (squares about the mean) of each part
    apply           merges them, y = relu((x - mean) * (rstd * weight) + bias + residual)
    reduce          per part and per channel: sums of g and g * xhat; g is dy where y > 0
    dx              rstd * (weight * g - mean(weight * g) - xhat * mean(weight * g * xhat))
    whole_forward   stats and apply, for groups that fit into one tile
    whole_backward  reduce and dx, for such groups

Backward computes y again to know where it is above 0. It finds what forward found: both call
``_affine``, whose multiply-add is one instruction in every kernel, and both round y to its dtype.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

__all__ = ["apply", "dx", "reduce", "stats", "whole_backward", "whole_forward"]


@triton.jit
def _place(S, CB):
    """Return the image, block of channels and chunk of this program."""
    pid = tl.program_id(0)
    return (pid // S // CB).to(tl.int64), pid // S % CB, pid % S


@triton.jit
def _channels(block, C, D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr):
    """Return the channels (BC,) of a block, and which of them exist."""
    i = tl.arange(0, BG * BD)
    if D > BD:
        blocks: tl.constexpr = (D + BD - 1) // BD
        d = block % blocks * BD + i
        return block // blocks * D + d, d < D
    if D == BD:
        c = block * BG * D + i  # one run of channels, so that loads are of 128 bits
        return c, c < C
    c = (block * BG + i // BD) * D + i % BD
    return c, (i % BD < D) & (c < C)


@triton.jit
def _groups(n, block, G, D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr):
    """Return n * G + group for the groups (BG,) of a block, and which of them exist."""
    g = block * BG + tl.arange(0, BG)
    if D > BD:
        g = g // ((D + BD - 1) // BD)
    return n * G + g, g < G


@triton.jit
def _part(block, s, S, D: tl.constexpr, BD: tl.constexpr):
    """Return which part of its groups a program has."""
    return block % ((D + BD - 1) // BD) * S + s


@triton.jit
def _chunk(s, tiles, L, BL: tl.constexpr):
    """Return where a chunk begins, and its number of positions."""
    begin = s.to(tl.int64) * tiles * BL
    return begin, tl.minimum(tiles * BL, L - begin).to(tl.int32)


@triton.jit
def _tile(n, c, c_ok, l0, C, L, BL: tl.constexpr, NHWC: tl.constexpr):
    """Return the offsets (BC, BL) of BL positions from l0 on, and which of them exist."""
    l = l0 + tl.arange(0, BL)  # noqa: E741
    wide_c = c.to(tl.int64)[:, None]
    wide_l = l.to(tl.int64)[None, :]
    offsets = wide_l * C + wide_c if NHWC else wide_c * L + wide_l
    return n * C * L + offsets, c_ok[:, None] & (l < L)[None, :]


@triton.jit
def _load(ptr, offsets, mask):
    return tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(ptr, offsets, value, mask):
    tl.store(ptr + offsets, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _spread(v, BG: tl.constexpr, BD: tl.constexpr):
    """Copy a number of each group (BG,) to its channels (BC,)."""
    return tl.reshape(tl.broadcast_to(v[:, None], [BG, BD]), [BG * BD])


@triton.jit
def _gather(v, BG: tl.constexpr, BD: tl.constexpr):
    """Add up a number of each channel (BC,) over its group: (BG,)."""
    return tl.sum(tl.reshape(v, [BG, BD]), 1)


@triton.jit
def _rstd(var, eps):
    return tl.div_rn(1.0, tl.sqrt_rn(var + eps))


@triton.jit
def _affine(centered, scale, bias, residual_ptr, offsets, mask):
    """Return y before the ReLU. Centered is x - mean, and scale is rstd * weight."""
    y = tl.fma(centered, scale[:, None], tl.broadcast_to(bias[:, None], centered.shape))
    if residual_ptr is not None:
        y += _load(residual_ptr, offsets, mask)
    return y


@triton.jit
def _relu(y, RELU: tl.constexpr):
    return tl.where(y <= 0.0, 0.0, y) if RELU else y  # NaN stays NaN


@triton.jit
def _relu_backward(dy, y, ptr):
    """Return dy where y, rounded to the dtype behind ``ptr``, is above 0 or NaN."""
    return tl.where(y.to(ptr.dtype.element_ty).to(tl.float32) <= 0.0, 0.0, dy)


@triton.jit
def _merge_parts(
    part_ptr, ng, g_ok, P, S, L, tiles,
    D: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """Return mean and variance of groups (BG,): Chan's formula on their parts, in a fixed order."""
    mean = tl.zeros(ng.shape, tl.float32)
    m2 = tl.zeros(ng.shape, tl.float32)
    count = 0.0
    for p0 in range(0, P, BP):
        p = p0 + tl.arange(0, BP)
        _, positions = _chunk(p % S, tiles, L, BL)
        channels = tl.minimum(BD, D - p // S * BD)
        k = tl.where(p < P, positions.to(tl.float32) * channels.to(tl.float32), 0.0)
        offsets = (ng[:, None] * P + p[None, :]) * 2
        mask = g_ok[:, None] & (p < P)[None, :]
        means = tl.load(part_ptr + offsets, mask=mask, other=0.0)
        m2s = tl.load(part_ptr + offsets + 1, mask=mask, other=0.0)
        new_count = tl.sum(k, 0)
        new_mean = tl.sum(means * (k / new_count)[None, :], 1)
        d = means - new_mean[:, None]
        new_m2 = tl.sum(m2s + k[None, :] * d * d, 1)
        share = new_count / (count + new_count)
        delta = new_mean - mean
        mean += delta * share
        m2 += new_m2 + delta * (count * share) * delta  # the first time 0: a square may overflow
        count += new_count
    return mean, m2 / count


@triton.jit
def _sum_parts(part_ptr, ng, g_ok, P, BP: tl.constexpr):
    """Return the two sums of groups (BG,), of their parts in a fixed order."""
    first = tl.zeros(ng.shape, tl.float32)
    second = tl.zeros(ng.shape, tl.float32)
    for p0 in range(0, P, BP):
        p = p0 + tl.arange(0, BP)
        offsets = (ng[:, None] * P + p[None, :]) * 2
        mask = g_ok[:, None] & (p < P)[None, :]
        first += tl.sum(tl.load(part_ptr + offsets, mask=mask, other=0.0), 1)
        second += tl.sum(tl.load(part_ptr + offsets + 1, mask=mask, other=0.0), 1)
    return first, second


@triton.jit(do_not_specialize=["G", "P", "S", "CB", "tiles", "units"])
def stats(
    x_ptr, part_ptr,
    C, G, P, S, CB, tiles, units,
    D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
    UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    """Write mean and M2 of each part, (N, G, P, 2): of each lane by Welford, merged by Chan."""
    n, block, s = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, BG, BD)
    ng, g_ok = _groups(n, block, G, D, BG, BD)
    begin, positions = _chunk(s, tiles, L, BL)
    mean = tl.zeros([BG * BD, BL], tl.float32)
    m2 = tl.zeros([BG * BD, BL], tl.float32)
    count = 0.0
    for start in range(0, positions, BL):
        offsets, mask = _tile(n, c, c_ok, begin + start, C, L, BL, NHWC)
        x = _load(x_ptr, offsets, mask)
        count += 1.0
        delta = tl.where(mask, x - mean, 0.0)
        mean += delta * (1.0 / count)
        m2 += delta * (x - mean)
    lane = tl.arange(0, BL)
    k = tl.where(lane < positions, (positions - lane + BL - 1) // BL, 0).to(tl.float32)
    size = _gather(c_ok.to(tl.float32), BG, BD) * positions.to(tl.float32)
    part_mean = _gather(tl.sum(mean * k[None, :], 1), BG, BD) / size
    d = mean - _spread(part_mean, BG, BD)[:, None]
    m2 = tl.where(c_ok, tl.sum(m2 + k[None, :] * d * d, 1), 0.0)
    at = (ng * P + _part(block, s, S, D, BD)) * 2
    tl.store(part_ptr + at, part_mean, mask=g_ok)
    tl.store(part_ptr + at + 1, _gather(m2, BG, BD), mask=g_ok)


@triton.jit(do_not_specialize=["G", "P", "S", "CB", "tiles", "units"])
def apply(
    x_ptr, residual_ptr, y_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, part_ptr,
    eps, RELU: tl.constexpr,
    C, G, P, S, CB, tiles, units,
    D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
    UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    """Write y; mean and rstd too if ``part_ptr`` has what they are merged from."""
    n, block, s = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, BG, BD)
    ng, g_ok = _groups(n, block, G, D, BG, BD)
    if part_ptr is None:
        mean = tl.load(mean_ptr + ng, mask=g_ok, other=0.0)
        rstd = tl.load(rstd_ptr + ng, mask=g_ok, other=0.0)
    else:
        mean, var = _merge_parts(part_ptr, ng, g_ok, P, S, L, tiles, D, BD, BL, BP)
        rstd = _rstd(var, eps)
        # one program for each group. Of "&" with a scalar Triton 3.9's interpreter makes no mask
        first = tl.where(_part(block, s, S, D, BD) == 0, g_ok, False)
        tl.store(mean_ptr + ng, mean, mask=first)
        tl.store(rstd_ptr + ng, rstd, mask=first)
    mean = _spread(mean, BG, BD)[:, None]
    scale = _spread(rstd, BG, BD) * _load(weight_ptr, c, c_ok)
    bias = _load(bias_ptr, c, c_ok)
    begin, positions = _chunk(s, tiles, L, BL)
    for start in range(0, positions, BL):
        offsets, mask = _tile(n, c, c_ok, begin + start, C, L, BL, NHWC)
        y = _affine(_load(x_ptr, offsets, mask) - mean, scale, bias, residual_ptr, offsets, mask)
        _store(y_ptr, offsets, _relu(y, RELU), mask)


@triton.jit(do_not_specialize=["G", "P", "S", "CB", "tiles", "units"])
def whole_forward(
    x_ptr, residual_ptr, y_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,
    eps, RELU: tl.constexpr,
    C, G, P, S, CB, tiles, units,
    D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
    UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    """Write y, mean and rstd."""
    n, block, _ = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, BG, BD)
    ng, g_ok = _groups(n, block, G, D, BG, BD)
    offsets, mask = _tile(n, c, c_ok, 0, C, L, BL, NHWC)
    x = _load(x_ptr, offsets, mask)
    size = L.to(tl.float32) * D
    mean = _gather(tl.sum(x, 1), BG, BD) / size
    centered = x - _spread(mean, BG, BD)[:, None]
    squares = tl.where(mask, centered * centered, 0.0)
    rstd = _rstd(_gather(tl.sum(squares, 1), BG, BD) / size, eps)
    tl.store(mean_ptr + ng, mean, mask=g_ok)
    tl.store(rstd_ptr + ng, rstd, mask=g_ok)
    scale = _spread(rstd, BG, BD) * _load(weight_ptr, c, c_ok)
    y = _affine(centered, scale, _load(bias_ptr, c, c_ok), residual_ptr, offsets, mask)
    _store(y_ptr, offsets, _relu(y, RELU), mask)


@triton.jit(do_not_specialize=["G", "P", "S", "CB", "tiles", "units"])
def reduce(
    x_ptr, residual_ptr, dy_ptr, g_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,
    part_ptr, channel_ptr,
    RELU: tl.constexpr,
    C, G, P, S, CB, tiles, units,
    D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
    UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    """Write the sums of g * xhat and g, with weight of each part (N, G, P, 2), without it of each
    channel (N * S, 2, C), and g itself if there is a ``g_ptr``.
    """
    n, block, s = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, BG, BD)
    ng, g_ok = _groups(n, block, G, D, BG, BD)
    mean = _spread(tl.load(mean_ptr + ng, mask=g_ok, other=0.0), BG, BD)[:, None]
    rstd = _spread(tl.load(rstd_ptr + ng, mask=g_ok, other=0.0), BG, BD)
    weight = _load(weight_ptr, c, c_ok)
    bias = _load(bias_ptr, c, c_ok)
    scale = rstd * weight
    first = tl.zeros([BG * BD, BL], tl.float32)
    second = tl.zeros([BG * BD, BL], tl.float32)
    begin, positions = _chunk(s, tiles, L, BL)
    for start in range(0, positions, BL):
        offsets, mask = _tile(n, c, c_ok, begin + start, C, L, BL, NHWC)
        centered = _load(x_ptr, offsets, mask) - mean
        g = _load(dy_ptr, offsets, mask)
        if RELU:
            y = _affine(centered, scale, bias, residual_ptr, offsets, mask)
            g = _relu_backward(g, y, x_ptr)
        if g_ptr is not None:
            _store(g_ptr, offsets, g, mask)
        first += g * (centered * rstd[:, None])
        second += g
    dweight = tl.sum(first, 1)
    dbias = tl.sum(second, 1)
    row = channel_ptr + (n * S + s) * 2 * C
    tl.store(row + c, dweight, mask=c_ok)
    tl.store(row + C + c, dbias, mask=c_ok)
    at = (ng * P + _part(block, s, S, D, BD)) * 2
    tl.store(part_ptr + at, _gather(dweight * weight, BG, BD), mask=g_ok)
    tl.store(part_ptr + at + 1, _gather(dbias * weight, BG, BD), mask=g_ok)


@triton.jit
def _dx(g, xhat, scale, rstd, first, second, size, BG: tl.constexpr, BD: tl.constexpr):
    """Return dx. First and second are the sums over groups (BG,) of weight * g (* xhat)."""
    slope = _spread(first / size, BG, BD) * rstd
    shift = _spread(second / size, BG, BD) * rstd
    return g * scale[:, None] - shift[:, None] - xhat * slope[:, None]


@triton.jit(do_not_specialize=["G", "P", "S", "CB", "tiles", "units"])
def dx(
    x_ptr, dy_ptr, dx_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, part_ptr,
    RELU: tl.constexpr,
    C, G, P, S, CB, tiles, units,
    D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
    UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    """Write dx, by the sums that ``reduce`` left."""
    n, block, s = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, BG, BD)
    ng, g_ok = _groups(n, block, G, D, BG, BD)
    mean = _spread(tl.load(mean_ptr + ng, mask=g_ok, other=0.0), BG, BD)[:, None]
    rstd = _spread(tl.load(rstd_ptr + ng, mask=g_ok, other=0.0), BG, BD)
    scale = rstd * _load(weight_ptr, c, c_ok)
    bias = _load(bias_ptr, c, c_ok)
    first, second = _sum_parts(part_ptr, ng, g_ok, P, BP)
    size = L.to(tl.float32) * D
    begin, positions = _chunk(s, tiles, L, BL)
    for start in range(0, positions, BL):
        offsets, mask = _tile(n, c, c_ok, begin + start, C, L, BL, NHWC)
        centered = _load(x_ptr, offsets, mask) - mean
        g = _load(dy_ptr, offsets, mask)
        if RELU:
            g = _relu_backward(g, _affine(centered, scale, bias, None, offsets, mask), x_ptr)
        xhat = centered * rstd[:, None]
        _store(dx_ptr, offsets, _dx(g, xhat, scale, rstd, first, second, size, BG, BD), mask)


@triton.jit(do_not_specialize=["G", "P", "S", "CB", "tiles", "units"])
def whole_backward(
    x_ptr, residual_ptr, dy_ptr, g_ptr, dx_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr,
    channel_ptr,
    RELU: tl.constexpr,
    C, G, P, S, CB, tiles, units,
    D: tl.constexpr, BG: tl.constexpr, BD: tl.constexpr, BL: tl.constexpr, BP: tl.constexpr,
    UNIT: tl.constexpr, NHWC: tl.constexpr,
):  # fmt: skip
    """Write dx, the sums over each channel (N, 2, C), and g, each if there is a pointer for it."""
    n, block, _ = _place(S, CB)
    L = units.to(tl.int64) * UNIT
    c, c_ok = _channels(block, C, D, BG, BD)
    ng, g_ok = _groups(n, block, G, D, BG, BD)
    mean = _spread(tl.load(mean_ptr + ng, mask=g_ok, other=0.0), BG, BD)[:, None]
    rstd = _spread(tl.load(rstd_ptr + ng, mask=g_ok, other=0.0), BG, BD)
    weight = _load(weight_ptr, c, c_ok)
    scale = rstd * weight
    offsets, mask = _tile(n, c, c_ok, 0, C, L, BL, NHWC)
    centered = _load(x_ptr, offsets, mask) - mean
    g = _load(dy_ptr, offsets, mask)
    if RELU:
        y = _affine(centered, scale, _load(bias_ptr, c, c_ok), residual_ptr, offsets, mask)
        g = _relu_backward(g, y, x_ptr)
    if g_ptr is not None:
        _store(g_ptr, offsets, g, mask)
    xhat = centered * rstd[:, None]
    dweight = tl.sum(g * xhat, 1)
    dbias = tl.sum(g, 1)
    if channel_ptr is not None:
        row = channel_ptr + n * 2 * C
        tl.store(row + c, dweight, mask=c_ok)
        tl.store(row + C + c, dbias, mask=c_ok)
    if dx_ptr is not None:
        first = _gather(dweight * weight, BG, BD)
        second = _gather(dbias * weight, BG, BD)
        size = L.to(tl.float32) * D
        _store(dx_ptr, offsets, _dx(g, xhat, scale, rstd, first, second, size, BG, BD), mask)
