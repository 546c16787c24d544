"""Group Normalization with statistics in float32, for an input of any dtype and memory format.

PyTorch's own operator is not enough in three cases: a GPU input in low precision with float32
weights, channels_last on a GPU, and large means in channels_last on a CPU.

Shapes:
    N: images or RoIs
    C: channels
    G: groups
    D: channels per group, C / G
    L: spatial positions
"""

import math

import torch
from torch.autograd.function import once_differentiable

__all__ = ["group_norm_fp32_stats"]


def group_norm_fp32_stats(
    x: torch.Tensor, num_groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float = 1e-5
) -> torch.Tensor:
    """Normalize ``x``. Statistics and affine step are in float32 (float64 for a float64 input).

    The variance is the mean of squared differences from the mean: large means do not cancel.
    Saved for backward are ``x`` in its own dtype, ``weight``, and mean and rstd of each group.

    Args:
        x: The input of shape (N, C, *) and any floating dtype. N may be 0.
        num_groups: The number of groups G; it divides C.
        weight: The scale of each channel, of shape (C,) and any floating dtype, which is also the
            dtype of its gradient.
        bias: The offset of each channel, of shape (C,) and any floating dtype.
        eps: The number that is added to the variance.

    Returns:
        A tensor of the shape and dtype of ``x``, channels_last if ``x`` is, otherwise contiguous.
        It can be differentiated once.
    """
    if not x.numel():
        return x + 0 * (weight.sum() + bias.sum()).to(x.dtype)  # var_mean would warn
    return _GroupNorm.apply(x, num_groups, weight, bias, eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, num_groups, weight, bias, eps):
        compute_dtype = torch.promote_types(x.dtype, torch.float32)
        grouped = _widen_on_cpu(_split(x, num_groups), compute_dtype)
        mean, var = _moments(grouped, compute_dtype)
        rstd = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        scale = rstd * _per_channel(weight, num_groups, compute_dtype)
        shift = _per_channel(bias, num_groups, compute_dtype) - mean * scale
        return _multiply_add(grouped, scale, shift, like=x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight, mean, rstd = ctx.saved_tensors
        num_groups, compute_dtype = mean.shape[1], mean.dtype
        grouped, dy = (_widen_on_cpu(_split(t, num_groups), compute_dtype) for t in (x, dy))
        xhat = (grouped - _to_channels(mean, grouped)).mul_(_to_channels(rstd, grouped))
        dbias = dy.sum(3, keepdim=True, dtype=compute_dtype)  # still one sum per image
        dweight = (xhat * dy).sum(3, keepdim=True)
        dx = None
        if ctx.needs_input_grad[0]:
            # with g = weight * dy: rstd * (g - mean(g) - xhat * mean(g * xhat))
            w = _per_channel(weight, num_groups, compute_dtype)
            factor = rstd / -(grouped.shape[2] * grouped.shape[3])
            slope, shift = (
                _to_channels(factor * (w * d).sum(2, keepdim=True), grouped)
                for d in (dweight, dbias)
            )
            rest = torch.addcmul(shift, xhat, slope, out=xhat)
            dx = _multiply_add(dy, w * rstd, rest, like=x)
        dweight, dbias = (d.sum(0).flatten().to(weight.dtype) for d in (dweight, dbias))
        return dx, None, dweight, dbias, None


def _moments(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and variance of (N, G, D, L) over D and L, each of shape (N, G, 1, 1)."""
    if not _on_cpu(x):
        var, mean = torch.var_mean(x.to(dtype), dim=(2, 3), correction=0, keepdim=True)
        return mean, var
    # on a CPU var_mean is not vectorized, and a sum is only vectorized over the last dimension
    size = x.shape[2] * x.shape[3]
    mean = x.sum(3, keepdim=True).sum(2, keepdim=True) / size
    centered = x - _to_channels(mean, x)
    return mean, centered.mul_(centered).sum(3, keepdim=True).sum(2, keepdim=True) / size


def _on_cpu(x: torch.Tensor) -> bool:
    return x.device.type == "cpu"


def _split(x: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Return (N, C, *) as (N, G, D, L): a view if x is contiguous or channels_last."""
    channels = x.shape[1]
    return x.reshape(len(x), num_groups, channels // num_groups, math.prod(x.shape[2:]))


def _to_channels(statistic: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Copy (N, G, 1, 1) to (N, G, D, 1): broadcasting one number per channel is fast everywhere."""
    return statistic.expand(-1, -1, x.shape[2], -1).contiguous()


def _widen_on_cpu(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert ``x`` to ``dtype`` on a CPU, where mixed dtypes are slow. A GPU needs no copy."""
    return x.to(dtype) if _on_cpu(x) else x


def _multiply_add(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, like: torch.Tensor
) -> torch.Tensor:
    """Return ``a * b + c`` with shape, dtype and memory format of ``like``, rounded once.

    The result is not a view, so that an in-place ReLU may follow.
    """
    other = like.dim() == 4 and not like.is_contiguous()
    channels_last = other and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty_like(like, memory_format=layout)
    target = _split(out, a.shape[1])
    if _on_cpu(a):
        target.copy_(torch.addcmul(c, a, b))
    else:
        torch.addcmul(c, a, b, out=target)  # no float32 tensor in between
    return out


def _per_channel(p: torch.Tensor, num_groups: int, dtype: torch.dtype) -> torch.Tensor:
    return p.to(dtype).view(1, num_groups, -1, 1)
