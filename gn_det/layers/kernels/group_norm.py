"""GroupNorm with a residual and ReLU, by Triton kernels: y = relu(group_norm(x) + residual).

Saved for backward: x, weight, bias, mean, rstd, and residual if a ReLU follows it; never y.

Bytes moved for each element of x in fp16 or bf16 (twice as many in float32), and kernels launched,
forward + backward:

    |                             | general        | groups in one tile |
    | GroupNorm, with ReLU or not | 6 + 10, 2 + 3  | 4 + 6,  1 + 2      |
    | with statistics             | 4 + 10, 1 + 3  | 4 + 6,  1 + 2      |
    | with residual and ReLU      | 8 + 14, 2 + 3  | 6 + 10, 1 + 2      |

6 + 10 is the least where a group does not stay on the chip: x is read for the statistics and for y,
x and dy for the sums and for dx. Groups that fit into one tile are those of RoI heads and of the
last levels of an FPN.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import group_norm_launch as launch
from .launch import KernelError

if hasattr(torch.library, "custom_op"):  # since PyTorch 2.4
    from . import group_norm_op  # noqa: F401

__all__ = ["group_norm"]


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    relu: bool = False,
    residual: Tensor | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y = relu(group_norm(x) + residual), and the mean and rstd of each group.

    Statistics and arithmetic are in float32, and y is rounded once. The results are the same bits
    each time. y can be differentiated in x, weight, bias and residual; mean and rstd cannot.

    Args:
        x: The input of shape (N, C, *), against which ``unsupported(x)`` has nothing.
        num_groups: The number of groups G; it divides C.
        weight: The scale of each channel, of shape (C,) and any floating dtype.
        bias: The offset of each channel, of shape (C,) and any floating dtype.
        eps: The number that is added to the variance.
        relu: Whether negative results become 0.
        residual: A tensor of the shape and dtype of ``x`` that is added before the ReLU, or None.
            It is copied if its memory format is not that of ``x``.
        statistics: The mean and rstd that a former call returned for the same ``x``, in place of
            computing them, or None.

    Returns:
        y with the shape, dtype and memory format of ``x``; mean and rstd, (N, G) in float32.

    Raises:
        ValueError: A shape, dtype or device does not fit.
    """
    _check(x, num_groups, weight, bias, residual, statistics)
    weight, bias = weight.contiguous(), bias.contiguous()
    if residual is not None:
        residual = launch.laid_out_as(x, residual)
    mean, rstd = statistics or (None, None)
    if torch.compiler.is_compiling():
        y, *own = torch.ops.gn_det.group_norm(
            x, weight, bias, residual, mean, rstd, num_groups, eps, relu
        )
        mean, rstd = statistics or (statistic.detach() for statistic in own)
        return y, mean, rstd
    given = mean is not None
    if mean is None or rstd is None:
        mean, rstd = launch.empty_statistics(x, num_groups)
    y = _GroupNorm.apply(x, weight, bias, residual, mean, rstd, eps, relu, given)
    if given:
        # only now: activation checkpointing ends here, by an exception, where no more is needed
        launch.forward(x, weight, bias, residual, mean, rstd, eps, relu, given, y)
    return y, mean, rstd


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, residual, mean, rstd, eps, relu, given):
        if given:
            y = torch.empty_like(x)  # filled after its inputs are saved
        else:
            y = launch.forward(x, weight, bias, residual, mean, rstd, eps, relu, given)
        ctx.save_for_backward(x, weight, bias, residual if relu else None, mean, rstd)
        ctx.eps, ctx.relu = eps, relu
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, residual, mean, rstd = ctx.saved_tensors
        needs_dx, needs_dweight, needs_dbias, needs_dresidual = ctx.needs_input_grad[:4]
        needs_sums = needs_dweight or needs_dbias
        dweight = dbias = None
        try:
            if torch.is_grad_enabled():
                raise KernelError("The kernels have no second derivative; PyTorch has.")
            dx, sums, dresidual = launch.backward(
                dy, x, weight, bias, residual, mean, rstd, ctx.relu, needs_dx, needs_sums
            )
            if sums is not None:
                dweight, dbias = sums.unbind()
                dweight, dbias = dweight.to(weight.dtype), dbias.to(bias.dtype)
        except KernelError:
            dx, dweight, dbias, dresidual = _backward_by_pytorch(
                dy, x, weight, bias, residual, mean.shape[1], ctx.eps, ctx.relu
            )
        grads = dx, dweight, dbias, dresidual if needs_dresidual else None
        return *grads, None, None, None, None, None


def _backward_by_pytorch(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    num_groups: int,
    eps: float,
    relu: bool,
) -> tuple[Tensor, ...]:
    """Return all gradients, where a kernel of backward failed, or where they get gradients."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # views, so that no gradient goes on from one of them to another that it was computed from
        x, weight, bias, added = inputs = [
            t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in (x, weight, bias, torch.zeros_like(x) if residual is None else residual)
        ]
        y = F.group_norm(x.float(), num_groups, weight.float(), bias.float(), eps).to(x.dtype)
        y = y + added
        y = y.relu() if relu else y
    return torch.autograd.grad(y, inputs, dy, create_graph=create_graph)


def _check(
    x: Tensor,
    num_groups: int,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
) -> None:
    """Check what the kernels rely on to stay inside of their memory."""
    if x.dim() < 2:
        raise ValueError(f"GroupNorm needs an input of shape (N, C, *), not {tuple(x.shape)}.")
    channels = x.shape[1]
    if channels % num_groups:
        raise ValueError(f"{num_groups} groups do not divide {channels} channels.")
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(
            f"weight and bias need the shape ({channels},) for an input of shape "
            f"{tuple(x.shape)}, not {tuple(weight.shape)} and {tuple(bias.shape)}."
        )
    if weight.device != x.device or bias.device != x.device:
        raise ValueError(
            f"weight and bias are on {weight.device} and {bias.device}, the input on {x.device}."
        )
    if residual is not None:
        ours, theirs = [(tuple(t.shape), t.dtype, t.device) for t in (residual, x)]
        if ours != theirs:
            raise ValueError(
                f"The residual, {ours[0]} in {ours[1]} on {ours[2]}, needs shape, dtype and device "
                f"of x, {theirs[0]} in {theirs[1]} on {theirs[2]}."
            )
    for t in statistics or ():
        if t.shape != (x.shape[0], num_groups) or t.dtype != torch.float32 or not t.is_contiguous():
            raise ValueError(
                f"The statistics need the shape ({x.shape[0]}, {num_groups}) in float32 and to be "
                f"contiguous, not {tuple(t.shape)} in {t.dtype}."
            )
