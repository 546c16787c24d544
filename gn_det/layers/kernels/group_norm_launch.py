"""What a GroupNorm by Triton kernels allocates and launches, forward and backward.

Fake tensors get the same allocations and no launch. Shapes are those of group_norm_triton.py.
"""

import torch
from torch import Tensor

from .group_norm_plan import Plan, plan_for
from .launch import KernelError, launch

__all__ = ["backward", "empty_statistics", "forward", "laid_out_as"]

MODULE = "group_norm_triton"


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    eps: float,
    relu: bool,
    given: bool,
    y: Tensor | None = None,
) -> Tensor:
    """Return y.

    Args:
        x: The input of shape (N, C, *), contiguous or channels_last.
        weight: The scale of each channel, of shape (C,).
        bias: The offset of each channel, of shape (C,).
        residual: A tensor like ``x`` in shape, dtype and memory format that is added, or None.
        mean: The mean of each group, (N, G) in float32, which is filled unless it is given.
        rstd: The reciprocal of the standard deviation, as ``mean``.
        eps: The number that is added to the variance.
        relu: Whether negative results become 0.
        given: Whether ``mean`` and ``rstd`` are given.
        y: The tensor to fill and return, or None for a new one.
    """
    plan = _plan(x, mean)
    y = torch.empty_like(x) if y is None else y
    tensors = (x, residual, y, mean, rstd, weight, bias)
    try:
        if plan.whole and not given:
            _launch("whole_forward", plan, *tensors, options=(float(eps), relu))
            return y
        parts = None
        if not given:
            parts = mean.new_empty(mean.numel() * plan.parts * 2)
            _launch("stats", plan, x, parts)
        _launch("apply", plan, *tensors, parts, options=(float(eps), relu))
    except KernelError:
        _forward_by_pytorch(*tensors, eps, relu, given)
    return y


@torch.no_grad()
def _forward_by_pytorch(
    x: Tensor,
    residual: Tensor | None,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    relu: bool,
    given: bool,
) -> None:
    """Do the same where a kernel has failed."""
    grouped = x.float().reshape(*mean.shape, -1)
    if not given:
        variance, average = torch.var_mean(grouped, dim=2, correction=0)
        mean.copy_(average)
        rstd.copy_(torch.rsqrt(variance + eps))
    normalized = ((grouped - mean[..., None]) * rstd[..., None]).reshape(x.shape)
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    out = normalized * weight.float().view(per_channel) + bias.float().view(per_channel)
    out = out if residual is None else out + residual
    y.copy_(out.relu() if relu else out)


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    relu: bool,
    needs_dx: bool,
    needs_dweight: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return dx, dweight and dbias as one tensor (2, C) in float32, and the residual's gradient.

    Args:
        dy: The gradient of y, in any memory format.
        x: The input as in ``forward``.
        weight: The scale of each channel, of shape (C,).
        bias: The offset of each channel, of shape (C,).
        residual: What was added before a ReLU. None if there was no residual or no ReLU.
        mean: The mean of each group, (N, G) in float32.
        rstd: The reciprocal of the standard deviation, as ``mean``.
        relu: Whether negative results became 0.
        needs_dx: Whether dx is not to be None.
        needs_dweight: Whether dweight and dbias are not to be None.

    Raises:
        KernelError: A kernel could not be compiled or launched.
    """
    plan = _plan(x, mean)
    dy = laid_out_as(x, dy)
    dx = torch.empty_like(x) if needs_dx else None
    # written once, g = dy where y > 0 saves reading the residual a second time
    g = torch.empty_like(x) if residual is not None else None
    sums = None
    if needs_dweight or not plan.whole:
        sums = mean.new_empty(x.shape[0] * plan.chunks, 2, x.shape[1])
    tensors = (mean, rstd, weight, bias)
    if plan.whole:
        _launch("whole_backward", plan, x, residual, dy, g, dx, *tensors, sums, options=(relu,))
    else:
        parts = mean.new_empty(mean.numel() * plan.parts * 2)
        _launch("reduce", plan, x, residual, dy, g, *tensors, parts, sums, options=(relu,))
        if needs_dx:
            given = dy if g is None else g
            _launch("dx", plan, x, given, dx, *tensors, parts, options=(relu and g is None,))
    dweight = sums.sum(0) if needs_dweight and sums is not None else None
    return dx, dweight, dy if g is None else g


def empty_statistics(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Return uninitialized mean and rstd, (N, G) in float32."""
    shape = x.shape[0], num_groups
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.float32)


def laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """Return ``other`` in the memory format of ``x``: itself, or a copy."""
    contiguous = x.is_contiguous()
    return other.contiguous(
        memory_format=torch.contiguous_format if contiguous else torch.channels_last
    )


def _plan(x: Tensor, mean: Tensor) -> Plan:
    n, groups = mean.shape
    c = x.shape[1]
    return plan_for(n, c, x.numel() // (n * c), groups, not x.is_contiguous(), x.device)


def _launch(
    kernel: str, plan: Plan, *tensors: Tensor | None, options: tuple[float, ...] = ()
) -> None:
    """Launch a kernel.

    Args:
        kernel: The name of the kernel.
        plan: The plan for x.
        tensors: The kernel's tensors, the first of them x.
        options: The numbers between the tensors and those of the plan: eps, and whether to ReLU.

    Raises:
        KernelError: The kernel could not be compiled or launched.
    """
    numbers = (*options, *plan.args)
    compiled, warps = plan.compiled, plan.warps
    launch(MODULE, kernel, plan.grid, tensors, numbers, compiled, options, num_warps=warps)
