"""GroupNorm by Triton kernels as one operator of PyTorch, for torch.compile and torch.export.

Eager calls do without it, since an operator written in Python takes the host five times as long as
an ``autograd.Function``.
"""

import torch
from torch import Tensor

from . import group_norm_launch as launch

__all__: list[str] = []


@torch.library.custom_op("gn_det::group_norm", mutates_args=())
def _group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    num_groups: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    given = mean is not None
    # what an operator returns may not be what it was given
    own_mean, own_rstd = launch.empty_statistics(x, num_groups)
    if mean is not None and rstd is not None:
        own_mean.copy_(mean)
        own_rstd.copy_(rstd)
    y = launch.forward(x, weight, bias, residual, own_mean, own_rstd, eps, relu, given)
    return y, own_mean, own_rstd


@_group_norm.register_fake
def _(x, weight, bias, residual, mean, rstd, num_groups, eps, relu):
    return torch.empty_like(x), *launch.empty_statistics(x, num_groups)


@torch.library.custom_op("gn_det::group_norm_backward", mutates_args=())
def _group_norm_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, dweight with dbias, and the residual's gradient or an empty tensor."""
    dx, sums, g = launch.backward(dy, x, weight, bias, residual, mean, rstd, relu, True, True)
    assert dx is not None
    assert sums is not None
    return dx, sums, x.new_empty(0) if residual is None else g


@_group_norm_backward.register_fake
def _(dy, x, weight, bias, residual, mean, rstd, relu):
    g = x.new_empty(0) if residual is None else torch.empty_like(x)
    return torch.empty_like(x), mean.new_empty(2, x.shape[1]), g


def _save(ctx, inputs, output):
    x, weight, bias, residual, _, _, _, _, ctx.relu = inputs
    ctx.save_for_backward(x, weight, bias, residual if ctx.relu else None, *output[1:])


def _backward(ctx, dy, *_):
    x, weight, bias, residual, mean, rstd = ctx.saved_tensors
    dx, sums, g = torch.ops.gn_det.group_norm_backward(
        dy, x, weight, bias, residual, mean, rstd, ctx.relu
    )
    dresidual = (dy if residual is None else g) if ctx.needs_input_grad[3] else None
    dweight, dbias = sums[0].to(weight.dtype), sums[1].to(bias.dtype)
    return dx, dweight, dbias, dresidual, None, None, None, None, None


_group_norm.register_autograd(_backward, setup_context=_save)
